"""CIFAR-10 as its authors distribute it: python pickles or binary records, in a folder or the unopened .tar.gz.

Whatever a file claims, reading it runs nothing of it: pickles are read by pickled.py, which only builds
the few types that a batch consists of. An archive must be one that the authors distribute, to the byte, and of it only
the members with the expected names are read, never extracted.
"""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np

from vit_jax.data.dataset import Examples
from vit_jax.data.sources import pickled
from vit_jax.errors import UserError
from vit_jax.system.disk import expanded

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
# Bytes and sha256 of the authors' archives, as the lists of TFDS and Keras have them, too.
ARCHIVES = {
    "cifar-10-python.tar.gz": (170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    "cifar-10-binary.tar.gz": (170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
}
_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_REMEDY = f"fetch CIFAR-10 again from {_PAGE}"
_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, green and blue planes
_MAX_FILE = pickled.MAX_BYTES
_MAX_ARCHIVE = 256 * 2**20  # bytes after decompression; the real ones have 186 million
_MAX_MEMBERS = 1000  # the real ones have 9
_WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


def find(where: str) -> list[Path]:
    """The files to read: six batches, or one archive. Raises UserError if `where` holds neither."""
    root = expanded(where)
    if root.is_file():
        return [root]
    for folder in _FOLDERS:
        for suffix in ("", ".bin"):
            files = [root / folder / (name + suffix) for names in BATCHES.values() for name in names]
            if all(file.is_file() for file in files):
                return files
    for name in ARCHIVES:
        if (root / name).is_file():
            return [root / name]
    found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else "no such folder"
    raise UserError(
        f"config.data.dir={where!r} holds no CIFAR-10: expected data_batch_1 to data_batch_5 and test_batch "
        f"(with or without .bin), or {' or '.join(ARCHIVES)}; found {found}"
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
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= _MAX_FILE else b""
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); mend its permissions or {_REMEDY}") from error
    if size > _MAX_FILE:
        raise UserError(f"{file} has {size:,} bytes; a CIFAR-10 batch has at most 31,035,704; {_REMEDY}")
    return content


def _read_archive(file: Path) -> dict[str, memoryview]:
    """Contents of the batches in a tar archive by their file names; other members are passed over."""
    wanted = {name + suffix for names in BATCHES.values() for name in names for suffix in ("", ".bin")}
    contents = {}
    try:
        # One open file for all: what is read is what was checked, whatever is renamed meanwhile.
        with file.open("rb") as stream:
            _check_archive(stream, file)
            with gzip.open(stream) as unpacked:
                content = unpacked.read(_MAX_ARCHIVE + 1)  # to the end, where gzip checks its checksum
        if len(content) > _MAX_ARCHIVE:
            raise tarfile.TarError(f"more than {_MAX_ARCHIVE:,} bytes unpacked")
        for path, part in _members(content):
            name = path.rsplit("/", 1)[-1]
            if name in contents:
                raise tarfile.TarError(f"two members named {name}")
            if name in wanted and len(part) <= _MAX_FILE:
                contents[name] = part
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{file} is no readable archive ({error}); {_REMEDY}") from error
    return contents


def _check_archive(stream: BufferedReader, file: Path) -> None:
    """Leaves the stream at its start. Raises UserError unless size and sha256 are those of an archive in ARCHIVES."""
    size = os.fstat(stream.fileno()).st_size
    found, expected = f"{size:,} bytes", [f"{name} with {known:,} bytes" for name, (known, _) in ARCHIVES.items()]
    same_size = [(name, digest) for name, (known, digest) in ARCHIVES.items() if known == size]
    if same_size:  # only then is it worth the second that hashing takes
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        if digest in [known for _, known in same_size]:
            return
        found, expected = f"sha256 {digest}", [f"{name} with {known}" for name, known in same_size]
    raise UserError(
        f"{file} is not CIFAR-10 as its authors distribute it: found {found}, expected {' or '.join(expected)}; "
        f"fetch it again from {_PAGE}, or, if you trust it, unpack it and name the folder"
    )


def _members(content: bytes) -> Iterator[tuple[str, memoryview]]:
    """Name and content of each regular file in a tar archive, without copies. Raises TarError for a damaged one.

    Simpler than tarfile's own walk, so that no header of a hostile archive leads anywhere but further on: of tarfile
    it only takes the parser of one header. The headers that lengthen names are passed over, as are sparse files.
    """
    start, block = 0, tarfile.BLOCKSIZE
    for _ in range(_MAX_MEMBERS):
        header = content[start : start + block]
        if not header.strip(b"\0"):
            return
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        start += block
        size = 0 if member.type in _WITHOUT_CONTENT else member.size
        if not 0 <= size <= len(content) - start:
            raise tarfile.TarError(f"a member of {size:,} bytes where {len(content) - start:,} are left")
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield member.name, memoryview(content)[start : start + size]
        start += -(-size // block) * block
    raise tarfile.TarError(f"more than {_MAX_MEMBERS:,} members")


def _parse_binary(content: bytes | memoryview, name: str) -> Examples:
    if not content or len(content) % _RECORD:
        raise UserError(f"{name} has {len(content):,} bytes; CIFAR-10 records have {_RECORD} each; {_REMEDY}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return _examples(records[:, 1:], records[:, 0], name)


def _parse_pickle(content: bytes | memoryview, name: str) -> Examples:
    try:
        batch = pickled.read(bytes(content))
    except UserError as error:
        raise UserError(f"{name} is no CIFAR-10 batch: {error}; {_REMEDY}") from error
    if not isinstance(batch, dict):
        raise UserError(f"{name} is no CIFAR-10 batch: holds a {type(batch).__name__}, not a dictionary; {_REMEDY}")
    batch = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.shape[1] != _RECORD - 1:
        raise UserError(f"{name} is no CIFAR-10 batch: 'data' is not an array of N x 3072 bytes; {_REMEDY}")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        raise UserError(f"{name} is no CIFAR-10 batch: 'labels' is not a list of whole numbers from 0 to 9; {_REMEDY}")
    return _examples(data, np.array(labels, np.int32), name)


def _examples(planes: np.ndarray, labels: np.ndarray, name: str) -> Examples:
    """Rows of 3,072 bytes and their labels as images (N, 32, 32, 3)."""
    if len(planes) != len(labels) or labels.max(initial=0) >= len(CLASSES):
        raise UserError(
            f"{name} is no CIFAR-10 batch: {len(planes)} images, {len(labels)} labels, or one not in 0-9; {_REMEDY}"
        )
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return Examples(np.ascontiguousarray(images), labels.astype(np.int32))
