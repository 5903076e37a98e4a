"""Arrays on disk that the next start maps back at once: decoded data sets, and indices of encoded ones.

One folder each: `{name}.npy` for every array, and `index.json` with each file's sha256 and what the arrays are. It is
written under a temporary name and renamed, so that it appears whole or not at all, also when two runs start at once;
what a killed run has left there is removed by the next that writes. A data set's arrays are `{split}_images` and
`{split}_labels`.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.data.encoded import EncodedImages
from vit_jax.data.streaming import batches
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.system.disk import locked
from vit_jax.system.progress import say

Arrays = Mapping[str, np.ndarray]

_BATCH = 256  # images decoded at a time


class Blocks(NamedTuple):
    """An array that is made as it is written and is never whole in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Iterable[np.ndarray]  # parts of it along its first axis, in order


def folder(cache: Path, name: str, identity: dict[str, Any]) -> Path:
    """Where what has this identity (anything JSON that changes when its content does) is kept."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache / f"{_word(name)}-{digest[:16]}"


def _word(name: str) -> str:
    """A name like tfds:NAME/CONFIG without what means something in paths and to programs that copy them."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def made_of(cache: Path, name: str) -> Iterator[dict[str, Any]]:
    """What the folders of this name, of any identity, say of their arrays; what can't be read is passed over."""
    for path in _folders(cache, name):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            yield _read_index(path / "index.json")


def newest(cache: Path, name: str, sha256: str = "") -> Path | None:
    """The last written folder of a data set's name, of any identity; with a DataSet's `sha256`, of its content."""
    found = [path for path in _folders(cache, name) if not sha256 or _sha256(path) == sha256]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def _folders(cache: Path, name: str) -> list[Path]:
    """Those of this name that aren't set aside."""
    return [p.parent for p in cache.glob(f"{_word(name)}-*/index.json") if "damaged" not in p.parent.name]


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
    """Keeps a data set in `path` and gives it back memory-mapped; encoded images are decoded as they are written.

    If another run was first, its copy is used. Raises UserError if the folder can't be written, and for an image that
    can't be decoded.
    """
    about: dict[str, Any] = {"name": dataset.name, "classes": dataset.classes, "splits": list(dataset.splits)}
    about["view"] = None if dataset.view is None else dataclasses.asdict(dataset.view)
    arrays: dict[str, np.ndarray | Blocks] = {}
    for split, (images, labels) in dataset.splits.items():
        if isinstance(images, EncodedImages):
            arrays[f"{split}_images"] = Blocks(images.shape, images.dtype, batches(images, _BATCH))
        else:
            arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = labels
    with filled(path) as temporary:
        fill(temporary, about, arrays)
    found = read(path)
    if found is None:
        raise UserError(f"the arrays {path} were damaged as soon as they were written; look after their disk")
    return found


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
    _clear(path.parent)
    temporary = path.with_name(f".{path.name}.{_machine()}{uuid.uuid4().hex[8:]}")
    try:
        temporary.mkdir(parents=True)
        with locked(temporary, fcntl.LOCK_SH):  # which ends with the process, however that ends
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


def _clear(cache: Path) -> None:
    """Removes what killed runs of this machine have left: whole data sets, perhaps, under names that nobody reads."""
    for left in cache.glob(f".*.{_machine()}*"):
        with contextlib.suppress(OSError):
            # An empty one may be new and not locked yet. The cache may lie in a folder with other things.
            if re.fullmatch(r"\.\w+-[0-9a-f]{16}\.[0-9a-f]{32}", left.name) and any(left.iterdir()):
                with locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
                    if alone:
                        shutil.rmtree(left)


def _machine() -> str:
    """Eight hexadecimal digits: of some disks that machines share, each machine knows its own locks alone."""
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def unwritable(cache: Path, error: OSError) -> UserError:
    """What is said of a cache in which there is no room, say."""
    reason = error.strerror or " ".join(str(error).split())  # NumPy's, of a full disk, has no number
    return UserError(
        f"the cache {cache} can't be written ({reason}); name another folder with --config.data.cache_dir or "
        "$VIT_JAX_CACHE"
    )


def fill(temporary: Path, about: dict[str, Any], arrays: Mapping[str, np.ndarray | Blocks]) -> None:
    """Writes arrays and the index into the folder that `filled` gave. Raises OSError, which `filled` explains."""
    digests = {}
    for name, array in arrays.items():
        file = temporary / f"{name}.npy"
        with file.open("wb") as stream:
            digests[file.name] = _save(_Hashed(stream), array)
            stream.flush()
            os.fsync(stream.fileno())
    (temporary / "index.json").write_text(json.dumps(about | {"sha256": digests}, indent=2))


class _Hashed:
    """A file that is being written, and the sha256 of what has been: reading it again for that would take as long."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._stream.write(data)


def _save(out: _Hashed, array: np.ndarray | Blocks) -> str:
    """Writes an array as NumPy does, and gives the file's sha256."""
    if isinstance(array, Blocks):
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(out, header)
        # Written, not mapped: into a sparse file that is mapped, a full disk would end the process (SIGBUS).
        for block in array.blocks:
            out.write(np.ascontiguousarray(block).data)
    else:
        np.save(out, array, allow_pickle=False)
    return out.sha256.hexdigest()
