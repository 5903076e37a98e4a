"""Decoded data sets on disk: uint8 arrays that the next start maps back in under a second.

One folder a data set: `{split}_images.npy`, `{split}_labels.npy` and `index.json` with each file's sha256. It is
written under a temporary name and renamed, so that it appears whole or not at all, also when two runs start at once.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError


def folder(cache: Path, name: str, identity: dict[str, Any]) -> Path:
    """Where a data set of this identity (anything JSON that changes when its content does) is kept."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache / f"{name}-{digest[:16]}"


def newest(cache: Path, name: str) -> Path | None:
    """The last written folder of a data set's name, whatever its identity."""
    found = [p.parent for p in cache.glob(f"{name}-*/index.json") if "damaged" not in p.parent.name]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def read(path: Path) -> DataSet | None:
    """The data set in a cache folder, memory-mapped; None if it isn't there.

    A folder whose content differs from its checksums, or is no data set though they are right, is renamed to
    `...damaged-TIME` and counts as absent. Raises OSError if the folder can't be read.
    """
    if not (path / "index.json").is_file():
        return None
    try:
        index = _read_index(path / "index.json")
        for name, expected in index["sha256"].items():
            if not (path / name).is_file():  # a pipe, say, on which open() would wait
                raise ValueError(f"{name} is no file")
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise ValueError(f"{name} differs from its checksum")
        splits = {split: _map(path, split, len(index["classes"])) for split in index["splits"]}
        digest = hashlib.sha256(json.dumps(index["sha256"], sort_keys=True).encode()).hexdigest()
        return DataSet(index["name"], tuple(index["classes"]), splits, digest)
    except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError, RecursionError, OverflowError) as error:
        aside = path.with_name(f"{path.name}-damaged-{int(time.time())}")
        with contextlib.suppress(OSError):  # a shared, read-only cache; or another run was first
            os.replace(path, aside)
            print(f"The cached arrays in {path} are damaged ({error}); set aside as {aside.name}, made anew.")
        return None


def _read_index(file: Path) -> dict[str, Any]:
    """The index, in which all names are those that `write` gives: no file outside the folder can be meant.

    Raises ValueError, RecursionError or KeyError if it is no index.
    """
    index = json.loads(file.read_text())
    if not isinstance(index, dict) or not isinstance(index["name"], str) or not isinstance(index["sha256"], dict):
        raise ValueError("index.json is no index")
    for key in ("classes", "splits"):
        if not isinstance(index[key], list) or not all(isinstance(text, str) for text in index[key]):
            raise ValueError(f"index.json: {key!r} is no list of names")
    if not all(re.fullmatch(r"\w+", split, re.ASCII) for split in index["splits"]):
        raise ValueError("index.json: a split whose name is no word")
    # Also the other way round: what is mapped was checked.
    if set(index["sha256"]) != {f"{split}_{part}.npy" for split in index["splits"] for part in Examples._fields}:
        raise ValueError("index.json: other files than the splits'")
    return index


def _map(folder: Path, split: str, classes: int) -> Examples:
    """The arrays of a split, memory-mapped. Raises ValueError if they are no labelled images of so many classes."""
    images, labels = (
        np.load(folder / f"{split}_{part}.npy", mmap_mode="r", allow_pickle=False) for part in Examples._fields
    )
    if not all(isinstance(array, np.memmap) for array in (images, labels)):  # np.load opens .npz archives, too
        raise ValueError(f"{split}: no array")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"{split}: images {images.dtype} {images.shape}, not uint8 (N, H, W, 3)")
    if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
        raise ValueError(f"{split}: labels {labels.dtype} {labels.shape} for {len(images)} images, not int32")
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise ValueError(f"{split}: a label that is none of the {classes} classes")
    return Examples(images, labels)


def write(path: Path, dataset: DataSet) -> DataSet:
    """Keeps a data set in `path` and gives it back memory-mapped. If another run was first, its copy is used.

    Raises UserError if the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        digests = {}
        for split, examples in dataset.splits.items():
            for part, array in examples._asdict().items():
                file = temporary / f"{split}_{part}.npy"
                np.save(file, array, allow_pickle=False)
                with file.open("rb") as stream:
                    digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
                    os.fsync(stream.fileno())
        index = {"name": dataset.name, "classes": dataset.classes, "splits": list(dataset.splits), "sha256": digests}
        (temporary / "index.json").write_text(json.dumps(index, indent=2))
        try:
            os.rename(temporary, path)
        except OSError:
            if not (path / "index.json").is_file():  # not the other run's copy but a real failure
                raise
    except OSError as error:
        raise UserError(
            f"the cache {path.parent} can't be written ({error.strerror}); name another folder with "
            "--config.data.cache_dir or $VIT_JAX_CACHE"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read(path) or dataset
