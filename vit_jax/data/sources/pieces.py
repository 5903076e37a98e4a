"""Encoded images that lie one behind the other in files, each found by its place."""

import os
import resource
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from vit_jax.data.sources.source import Split
from vit_jax.errors import UserError
from vit_jax.system.progress import say

T = TypeVar("T")
ARRAYS = {"offsets": np.int64, "lengths": np.int64, "checks": np.uint32}  # of a file's images, (N,) each


class Opened(Generic[T]):
    """What was opened for a few of many files, by their number: those used last stay open. Safe in many threads.

    What is put away closes when the last thread that still reads from it is done: by its __del__.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._open: OrderedDict[int, T] = OrderedDict()
        # Half of the files that this process may have open (1,024 on most machines); the rest are others'.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = 1024 if limit == resource.RLIM_INFINITY else max(min(limit // 2, 1024), 1)

    def __call__(self, number: int) -> T:
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        made = self._make(number)  # without the lock: on a network's disk this takes a while
        with self._lock:
            kept = self._open.setdefault(number, made)
            self._open.move_to_end(number)
            if len(self._open) > self._most:
                self._open.popitem(last=False)
            return kept


class _File:
    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Pieces:
    """Records (data/records.py) of which each is a range of bytes of a file, with a CRC-32 that every reading checks.

    `counts` (F,) says how many each file has; `places` has the ARRAYS of all, in the order of the files.
    """

    def __init__(self, files: list[Path], counts: list[int], places: Mapping[str, np.ndarray], remedy: str) -> None:
        self._files, self._remedy = files, remedy
        self._ends = np.cumsum(counts)  # (F,)
        self._offsets, self._lengths, self._checks = (places[name] for name in ARRAYS)
        self._opened = Opened(lambda number: _File(files[number]))

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: np.ndarray) -> list[bytes]:
        """The images `index` (M,) int64. Raises UserError, with the name, for one that isn't as it was."""
        index = np.asarray(index, np.int64)
        numbers = np.searchsorted(self._ends, index, side="right")
        columns = (numbers, self._offsets[index], self._lengths[index], self._checks[index])
        return [self._one(i, *map(int, row)) for i, *row in zip(index.tolist(), *columns, strict=True)]

    def _one(self, i: int, number: int, offset: int, length: int, check: int) -> bytes:
        try:
            file = self._opened(number)  # held until it is read: another thread may put it away meanwhile
            content = os.pread(file.descriptor, length, offset)
        except OSError as error:
            raise UserError(f"{self.name(i)} can't be read ({error.strerror}); {self._remedy}") from error
        if zlib.crc32(content) != check:
            found = "differs from its checksum" if len(content) == length else "ends behind the end of its file"
            raise UserError(f"{self.name(i)} can't be read (it {found}); {self._remedy}")
        return content

    def name(self, index: int) -> str:
        """The file, and the image's number in it, from 0."""
        number, place = place_of(self._ends, index)
        return f"{self._files[number]}, image {place:,}"


def place_of(ends: np.ndarray, index: int) -> tuple[int, int]:
    """The number of the file that holds an image, and the image's number in it; `ends` (F,) sums the files' counts."""
    number = int(np.searchsorted(ends, index, side="right"))
    return number, index - int(ends[number - 1] if number else 0)


def check_places(arrays: Mapping[str, np.ndarray], count: int, largest: int) -> None:
    """Raises ValueError or KeyError if the arrays are no places of so many images in files of such bytes."""
    for name, kind in ARRAYS.items():
        if arrays[name].dtype != kind or arrays[name].shape != (count,):
            raise ValueError(f"{name}: {arrays[name].dtype} {arrays[name].shape}, not {count:,} {np.dtype(kind)}")
    lengths = arrays["lengths"]
    if count and (arrays["offsets"].min() < 0 or lengths.min() < 0 or lengths.max() > largest):
        raise ValueError("an image that lies outside of its file")


def check_labels(labels: np.ndarray, count: int, classes: int) -> None:
    """Raises ValueError if they are no labels of so many images; -1 stands for none."""
    if labels.dtype != np.int32 or labels.shape != (count,):
        raise ValueError(f"labels: {labels.dtype} {labels.shape}, not {count:,} int32")
    if count and not -1 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"a label that is none of the {classes} classes")


def labelled(splits: dict[str, Split]) -> dict[str, Split]:
    """Those splits whose images all have a class, which of the others -1 says; they are named in a line."""
    without = {split: int((found.labels < 0).sum()) for split, found in splits.items()}
    for split, count in without.items():
        if count:
            say(f"Left out: {split}, of whose {len(splits[split].labels):,} images {count:,} have no class.")
    return {split: found for split, found in splits.items() if not without[split]}
