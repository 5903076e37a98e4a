"""The cache gives back what was written; damaged and hostile copies are set aside."""

import builtins
import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from batches import Canary, load, small
from folders import make

from vit_jax.cli.prepare import prepare
from vit_jax.data import cache
from vit_jax.errors import UserError


def test_the_cache_gives_back_what_was_written(tmp_path):
    cache.write(tmp_path / "small-1", small())
    again = cache.read(tmp_path / "small-1")
    assert again.classes == ("a", "b") and isinstance(again.splits["train"].images, np.memmap)
    np.testing.assert_array_equal(again.splits["test"].images, small().splits["test"].images)


def test_what_was_prepared_is_named(tmp_path, capsys):
    make(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png")
    for size in (8, 16, 8):  # the last is there already, and not what was written last
        prepare("image_folder", str(tmp_path / "pets"), str(tmp_path / "cache"), size)
        where = re.search(r"^in (.*)", capsys.readouterr().out, re.MULTILINE)[1]
        assert cache.read(Path(where)).splits["train"].images.shape == (2, size, size, 3)
    with pytest.raises(UserError, match=r"at 40000 pixels a side would take 8\.9 GiB.*nothing to prepare"):
        prepare("image_folder", str(tmp_path / "pets"), str(tmp_path / "cache"), 40_000)
    with pytest.raises(UserError, match="tfds:nosuch"):
        prepare("tfds:nosuch", str(tmp_path / "pets"), str(tmp_path / "cache"), 8)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete", "index"])
def test_damaged_caches_are_set_aside(tmp_path, damage, capsys):
    path = tmp_path / "small-1"
    cache.write(path, small())
    file = path / ("index.json" if damage == "index" else "train_images.npy")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    file.write_bytes(content if damage == "flip" else content[: {"cut": 100, "index": 20}.get(damage, 0)])
    if damage == "delete":
        file.unlink()
    assert cache.read(path) is None
    assert not path.exists() and list(tmp_path.glob("small-1-damaged-*")) and "damaged" in capsys.readouterr().out
    np.testing.assert_array_equal(cache.write(path, small()).splits["train"].images, small().splits["train"].images)


def test_a_cache_that_cannot_be_written_is_named():
    with pytest.raises(UserError, match=r"/proc/nowhere can't be written.*cache_dir"):
        load("digits", cache_dir="/proc/nowhere")


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    make(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png")
    original = Path.open

    def full(self, *args, **more):
        return original(Path("/dev/full") if self.name == "train_images.npy" else self, *args, **more)

    # A sparse file mapped to memory would end the process instead, as the first of its pages finds no room.
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"cache can't be written \(No space left"):
        load("image_folder", dir=str(tmp_path / "pets"), cache_dir=str(tmp_path / "cache"))
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["image_folder_index"]


def test_images_are_decoded_straight_to_their_place(tmp_path, monkeypatch):
    make(tmp_path / "pets", *(f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(300)))
    sizes, original = [], cache.batches

    def watched(images, size):
        for batch in original(images, size):
            assert len(batch) <= 256
            sizes.append(sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*_images.npy")))
            yield batch

    monkeypatch.setattr(cache, "batches", watched)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # Pillow is there sooner
    images = load("image_folder", dir=str(tmp_path / "pets")).splits["train"].images
    assert sizes == [0, 128 + 256 * 32 * 32 * 3, 128 + 512 * 32 * 32 * 3]  # each is on disk before the next is decoded
    stream = io.BytesIO()
    np.save(stream, images)  # whose checksum runs remember
    assert Path(images.filename).read_bytes() == stream.getvalue()


_KILLED = """
import os, signal, sys
sys.modules["tensorflow"] = None  # Pillow is there sooner
from batches import load
from vit_jax.data import cache
from vit_jax.system.disk import cache_root

original = cache.batches

def killed(images, size):
    for batch in original(images, 64):
        yield batch
        if any(file.stat().st_size for file in cache_root().rglob("*_images.npy")):
            os.kill(os.getpid(), signal.SIGKILL)

cache.batches = killed
load("image_folder", dir=sys.argv[1])
"""


@pytest.mark.slow
def test_what_was_being_decoded_at_a_kill_is_neither_read_nor_left(tmp_path):
    make(tmp_path / "pets", *(f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(99)))
    path = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[2])))
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "pets")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert done.returncode == -9, done.stderr
    (left,) = (tmp_path / "cache").glob(".image_folder-*/train_images.npy")
    assert left.stat().st_size and cache.newest(tmp_path / "cache", "image_folder") is None
    assert load("image_folder", dir=str(tmp_path / "pets")).splits["train"].images.shape == (198, 32, 32, 3)
    assert not list((tmp_path / "cache").glob(".*"))


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    whole = tmp_path / "one-0123456789abcdef"
    with cache.filled(whole) as written:
        (written / "a.npy").write_bytes(b"a")
        # Of this machine's, one was left by a run that is gone, and one is so new that it isn't locked yet.
        killed, new = (written.with_name(written.name[:-4] + end) for end in ("aaaa", "bbbb"))
        elsewhere, no_cache = tmp_path / f".{whole.name}.{'0' * 32}", tmp_path / f".a.{written.name[-32:]}"
        for folder in (killed, elsewhere, no_cache):
            folder.mkdir()
            (folder / "a.npy").write_bytes(b"a")
        new.mkdir()
        cache.write(tmp_path / "small-1", small())
        assert set(tmp_path.iterdir()) == {tmp_path / "small-1", written, elsewhere, no_cache, new}
    assert (whole / "a.npy").exists()


def test_two_starts_at_once_end_with_one_whole_copy(tmp_path):
    path, results = tmp_path / "small-1", []
    threads = [threading.Thread(target=lambda: results.append(cache.write(path, small()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and [p.name for p in tmp_path.iterdir()] == ["small-1"]
    assert all((r.splits["train"].images == small().splits["train"].images).all() for r in results)
    assert json.loads((path / "index.json").read_text())["splits"] == ["train", "test"]


def test_a_data_set_is_carried_in_pieces(tmp_path, monkeypatch):
    from scripts import carry_data

    with pytest.raises(UserError, match=r"holds no digits; run vit-jax prepare"):
        carry_data.cut("digits", tmp_path / "pieces", 1)
    here = load("digits")
    files = carry_data.cut("digits", tmp_path / "pieces", 0.1)
    assert len(files) > 4 and all(file.stat().st_size <= 0.1 * 2**20 for file in files)
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "there"))
    aside = files[1].rename(tmp_path / "forgotten")
    with pytest.raises(UserError, match=r"of 1,797 images; carry the missing ones"):
        carry_data.join(tmp_path / "pieces")
    aside.rename(files[1])
    there = cache.read(carry_data.join(tmp_path / "pieces"))
    assert there.sha256 == here.sha256 and there.classes == here.classes
    for split in ("train", "test"):
        np.testing.assert_array_equal(there.splits[split].images, here.splits[split].images)
        np.testing.assert_array_equal(there.splits[split].labels, here.splits[split].labels)
    files[0].write_bytes(files[0].read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        carry_data.join(tmp_path / "pieces")


def write_cache(path, arrays=(), **changes):
    """A cache folder in which the checksums are right, but some arrays or entries of the index are others."""
    cache.write(path, small())
    index = json.loads((path / "index.json").read_text())
    for name, content in dict(arrays).items():
        stream = io.BytesIO()
        if isinstance(content, bytes):
            stream.write(content)
        else:
            np.save(stream, content, allow_pickle=True)
        (path / name).write_bytes(stream.getvalue())
        index["sha256"][name] = cache.hashlib.sha256(stream.getvalue()).hexdigest()
    for key, change in changes.items():
        index[key] = change(index[key]) if callable(change) else change
    (path / "index.json").write_text(json.dumps(index))


def npy(header, content=b""):
    header = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz():
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros(1))
    return stream.getvalue()


IMAGES, LABELS = "train_images.npy", "train_labels.npy"
HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4, 3)}\n"
CODE = "{'descr': '|u1', 'fortran_order': False, 'shape': (__import__('os').system('touch CANARY'),)}\n"
HOSTILE_CACHES = {
    "a trillion rows": {"arrays": {IMAGES: npy(HUGE)}},
    "rows beyond 64 bits": {"arrays": {IMAGES: npy(HUGE.replace("1000000000000", "9" * 40))}},
    "negative rows": {"arrays": {IMAGES: npy(HUGE.replace("1000000000000", "-1"), bytes(48))}},
    "code in the header": {"arrays": {IMAGES: npy(CODE)}},
    "a long header": {"arrays": {IMAGES: npy("(" * 60_000)}},
    "npz": {"arrays": {IMAGES: npz()}},
    "pickle": {"arrays": {IMAGES: b"cos\nsystem\n(S'touch CANARY'\ntR."}},
    "float images": {"arrays": {IMAGES: np.zeros((9, 4, 4, 3), np.float32)}},
    "grey images": {"arrays": {IMAGES: np.zeros((9, 4, 4, 1), np.uint8)}},
    "flat images": {"arrays": {IMAGES: np.zeros((9, 48), np.uint8)}},
    "fewer images": {"arrays": {IMAGES: np.zeros((8, 4, 4, 3), np.uint8)}},
    "float labels": {"arrays": {LABELS: np.zeros(9, np.float32)}},
    "foreign byte order": {"arrays": {LABELS: np.zeros(9, ">i4")}},
    "label out of range": {"arrays": {LABELS: np.full(9, 2, np.int32)}},
    "negative label": {"arrays": {LABELS: np.full(9, -1, np.int32)}},
    "labels of two dimensions": {"arrays": {LABELS: np.zeros((9, 1), np.int32)}},
    "a path outside": {"sha256": lambda sums: sums | {"../secret.npy": "0" * 64}},
    "an absolute path": {"sha256": lambda sums: sums | {"/etc/passwd": "0" * 64}},
    "a split outside": {"splits": ["train", "test", "../outside"]},
    "files outside, with checksums": {
        "splits": ["train", "test", "../../work/x"],
        "sha256": lambda sums: sums | {name.replace("train", "../../work/x"): sums[name] for name in (IMAGES, LABELS)},
    },
    "a split without checksums": {"splits": ["train", "test", "more"]},
    "a split that is a newline": {"splits": ["train", "test\n"]},
    "a split that is a number": {"splits": ["train", 3]},
    "checksums left out": {"sha256": {}},
    "no checksums": {"sha256": None},
    "classes that are text": {"classes": "ab"},
    "classes that are numbers": {"classes": [0, 1]},
    "a name that is a list": {"name": []},
}


@pytest.mark.parametrize("kind", HOSTILE_CACHES)
def test_hostile_caches_are_set_aside(tmp_path, kind, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "store" / "small-1"
    write_cache(path, **HOSTILE_CACHES[kind])
    for part in ("images", "labels"):  # readable, if it were looked for
        (tmp_path / "work" / f"x_{part}.npy").write_bytes((path / f"test_{part}.npy").read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and path not in p.parents}
    opened, original = [], builtins.open
    with monkeypatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(
                module, "open", lambda file, *args, **more: opened.append(file) or original(file, *args, **more)
            )
        assert cache.read(path) is None
    assert [p.name[:15] for p in (tmp_path / "store").iterdir()] == ["small-1-damaged"]
    assert opened and all(Path(p).parent == path and ".." not in Path(p).parts for p in opened)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "store" not in p.parts} == before
    assert not list(tmp_path.rglob("CANARY"))


@pytest.mark.parametrize("index", [b"[]", b"3", b"{}", b"\xff", b"[" * 100_000, b'{"name": 1' + b"0" * 10_000 + b"}"])
def test_indexes_that_are_none_are_set_aside(tmp_path, index):
    cache.write(tmp_path / "small-1", small())
    (tmp_path / "small-1" / "index.json").write_bytes(index)
    assert cache.read(tmp_path / "small-1") is None and not (tmp_path / "small-1").exists()


def test_arrays_of_objects_in_the_cache_run_nothing(tmp_path):
    objects = np.empty((9, 4, 4, 3), object)
    objects[:] = Canary(tmp_path / "canary")
    write_cache(tmp_path / "small-1", {IMAGES: objects})
    assert cache.read(tmp_path / "small-1") is None
    assert not (tmp_path / "canary").exists()
    np.load(next(tmp_path.glob("small-1-damaged-*")) / IMAGES, allow_pickle=True)  # the test can fail
    assert (tmp_path / "canary").exists()
