"""Arrays on disk that the next start maps back at once: decoded data sets, and indices of encoded ones.

One folder each: `{name}.npy` for every array, and `index.json` with each file's sha256 and what the arrays are. It is
written under a temporary name and renamed, so that it appears whole or not at all, also when two runs start at once.
A data set's arrays are `{split}_images` and `{split}_labels`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.system.progress import say

Arrays = Mapping[str, np.ndarray]


def folder(cache: Path, name: str, identity: dict[str, Any]) -> Path:
    """Where what has this identity (anything JSON that changes when its content does) is kept."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache / f"{_word(name)}-{digest[:16]}"


def _word(name: str) -> str:
    """A name like tfds:NAME/CONFIG without what means something in paths and to programs that copy them."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def newest(cache: Path, name: str, sha256: str = "") -> Path | None:
    """The last written folder of a data set's name, of any identity; with a DataSet's `sha256`, of its content."""
    found = [p.parent for p in cache.glob(f"{_word(name)}-*/index.json") if "damaged" not in p.parent.name]
    found = [path for path in found if not sha256 or _sha256(path) == sha256]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def _sha256(path: Path) -> str:
    """What `read` gives a data set; "" for a damaged folder."""
    try:
        return _digest(_read_index(path / "index.json"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about["sha256"], sort_keys=True).encode()).hexdigest()


def read_arrays(
    path: Path, check: Callable[[dict[str, Any], Arrays], None] = lambda about, arrays: None
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """(about, arrays) of a cache folder, memory-mapped; None if it isn't there. `about` has the `sha256`, too.

    A folder whose content differs from its checksums, or of which `check` raises ValueError, KeyError or TypeError
    though they are right, is renamed to `...damaged-TIME` and counts as absent. Raises UserError if the folder can't be
    read.
    """
    try:
        if not (path / "index.json").is_file():
            return None
        about = _read_index(path / "index.json")
        for name, expected in about["sha256"].items():
            if not (path / name).is_file():  # a pipe, say, on which open() would wait
                raise ValueError(f"{name} is no file")
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise ValueError(f"{name} differs from its checksum")
        arrays = {name.removesuffix(".npy"): _map(path / name) for name in about["sha256"]}
        check(about, arrays)
        return about, arrays
    except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError, RecursionError, OverflowError) as error:
        aside = path.with_name(f"{path.name}-damaged-{int(time.time())}")
        with contextlib.suppress(OSError):  # a shared, read-only cache; or another run was first
            os.replace(path, aside)
            say(f"The cached arrays in {path} are damaged ({error}); set aside as {aside.name}, made anew.")
        return None
    except OSError as error:
        raise UserError(f"the cache {path} can't be read ({error.strerror}); mend its permissions") from error


def _read_index(file: Path) -> dict[str, Any]:
    """The index, in which all names are those that `fill` gives: no file outside the folder can be meant.

    Raises ValueError, RecursionError or KeyError if it is no index.
    """
    index = json.loads(file.read_text())
    if not isinstance(index, dict) or not isinstance(index["sha256"], dict):
        raise ValueError("index.json is no index")
    if not all(re.fullmatch(r"\w+\.npy", name, re.ASCII) for name in index["sha256"]):
        raise ValueError("index.json: an array whose name is no word")
    return index


def _map(file: Path) -> np.ndarray:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):  # np.load opens .npz archives, too
        raise ValueError(f"{file.name} is no array")
    return array


def read(path: Path) -> DataSet | None:
    """The data set in a cache folder, memory-mapped; None if it isn't there. Damaged ones as in `read_arrays`."""
    found = read_arrays(path, _check_data_set)
    if found is None:
        return None
    about, arrays = found
    splits = {split: Examples(*(arrays[f"{split}_{part}"] for part in Examples._fields)) for split in about["splits"]}
    return DataSet(about["name"], tuple(about["classes"]), splits, _digest(about), view=_view_of(about))


def _view_of(about: dict[str, Any]) -> View | None:
    """Raises ValueError, KeyError or TypeError for one that is none."""
    found = about.get("view")  # version 0.1.0 wrote none
    if found is None:
        return None
    height, width = map(int, found["size"])
    return View((height, width), int(found["channels"]), float(found["crop_pct"]), str(found["interpolation"]))


def _check_data_set(about: dict[str, Any], arrays: Arrays) -> None:
    """Raises ValueError or KeyError if the arrays are no labelled images of the classes and splits."""
    if not isinstance(about["name"], str):
        raise ValueError("index.json: 'name' is no text")
    _view_of(about)
    for key in ("classes", "splits"):
        if not isinstance(about[key], list) or not all(isinstance(text, str) for text in about[key]):
            raise ValueError(f"index.json: {key!r} is no list of names")
    if set(arrays) != {f"{split}_{part}" for split in about["splits"] for part in Examples._fields}:
        raise ValueError("index.json: other arrays than the splits'")
    classes, channels = len(about["classes"]), set()
    for split in about["splits"]:
        images, labels = (arrays[f"{split}_{part}"] for part in Examples._fields)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"{split}: images {images.dtype} {images.shape}, not uint8 (N, H, W, 3) or (N, H, W, 1)")
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise ValueError(f"{split}: labels {labels.dtype} {labels.shape} for {len(images)} images, not int32")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
            raise ValueError(f"{split}: a label that is none of the {classes} classes")
        channels.add(images.shape[3])
    if len(channels) > 1:
        raise ValueError("some splits are grey, others in colour")


def write(path: Path, dataset: DataSet) -> DataSet:
    """Keeps a data set in `path` and gives it back memory-mapped. If another run was first, its copy is used.

    Raises UserError if the folder can't be written.
    """
    about: dict[str, Any] = {"name": dataset.name, "classes": dataset.classes, "splits": list(dataset.splits)}
    about["view"] = None if dataset.view is None else dataclasses.asdict(dataset.view)
    arrays = {
        f"{split}_{part}": array
        for split, examples in dataset.splits.items()
        for part, array in examples._asdict().items()
    }
    with filled(path) as temporary:
        fill(temporary, about, arrays)
    return read(path) or dataset


def write_arrays(path: Path, about: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Keeps arrays, whose names are words, and what they are (JSON) in `path`; gives both back memory-mapped.

    If another run was first, its copy is used. Raises UserError if the folder can't be written.
    """
    with filled(path) as temporary:
        fill(temporary, about, arrays)
    return read_arrays(path) or (about, dict(arrays))


@contextlib.contextmanager
def filled(path: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `path` at the end, whole; it is removed if the end isn't reached.

    If another run was first, its copy stays. Raises UserError if the folder can't be written, as `fill` does.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            if not (path / "index.json").is_file():  # not the other run's copy but a real failure
                raise
    except OSError as error:
        raise unwritable(path.parent, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unwritable(cache: Path, error: OSError) -> UserError:
    """What is said of a cache in which there is no room, say."""
    reason = error.strerror or " ".join(str(error).split())  # NumPy's, of a full disk, has no number
    return UserError(
        f"the cache {cache} can't be written ({reason}); name another folder with --config.data.cache_dir or "
        "$VIT_JAX_CACHE"
    )


def fill(temporary: Path, about: dict[str, Any], arrays: Arrays) -> None:
    """Writes arrays and the index into the folder that `filled` gave. Raises OSError, which `filled` explains."""
    digests = {}
    for name, array in arrays.items():
        file = temporary / f"{name}.npy"
        np.save(file, array, allow_pickle=False)
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
    (temporary / "index.json").write_text(json.dumps(about | {"sha256": digests}, indent=2))
