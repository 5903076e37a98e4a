"""CIFAR-10 as its authors distribute it: python pickles or binary records, in a folder or the unopened .tar.gz.

Whatever a file claims, reading it runs nothing of it: pickles may only build the few types that a batch consists
of, and of an archive only the members with the expected names are read, never extracted.
"""

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.dataset import Examples
from vit_jax.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, green and blue planes
_MAX_FILE = 64 * 2**20  # bytes; the largest real batch has 31,035,704
_MAX_ARCHIVE = 2**30  # bytes after decompression; the real one has 186 million


def find(where: str) -> list[Path]:
    """The files to read: six batches, or one archive. Raises UserError if `where` holds neither."""
    root = Path(where).expanduser()
    if root.is_file():
        return [root]
    for folder in _FOLDERS:
        for suffix in ("", ".bin"):
            files = [root / folder / (name + suffix) for names in BATCHES.values() for name in names]
            if all(file.is_file() for file in files):
                return files
    for name in _ARCHIVES:
        if (root / name).is_file():
            return [root / name]
    found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise UserError(
        f"config.data.dir={where!r} holds no CIFAR-10: expected data_batch_1 to data_batch_5 and test_batch "
        f"(with or without .bin), or {' or '.join(_ARCHIVES)}; found {found}"
    )


def read(files: list[Path]) -> dict[str, Examples]:
    """The train and test examples of the files that `find` gave. Raises UserError for a file that is no batch."""
    contents = _read_archive(files[0]) if len(files) == 1 else {f.name: _read_file(f) for f in files}
    splits = {}
    for split, names in BATCHES.items():
        parts = []
        for name in names:
            if name in contents:
                parts.append(_parse_pickle(contents[name], name))
            elif name + ".bin" in contents:
                parts.append(_parse_binary(contents[name + ".bin"], name + ".bin"))
            else:
                raise UserError(f"{files[0]}: no {name} in it; found {', '.join(sorted(contents)) or 'no batch'}")
        splits[split] = Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return splits


def _read_file(file: Path) -> bytes:
    if file.stat().st_size > _MAX_FILE:
        raise UserError(f"{file} has {file.stat().st_size:,} bytes; a CIFAR-10 batch has at most 31,035,704")
    return file.read_bytes()


def _read_archive(file: Path) -> dict[str, bytes]:
    """Contents of the batches in a tar archive by their file names; other members are passed over."""
    wanted = {name + suffix for names in BATCHES.values() for name in names for suffix in ("", ".bin")}
    contents = {}
    try:
        with gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for _, member in zip(range(1000), archive, strict=False):  # the real one has 9 members
                name = member.name.rsplit("/", 1)[-1]
                if name in wanted and name not in contents and member.isfile() and member.size <= _MAX_FILE:
                    contents[name] = archive.extractfile(member).read()
            for _ in range(_MAX_ARCHIVE // 2**20):  # to the end, where gzip checks its checksum
                if not stream.read(2**20):
                    break
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{file} is no readable archive ({error}); fetch it again") from error
    return contents


def _parse_binary(content: bytes, name: str) -> Examples:
    if not content or len(content) % _RECORD:
        raise UserError(f"{name} has {len(content):,} bytes; CIFAR-10 records have {_RECORD} each")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return _examples(records[:, 1:], records[:, 0], name)


def _parse_pickle(content: bytes, name: str) -> Examples:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{name} is no CIFAR-10 batch ({type(error).__name__}: {error})") from error
    if not isinstance(batch, dict):
        raise UserError(f"{name} is no CIFAR-10 batch: holds a {type(batch).__name__}, not a dictionary")
    batch = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _RECORD - 1:
        raise UserError(f"{name} is no CIFAR-10 batch: 'data' is not an array of N x 3072 bytes")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise UserError(f"{name} is no CIFAR-10 batch: 'labels' is not a list of whole numbers")
    return _examples(data, np.array(labels), name)


def _examples(planes: np.ndarray, labels: np.ndarray, name: str) -> Examples:
    """Rows of 3,072 bytes and their labels as images (N, 32, 32, 3)."""
    if len(planes) != len(labels) or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(CLASSES):
        raise UserError(f"{name} is no CIFAR-10 batch: {len(planes)} images, {len(labels)} labels, or one not in 0-9")
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return Examples(np.ascontiguousarray(images), labels.astype(np.int32))


# Stands for the type numpy.ndarray, which a pickle only hands on: called, it would make arrays over any memory.
_NDARRAY = object()


def _array(subtype: object, shape: tuple[int, ...], _: Any) -> np.ndarray:
    """Stands for numpy's _reconstruct, which a pickle calls for an empty array that it fills afterwards."""
    if subtype is not _NDARRAY or shape != (0,):
        raise UserError("refused: an array that is not built as NumPy builds it")
    return np.empty(0, np.uint8)


def _dtype(name: str | bytes, *_: Any) -> np.dtype:
    """Stands for numpy.dtype: bytes only, so that no array of objects can be made."""
    if name not in ("u1", b"u1"):
        raise UserError(f"refused: an array of dtype {name!r}")
    return np.dtype("u1")


def _bytes(text: str, encoding: str | bytes) -> bytes:
    """Stands for codecs.encode, as which protocol 2 writes bytes."""
    if encoding not in ("latin1", b"latin1"):
        raise UserError(f"refused: the codec {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and arrays of bytes, and knows no other name."""

    _ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): _array,  # as NumPy 1 wrote it
        ("numpy._core.multiarray", "_reconstruct"): _array,
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _dtype,
        ("_codecs", "encode"): _bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise UserError(f"refused: it asks for {module}.{name}, which no CIFAR-10 batch contains")
        return self._ADMITTED[module, name]
