"""Hostile archives write nothing and take neither time nor memory; only those that are known are read."""

import gzip
import pickle
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from batches import NAMES, batch, expected, load, pin, write_pickles

from vit_jax.data.sources import cifar_files
from vit_jax.errors import UserError


def member(name, content=b"", form=tarfile.GNU_FORMAT, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(form) + content + bytes(-len(content) % 512)


def batches(folder="cifar-10-batches-py/"):
    contents = [pickle.dumps({b"data": d, b"labels": n}, 2) for d, n in (batch(i) for i in range(len(NAMES)))]
    return b"".join(member(folder + name, content) for name, content in zip(NAMES, contents, strict=True))


def link(name, kind, target="/etc/passwd"):
    return member(name, type=kind, linkname=target)


def pax(name, text):
    return member(name, text, type=tarfile.XHDTYPE)


HOSTILE_TARS = {
    # Read as if they were harmless: the data is right and nothing is written.
    "parent names": lambda: batches("../../outside/"),
    "absolute names": lambda: batches("/tmp/outside/"),
    "symlink": lambda: link("x/data_batch_1", tarfile.SYMTYPE) + batches(),
    "hardlink": lambda: link("x/data_batch_1", tarfile.LNKTYPE) + batches(),
    "device": lambda: member("data_batch_1", type=tarfile.CHRTYPE, devmajor=1, devminor=5) + batches(),
    "block device": lambda: member("data_batch_1", type=tarfile.BLKTYPE, devmajor=8) + batches(),
    "fifo": lambda: member("data_batch_1", type=tarfile.FIFOTYPE) + batches(),
    "folder": lambda: member("x/data_batch_1/", type=tarfile.DIRTYPE) + batches(),
    "other files": lambda: member("../../outside/evil.py", b"boom") + batches(),
    "renamed by pax": lambda: pax("x", b"30 path=../../outside/evil.py\n") + batches(),
    "pax to choke on": lambda: pax("x", b"1" * 2_000_000) + batches(),
    # Refused.
    "duplicates": lambda: batches() + batches(),
    "links only": lambda: b"".join(link(f"x/{name}", tarfile.SYMTYPE) for name in NAMES),
    "10 GB": lambda: member("x/data_batch_1", size=10**10) + batches(),
    "10 GB by pax": lambda: member("x/data_batch_1", size=10**10, form=tarfile.PAX_FORMAT) + batches(),
    "10 GB of a pax header": lambda: member("x", size=10**10, type=tarfile.XHDTYPE) + batches(),
    "negative size": lambda: negative(member("x/data_batch_1")) + batches(),
    "100,000 members": lambda: b"".join(member(f"x/{i}") for i in range(1000)) * 100 + batches(),
    "no tar": lambda: b"x" * 10_000,
    "cut": lambda: batches()[:-30_000],
    "empty": lambda: b"",
    "2 GB of zeros": lambda: None,
}
READ = list(HOSTILE_TARS)[: list(HOSTILE_TARS).index("duplicates")]


def negative(header):
    """A header whose size is -1024 in the GNU form of large numbers, with its checksum mended."""
    header = header[:124] + b"\xff" * 10 + b"\xfc\x00" + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_hostile_tars(tmp_path, kind, monkeypatch):
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    content = HOSTILE_TARS[kind]()
    if content is None:  # a small file that unpacks to much
        archive.write_bytes(gzip.compress(bytes(2**20), 9) * 2048)
    else:
        archive.write_bytes(gzip.compress(content + bytes(1024), 1))
    files = {p for p in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"found [\d,]+ bytes, expected .*170,498,071.*or, if you trust it, unpack"):
        load("cifar10_batches", dir=str(archive))
    pin(monkeypatch, archive)
    tracemalloc.start()
    started = time.process_time()
    if kind in READ:
        splits = load("cifar10_batches", dir=str(archive)).splits
        np.testing.assert_array_equal(splits["train"].images, expected()[0])
        np.testing.assert_array_equal(splits["train"].labels, expected()[1])
    else:
        with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz"):
            load("cifar10_batches", dir=str(archive))
    assert time.process_time() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    tracemalloc.stop()
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts} == files
    assert not Path("/tmp/outside").exists()


def test_an_archive_is_known_by_its_bytes_not_its_name(tmp_path, monkeypatch):
    archive = tmp_path / "renamed.bin"
    archive.write_bytes(gzip.compress(batches()))
    pin(monkeypatch, archive)
    assert len(load("cifar10_batches", dir=str(archive)).splits["test"].labels) == 7
    changed = bytearray(archive.read_bytes())
    changed[4] ^= 1  # in gzip's header: the time, which no checksum of gzip covers
    archive.write_bytes(changed)
    with pytest.raises(UserError, match=r"renamed\.bin is not.*found sha256 [0-9a-f]{64}, expected cifar-10-python.*"):
        load("cifar10_batches", dir=str(archive))


def test_an_archive_is_hashed_only_if_its_size_is_right(tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with archive.open("wb") as file:
        file.truncate(10**12)  # sparse: hashing it would take an hour
    with pytest.raises(UserError, match="found 1,000,000,000,000 bytes"):
        load("cifar10_batches", dir=str(archive))


def test_the_archive_that_was_hashed_is_read_though_its_name_changes_hands(tmp_path, monkeypatch):
    archive, other = tmp_path / "cifar-10-python.tar.gz", tmp_path / "other"
    archive.write_bytes(gzip.compress(batches()))
    other.write_bytes(b"hostile")
    pin(monkeypatch, archive)
    digest = cifar_files.hashlib.file_digest

    def swap(stream, name):
        hashed = digest(stream, name)
        if other.exists():
            other.replace(archive)
        return hashed

    monkeypatch.setattr(cifar_files.hashlib, "file_digest", swap)
    read = cifar_files.read([archive])
    assert archive.read_bytes() == b"hostile"
    np.testing.assert_array_equal(read["train"].images, expected()[0])


def test_the_pins_are_those_of_tfds_and_keras():
    assert list(cifar_files.ARCHIVES) == ["cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"]
    keras = pytest.importorskip("keras")
    source = (Path(keras.__file__).parent / "src/datasets/cifar10.py").read_text()
    assert cifar_files.ARCHIVES["cifar-10-python.tar.gz"][1] in source
    tfds = pytest.importorskip("tensorflow_datasets")
    sums = (Path(tfds.__file__).parent / "url_checksums/cifar10.txt").read_text().split()
    assert sums[1:3] == list(map(str, cifar_files.ARCHIVES["cifar-10-binary.tar.gz"]))


@pytest.mark.parametrize("name", ["data_batch_2", "cifar-10-python.tar.gz"])
def test_files_that_cannot_be_read_are_named(tmp_path, name, monkeypatch):
    write_pickles(tmp_path) if "tar" not in name else (tmp_path / name).touch()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open" if "tar" in name else "read_bytes", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        cifar_files.read(cifar_files.find(str(tmp_path)))
