"""The examples of TFDS's files in any order: an index of each split, made once, and what reads by it."""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import cache
from vit_jax.data.records import Records
from vit_jax.data.sources import example
from vit_jax.data.sources.pieces import ARRAYS, Opened, Pieces, check_labels, check_places, labelled, place_of
from vit_jax.data.sources.source import Split
from vit_jax.data.sources.tfds_info import Info, Shards
from vit_jax.errors import UserError
from vit_jax.system.progress import say

_REMEDY = "copy the data set again, or prepare it again"
_GZIP = b"\x1f\x8b"
_AT_ONCE = 16  # records that are held in memory, of each file that is being indexed: some may have many megabytes

Columns = dict[str, np.ndarray]  # of the examples of one file or of all, (N,) each


def files_of(info: Info) -> list[tuple[str, int, int] | None]:
    """Name, size and time of each file, in order; None for one that is missing, which is told when it is opened."""
    files = [file for shards in info.splits.values() for file in shards.files]
    return [_stat(file) if file.exists() else None for file in files]


def open_splits(info: Info, store: Path, tensorflow: Callable[[], Any]) -> dict[str, Split]:
    """All splits with classes, in the files' order: example after example, file after file.

    What is read is checked: CRC and form of every record when the index is made, the CRC-32 of an image's bytes each
    time it is read (of array_record: the library's own checksums). `tensorflow` imports it, for the index of tfrecord
    alone. Raises UserError for missing and damaged files.
    """
    return labelled({split: _open(info, split, shards, store, tensorflow) for split, shards in info.splits.items()})


def _open(info: Info, split: str, shards: Shards, store: Path, tensorflow: Callable[[], Any]) -> Split:
    stats = [_stat(file) for file in shards.files]
    identity = {"version": 1, "of": [info.name, info.version, info.image, info.label], "files": stats}
    path, count = cache.folder(store, f"index_{info.name}_{split}", identity), sum(shards.counts)

    def check(_: dict[str, Any], arrays: cache.Arrays) -> None:
        check_labels(arrays["labels"], count, len(info.classes))
        if info.format == "tfrecord":
            check_places(arrays, count, max(size for _, size, _ in stats))

    found = cache.read_arrays(path, check)
    if found is None:
        say(f"Reading the {count:,} records of {info.name}'s {split} once, for where they are and their labels ...")
        columns = _index(info, shards, tensorflow)
        found = cache.write_arrays(path, {"name": info.name, "split": split}, columns)
    arrays = found[1]
    records: Records
    if info.format == "tfrecord":
        records = Pieces(shards.files, shards.counts, arrays, _REMEDY)
    else:
        records = ArrayRecords(shards, info.image)
    return Split(records, arrays["labels"])


def _stat(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); {_REMEDY}") from error
    return file.name, stat.st_size, stat.st_mtime_ns


def _index(info: Info, shards: Shards, tensorflow: Callable[[], Any]) -> Columns:
    """The columns of a split: labels and, of tfrecord, the ARRAYS. Several files at once; what is kept is small."""
    tf = tensorflow() if info.format == "tfrecord" else None
    kinds = {"labels": np.int32} | (ARRAYS if tf else {})

    def one(number: int) -> Columns:
        file = shards.files[number]
        try:
            rows = _places(tf, file, info) if tf else _labels(file, info)
            table = np.fromiter(rows, np.dtype((np.int64, len(kinds))))  # (N, K)
        except UserError:
            raise
        except Exception as error:  # TensorFlow, array_record and example.py raise many types for damaged files
            text = re.sub(r"\{\{.*?\}\}", "", " ".join(str(error).split()))[:160].strip()  # without TensorFlow's node
            if _starts_with(file, _GZIP):
                text = "it is compressed with gzip, in which no record can be found by its place"
            raise UserError(f"{file} can't be read ({type(error).__name__}: {text}); {_REMEDY}") from error
        if len(table) != shards.counts[number]:
            found = f"{len(table):,} records, where dataset_info.json says {shards.counts[number]:,}"
            raise UserError(f"{file} can't be read (it has {found}); {_REMEDY}")
        return {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(kinds.items())}

    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        parts = list(pool.map(one, range(len(shards.files))))
    finally:
        pool.shutdown(cancel_futures=True)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _places(tf: Any, file: Path, info: Info) -> Iterator[tuple[int, int, int, int]]:
    """(label, offset, length, CRC-32) of the images of a file of tfrecord, whose own checksums are checked.

    A record is its length in 8 bytes, a CRC of that in 4, the data, and a CRC of these in 4
    (tensorflow/core/lib/io/record_writer.h).
    """
    start = 12
    for batch in tf.data.TFRecordDataset(str(file)).batch(_AT_ONCE).as_numpy_iterator():
        for record in batch:
            label, (begin, end) = _parse(record, info)
            yield label, start + begin, end - begin, zlib.crc32(memoryview(record)[begin:end])
            start += len(record) + 4 + 12


def _labels(file: Path, info: Info) -> Iterator[tuple[int]]:
    """(label,) of the examples of a file of array_record, whose own checksums the library checks."""
    reader = _reader(file)
    count = reader.num_records()
    for start in range(0, count, _AT_ONCE):
        for record in reader.read(start, min(start + _AT_ONCE, count)):
            yield (_parse(record, info)[0],)


def _parse(record: bytes, info: Info) -> tuple[int, example.Span]:
    """An example's label, and where its image lies in the record. Raises ValueError for one without them."""
    features = example.features(record)
    label = example.only_integer(record, features.get(info.label.encode()))
    if not -1 <= label < len(info.classes):
        raise ValueError(f"the label {label} is none of the {len(info.classes)} classes")
    return label, example.only_bytes(record, features.get(info.image.encode()))


def _reader(file: Path) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise UserError(
            f"{file.name} needs the package array_record ({error}), which there is for Linux and Python up to 3.13; or "
            "prepare the data set as tfrecord"
        ) from error
    # As array_record's own ArrayRecordDataSource opens files for random access.
    options = "readahead_buffer_size:0,max_parallelism:0"
    return ArrayRecordReader(str(file), options=options, file_reader_buffer_size=32_768)


def _starts_with(file: Path, start: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(start)) == start
    except OSError:
        return False


class ArrayRecords:
    """Records (data/records.py) in files of array_record, of which the library finds each by its number."""

    def __init__(self, shards: Shards, image: str) -> None:
        self._files, self._image = shards.files, image.encode()
        self._ends = np.cumsum(shards.counts)  # (F,)
        self._opened = Opened(lambda number: _reader(shards.files[number]))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: np.ndarray) -> list[bytes]:
        """The images `index` (M,) int64. Raises UserError, with the name, for one that can't be read."""
        return [self._one(i) for i in np.asarray(index, np.int64).tolist()]

    def _one(self, i: int) -> bytes:
        number, place = place_of(self._ends, i)
        try:
            reader = self._opened(number)
            (record,) = reader.read([place])
            begin, end = example.only_bytes(record, example.features(record).get(self._image))
        except UserError:
            raise
        except Exception as error:  # array_record raises RuntimeError, IndexError and others
            text = " ".join(str(error).split())[:160]
            raise UserError(f"{self.name(i)} can't be read ({type(error).__name__}: {text}); {_REMEDY}") from error
        return record[begin:end]

    def name(self, index: int) -> str:
        """The file, and the image's number in it, from 0."""
        number, place = place_of(self._ends, index)
        return f"{self._files[number]}, image {place:,}"
