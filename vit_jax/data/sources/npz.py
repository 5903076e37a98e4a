"""Images and labels in NumPy's .npz archives: plain, MedMNIST's or Keras' names.

Whatever an archive claims, reading it runs nothing of it, and what its arrays would take in memory is known from
their headers before any of them is read.
"""

import lzma
import os
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError
from vit_jax.system.disk import expanded

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "valid": "validation", "test": "test"}
_FORMS = (
    "images and labels; train_images, train_labels, test_images and so on (MedMNIST's); or x_train, y_train, x_test, "
    "y_test (Keras')"
)
_NAMES = ("classes", "class_names")
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,  # an encrypted archive
    NotImplementedError,  # a compression that zipfile doesn't know
    RecursionError,
    OverflowError,
    MemoryError,
)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


class _Pair(NamedTuple):
    """Where the images and the labels of a split lie."""

    file: Path
    images: str
    labels: str


def files_of(configured: str | None) -> list[Path]:
    """The archives in config.data.dir, or the one that it is. Raises UserError where there is none."""
    if configured is None:
        raise UserError("config.data.name=npz needs config.data.dir: an .npz, or a folder with train.npz and test.npz")
    root = expanded(configured)
    if root.is_file():
        return [root]
    files = sorted(root.glob("*.npz")) if root.is_dir() else []
    named = [file for file in files if file.stem in _SPLITS]
    if named or len(files) == 1:
        return named or files
    found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise UserError(f"config.data.dir={configured!r}: expected an .npz, or train.npz and test.npz; found {found}")


def identity(files: list[Path]) -> dict[str, Any]:
    """Changes when one of the archives does."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"version": 1, "files": stats}


def read(files: list[Path]) -> DataSet:
    """The images as they are stored, (N, H, W, 3) or (N, H, W, 1) uint8, of the archives that `files_of` gave.

    Raises UserError for other arrays and for archives that can't be read.
    """
    headers = {file: _headers(file) for file in files}
    pairs: dict[str, _Pair] = {}
    for file in files:
        # Of several files each is a split, whose arrays are images and labels, or the only ones with its name.
        of = _SPLITS.get(file.stem) if len(files) > 1 else None
        found = _pairs(file, headers[file], of)
        if of is not None:
            found = {split: pair for split, pair in found.items() if split == of}
        if not found:
            arrays = ", ".join(f"{name} {header.shape}" for name, header in headers[file].items())
            raise UserError(f"{file} has none of the arrays that are read: {_FORMS}; found {arrays or 'no array'}")
        pairs |= found
    _check_room(pairs, headers)
    splits = {split: _split(pair, headers[pair.file]) for split, pair in pairs.items()}
    splits = {split: examples for split, examples in splits.items() if len(examples.labels)}
    if "train" not in splits:
        raise UserError(f"{files[0]}: no images to train on; found {', '.join(splits) or 'no image at all'}")
    shapes = {split: examples.images.shape[1:] for split, examples in splits.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{files[0]}: the images of all splits must have the same shape; found {shapes}")
    return DataSet("npz", _classes(files, headers, splits), splits)


def _headers(file: Path) -> dict[str, _Header]:
    """Shape and dtype of each array of an archive, of whose content nothing else is read."""
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    if version not in ((1, 0), (2, 0)):
                        raise ValueError(f"{member.filename} is of version {version} of NumPy's format")
                    read_header = (
                        np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read_header(stream)
                    nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
                    if min(shape, default=1) < 0 or (
                        not dtype.hasobject and stream.tell() + nbytes != member.file_size
                    ):
                        raise ValueError(f"{member.filename} claims {nbytes:,} bytes and hasn't as many")
                found[member.filename.removesuffix(".npy")] = _Header(shape, dtype)
    except _BROKEN as error:
        raise _unreadable(file, error) from error
    return found


def _unreadable(file: Path, error: BaseException) -> UserError:
    text = " ".join(str(error).split())[:160]
    return UserError(f"{file} can't be read ({type(error).__name__}: {text}); fetch it again or write it anew")


def _pairs(file: Path, arrays: dict[str, _Header], of: str | None) -> dict[str, _Pair]:
    """The splits that an archive has, by its arrays' names; plain images and labels are the split `of`, or train."""
    candidates = [(of or "train", "images", "labels")]
    if of is not None:
        candidates += [(of, "x", "y")]
    for name, split in _SPLITS.items():
        candidates += [(split, f"{name}_images", f"{name}_labels"), (split, f"x_{name}", f"y_{name}")]
    return {split: _Pair(file, x, y) for split, x, y in candidates if x in arrays and y in arrays}


def _check_room(pairs: dict[str, _Pair], headers: dict[Path, dict[str, _Header]]) -> None:
    """Raises UserError if the arrays take more than this machine's memory, as a small archive may claim."""
    needed = 0
    for pair in pairs.values():
        for name in (pair.images, pair.labels):
            shape, dtype = headers[pair.file][name]
            needed += int(np.prod(shape, dtype=object)) * dtype.itemsize
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"{next(iter(pairs.values())).file}: its arrays have {needed / 2**30:,.1f} GiB once unpacked, and this "
            f"machine {memory / 2**30:,.1f} GiB of memory; write larger sets as folders of images, parquet or TFDS"
        )


def _array(file: Path, name: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return archive[name]  # to its end, where zipfile checks its checksum
    except _BROKEN as error:
        raise _unreadable(file, error) from error


def _split(pair: _Pair, headers: dict[str, _Header]) -> Examples:
    """A split's images (N, H, W, C) uint8 and labels (N,) int32. Raises UserError for arrays of another form."""
    file, images_name, labels_name = pair
    shape, dtype = headers[images_name]
    what = f"{file}: {images_name} is {dtype} {shape}"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise UserError(f"{what}, with its channels first; write it as {images_name}.transpose(0, 2, 3, 1)")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
        raise UserError(f"{what}; images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if dtype != np.uint8:
        remedy = f"({images_name} * 255).round().astype(np.uint8)" if dtype.kind == "f" else "astype(np.uint8)"
        raise UserError(f"{what}, not uint8 from 0 to 255; convert it first, with {remedy} if it fits")
    count, (of_labels, kind) = shape[0], headers[labels_name]
    if kind.kind not in "iu" or of_labels not in ((count,), (count, 1)):
        raise UserError(
            f"{file}: {labels_name} is {kind} {of_labels}; labels must be one integer for each image: ({count},) or "
            f"({count}, 1)"
        )
    labels = _array(file, labels_name).reshape(-1)  # (N, 1) -> (N,)
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < 2**31:
        raise UserError(f"{file}: {labels_name} goes from {labels.min()} to {labels.max()}; labels count from 0")
    images = np.ascontiguousarray(_array(file, images_name))
    channels = shape[3] if len(shape) == 4 else 1
    return Examples(images.reshape(*shape[:3], channels), labels.astype(np.int32))  # (N, H, W) -> (N, H, W, C)


def _classes(
    files: list[Path], headers: dict[Path, dict[str, _Header]], splits: dict[str, Examples]
) -> tuple[str, ...]:
    """As the archive names them, else the labels' numbers, none of which may be left out of the train split."""
    most = max(int(examples.labels.max()) for examples in splits.values()) + 1
    for file in files:
        for name in _NAMES:
            if name in headers[file]:
                shape, dtype = headers[file][name]
                if dtype.kind not in "US" or len(shape) != 1 or shape[0] < most:
                    raise UserError(
                        f"{file}: {name} is {dtype} {shape}; it must have the names of all {most} classes as text, "
                        "np.array([...])"
                    )
                names = tuple(map(str, _array(file, name).astype(str)))
                if twice := [found for found, count in Counter(names).items() if count > 1]:
                    raise UserError(f"{file}: {name} has {twice[0]!r} twice or more; give each class its own name")
                return names
    used = np.unique(splits["train"].labels)
    if len(used) != most:
        missing = sorted(set(range(min(most, len(used) + 9))) - set(used.tolist()))[:8]
        raise UserError(
            f"{files[0]}: labels must be 0, 1, 2 and so on up to the last class, {most - 1}; the train split has no "
            f"{', '.join(map(str, missing))}. Number the classes anew, or add their names as an array called classes"
        )
    return tuple(map(str, range(most)))
