"""Decoded data sets on disk: uint8 arrays that the next start maps back in under a second.

One folder a data set: `{split}_images.npy`, `{split}_labels.npy` and `index.json` with each file's sha256. It is
written under a temporary name and renamed, so that it appears whole or not at all, also when two runs start at once.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError


def root(configured: str | None) -> Path:
    """The cache's folder: as configured, else $VIT_JAX_CACHE, else ~/.cache/vit_jax."""
    return Path(configured or os.environ.get("VIT_JAX_CACHE") or "~/.cache/vit_jax").expanduser().absolute()


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

    A folder whose content differs from its checksums is renamed to `...damaged-TIME` and counts as absent.
    """
    if not (path / "index.json").is_file():
        return None
    try:
        index = json.loads((path / "index.json").read_text())
        for name, expected in index["sha256"].items():
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise ValueError(f"{name} differs from its checksum")
        splits = {
            split: Examples(*(_map(path / f"{split}_{part}.npy") for part in Examples._fields))
            for split in index["splits"]
        }
        digest = hashlib.sha256(json.dumps(index["sha256"], sort_keys=True).encode()).hexdigest()
        return DataSet(index["name"], tuple(index["classes"]), splits, digest)
    except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError) as error:
        aside = path.with_name(f"{path.name}-damaged-{int(time.time())}")
        with contextlib.suppress(OSError):  # a shared, read-only cache; or another run was first
            os.replace(path, aside)
            print(f"The cached arrays in {path} are damaged ({error}); set aside as {aside.name}, made anew.")
        return None


def _map(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


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
