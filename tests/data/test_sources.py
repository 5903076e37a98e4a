"""Data sets: found, decoded once, cached; hostile and broken ones refused. No network in any of this."""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.config import DataConfig
from vit_jax.data import cache, cifar_files, pickled, sources
from vit_jax.data.dataset import DataSet, Examples, split_range, take
from vit_jax.data.image_folder import read_image
from vit_jax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "tfds"
NAMES = [name for names in cifar_files.BATCHES.values() for name in names]


def batch(i, n=7):
    rng = np.random.RandomState(i)
    return rng.randint(256, size=(n, 3072)).astype(np.uint8), rng.randint(10, size=n).tolist()


def write_pickles(folder, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(NAMES):
        data, labels = batch(i)
        content = {b"data": data, b"labels": labels, b"batch_label": b"x", b"filenames": [b"a.png"] * len(labels)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def pin(monkeypatch, archive):
    """From here on an archive passes for one of CIFAR-10's own."""
    content = archive.read_bytes()
    known = {"cifar-10-python.tar.gz": (len(content), hashlib.sha256(content).hexdigest())}
    monkeypatch.setattr(cifar_files, "ARCHIVES", known)


def expected():
    planes = np.concatenate([batch(i)[0] for i in range(5)])
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.concatenate([batch(i)[1] for i in range(5)])


def load(name, **kwargs):
    return sources.load(DataConfig(name=name, **kwargs), 32)


# --- the original distribution


@pytest.mark.parametrize("form", ["pickles", "subfolder", "protocol 4", "tar", "tar by name", "bin", "bin tar"])
def test_original_distribution_in_every_form(tmp_path, form, monkeypatch):
    where = tmp_path / "cifar"
    if "bin" in form:
        where.mkdir()
        for i, name in enumerate(NAMES):
            data, labels = batch(i)
            records = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
            (where / f"{name}.bin").write_bytes(records.tobytes())
    else:
        write_pickles(where / ("cifar-10-batches-py" if form == "subfolder" else ""), 4 if form == "protocol 4" else 2)
    if "tar" in form:
        archive = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(where, "cifar-10-batches-py")
        pin(monkeypatch, archive)
        where = archive if form == "tar by name" else tmp_path
    dataset = load("cifar10_batches", dir=str(where))
    images, labels = expected()
    np.testing.assert_array_equal(dataset.splits["train"].images, images)
    np.testing.assert_array_equal(dataset.splits["train"].labels, labels)
    assert len(dataset.splits["test"].labels) == 7 and dataset.classes[6] == "frog"
    # And again, now from the cache.
    np.testing.assert_array_equal(load("cifar10_batches", dir=str(where)).splits["train"].images, images)


def python2_pickle(data, labels):
    """What Python 2's cPickle wrote with NumPy 1, instruction by instruction, as the original batches have it."""

    def text(content, put):
        return b"U" + struct.pack("<B", len(content)) + content + b"q" + struct.pack("<B", put)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85" + text(b"b", 7) + b"\x87Rq\x08"
    )
    array += b"(K\x01M" + struct.pack("<H", len(data)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x09" + text(b"u1", 10)
    array += b"K\x00K\x01\x87Rq\x0b(K\x03" + text(b"|", 12) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    array += b"T" + struct.pack("<i", data.nbytes) + data.tobytes() + b"tb"
    numbers = b"]q\x03(" + b"".join(b"K" + struct.pack("<B", label) for label in labels) + b"e"
    return b"\x80\x02}q\x01(" + text(b"labels", 2) + numbers + text(b"data", 4) + array + b"u."


@pytest.mark.parametrize("writer", ["Python 2", *((p, n) for p in (2, 3, 4, 5) for n in ("core", "_core"))])
def test_pickles_of_every_writer(writer):
    data, labels = batch(0)
    content = {b"data": data, b"labels": labels, b"filenames": [b"a.png", b"\xff"], "unicode": ("ä", None, True)}
    if writer == "Python 2":
        read = pickled.read(python2_pickle(data, labels))
    else:
        raw = pickle.dumps(content, protocol=writer[0])
        if writer[1] == "core":  # as NumPy 1 wrote it; from protocol 4 on a name carries its length
            for module in (b"multiarray", b"numeric"):
                new, old = b"numpy._core." + module, b"numpy.core." + module
                raw = raw.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(new, old)
        read = pickled.read(raw)
        assert read["unicode"] == content["unicode"] and read[b"filenames"] == content[b"filenames"]
    np.testing.assert_array_equal(read[b"data"], data)
    assert read[b"data"].dtype == np.uint8 and read[b"labels"] == labels


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_arrays_in_other_orders(protocol):
    data = batch(0)[0]
    for array in (np.asfortranarray(data), data[::2], data[:, ::3]):
        np.testing.assert_array_equal(pickled.read(pickle.dumps({"data": array}, protocol))["data"], array)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_batches_of_the_real_size_are_read_quickly(protocol):
    data, labels = batch(0, 10_000)
    names = [f"camion_s_{i:06d}.png".encode() for i in range(10_000)]
    content = pickle.dumps({b"data": data, b"labels": labels, b"filenames": names}, protocol)
    started = time.perf_counter()
    read = pickled.read(content)
    assert time.perf_counter() - started < 2
    assert read[b"filenames"] == names and (read[b"data"] == data).all()


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_hostile_pickles_run_nothing(tmp_path):
    canary = tmp_path / "canary"
    good_data, good_labels = batch(0)
    array_of_objects = np.empty(1, object)
    array_of_objects[0] = Canary(canary)
    hostile = [
        Canary(canary),
        {b"data": Canary(canary), b"labels": good_labels},
        {b"data": good_data, b"labels": [Canary(canary)]},
        {b"data": array_of_objects, b"labels": good_labels},
        {Canary(canary): 1},
    ]
    raw = [
        b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
        # numpy.ndarray called as a constructor over chosen memory, then written to: would crash the interpreter.
        b"\x80\x05cnumpy\nndarray\n((K\x01t\x8c\x01O\x96\x08\0\0\0\0\0\0\0AAAAAAAAtRK\x00Ns.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"(S'touch " + str(canary).encode() + b"'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch " + str(canary).encode() + b"'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.",  # STACK_GLOBAL
    ]
    for content in [pickle.dumps(h, protocol=2) for h in hostile] + raw:
        folder = write_pickles(tmp_path / "cifar")
        (folder / "data_batch_3").write_bytes(content)
        with pytest.raises(UserError, match="data_batch_3"):
            load("cifar10_batches", dir=str(folder))
        assert not canary.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
UINT8 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
FOUR = b"U\x04abcd"
ENCODE = b"c_codecs\nencode\n"


def array(shape, dtype=UINT8, content=FOUR, version=b"K\x01", more=b""):
    return ARRAY + b"(" + version + shape + dtype + b"\x89" + content + more + b"tb."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x04cnumpy\nndarray\n)}\x92.", "instruction NEWOBJ_EX"),
        (b"(S'x'\nios\nsystem\n.", "instruction STRING"),
        (b"(U\x01xios\nsystem\n.", "instruction INST"),
        (b"(cnumpy\ndtype\nU\x01xo.", "instruction OBJ"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02\x83\x01\x00.", "instruction EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "instruction EXT4"),
        (b"Pname\n.", "instruction PERSID"),
        (b"K\x01Q.", "instruction BINPERSID"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"\x80\x02\x8b\x01\x00\x00\x00\x01.", "instruction LONG4"),
        (b"\x80\x06N.", "protocol 6"),
        (b"cos\nsystem\n.", r"asks for os\.system"),
        (b"c\x1b[2J" + b"x" * 1000 + b"\ny\n.", r"asks for \\x1b\[2Jx{3,80},"),
        (b"K\x01K\x02\x93.", "a name that is no text"),
        (b"cnumpy\nndarray\n)R.", "REDUCE of the type numpy.ndarray"),
        (UINT8[:-1] + b"R)R.", "REDUCE of the dtype of bytes"),
        (b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", "dtype b'O8'"),
        (ENCODE + b"X\x01\x00\x00\x00xU\x03zip\x86R.", "codec b'zip'"),
        (b"}]K\x01s.", "a list as key"),
        (b"}K\x01K\x01s.", "a int as key"),
        (b"}K\x01a.", "appends to what is no list"),
        (b"](K\x01K\x01u.", "no dictionary"),
        (b"}(K\x01u.", "no dictionary"),
        # BUILD
        (b"]K\x01b.", "BUILD of a list"),
        (b"}}b.", "BUILD of a dict"),
        (UINT8 + b"(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "BUILD of the dtype"),
        (UINT8 + b"(K\x03U\x01|N}NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb.", "BUILD of the dtype"),
        (ARRAY + b"}b.", "BUILD of an array"),
        (array(b"K\x02K\x02\x86", version=b"K\x02"), "BUILD of an array"),
        (array(b"K\x02K\x02\x86", more=b"N"), "BUILD of an array"),
        (array(b"K\x02K\x03\x86"), r"2 x 3 in 4 bytes"),
        (array(b"K\x04\x85"), "shape"),
        (array(b"K\x01K\x02K\x02\x87"), "shape"),
        (array(b"J\xff\xff\xff\xffJ\xfc\xff\xff\xff\x86"), "shape"),  # (-1, -4): 4 bytes
        (array(b"J\xff\xff\xff\xffK\x04\x86"), "shape"),
        (array(b"K\x00\x8a\xff" + b"\x01" * 255 + b"\x86"), "shape"),
        (array(b"\x88K\x04\x86"), "shape"),
        (array(b"K\x02K\x02\x86", dtype=b"cnumpy\ndtype\n"), "other things than bytes"),
        (array(b"K\x02K\x02\x86", content=b"]"), "other things than bytes"),
        (b"cnumpy.core.numeric\n_frombuffer\n(" + FOUR + UINT8 + b"K\x02K\x02\x86U\x01KtR.", "in the order b'K'"),
        # Damaged
        (b"K\x01", "damaged"),
        (b"0.", "instruction POP"),
        (b"K\x01K\x01.", "2 values"),
        (b"(K\x01.", "damaged"),
        (b"t.", "damaged"),
        (b"h\x07.", "damaged"),
        (b"K\x01(\x87.", "damaged"),
        (b"q\x00.", "damaged"),
    ],
)
def test_instructions_that_no_batch_contains_are_named(content, message):
    with pytest.raises(UserError, match=message):
        pickled.read(content)


def test_small_pickles_take_neither_memory_nor_time():
    """What would be endless when it was followed, copied, hashed or written out."""
    nested = b"U\x01xq\x00" + b"h\x00\x86q\x00" * 2000  # 2 ** 2000 leaves, 2000 deep
    lists = b"]q\x00a" + (b"](" + b"h\x00" * 8 + b"eq\x00a") * 5000  # 8 ** 5000 elements
    deep = b"K\x01" + b"\x85" * 200_000
    million = b"X\x40\x42\x0f\x00" + b"x" * 1_000_000 + b"q\x00"
    copies = b"](" + million + b"]" + (ENCODE + b"h\x00U\x06latin1\x86Ra") * 5000  # of one text
    started = time.perf_counter()
    for harmless in (b"]" + lists + b".", b"]" + deep + b"a.", b"]" + nested + b"a.", b"]q\x00h\x00a."):
        assert isinstance(pickled.read(harmless), list)
    hostile = [
        b"}" + nested + b"K\x01s.",
        b"}" + deep + b"K\x01s.",
        nested + b")R.",
        deep + b")R.",
        nested + b"}b.",
        b"cnumpy\ndtype\n" + nested + b"K\x00K\x01\x87R.",
        ENCODE + nested + b"h\x00\x86R.",
        array(nested),
        copies + b".",
        b"(" * 1000 + b".",
        b"N" * 1_000_000 + b".",
        b"N" * (pickled.MAX_BYTES + 1),
    ]
    for content in hostile:
        with pytest.raises(UserError, match="refused"):
            pickled.read(content)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pickle.dumps([1]),
        pickle.dumps({b"data": 3, b"labels": [1]}, 2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, 2),
        pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 1]}, 2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 1]}, 2)[:-20],
    ],
)
def test_broken_batches_are_named(tmp_path, content):
    folder = write_pickles(tmp_path / "cifar")
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match="test_batch"):
        load("cifar10_batches", dir=str(folder))


@pytest.mark.parametrize("damage", ["cut", *range(10)])
def test_damaged_archives_are_refused(tmp_path, damage, monkeypatch):
    """gzip's own checksum is checked: not one changed byte gets into the arrays."""
    write_pickles(tmp_path / "cifar")
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cifar", "cifar-10-batches-py")
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[(damage + 1) * len(content) // 11] ^= 0x10
    archive.write_bytes(content)
    with pytest.raises(UserError, match="not CIFAR-10 as its authors distribute it"):
        load("cifar10_batches", dir=str(archive))
    pin(monkeypatch, archive)
    with pytest.raises(UserError, match="no readable archive"):
        load("cifar10_batches", dir=str(archive))


def test_a_wrong_folder_says_what_was_expected_and_found(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holiday.txt").touch()
    with pytest.raises(UserError, match=r"data_batch_1.*holiday\.txt"):
        load("cifar10_batches", dir=str(tmp_path / "data"))


# --- CIFAR-10 from TFDS


def test_absent_and_offline_gives_three_remedies(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        load("cifar10", dir=str(tmp_path / "empty"))
    for remedy in ("--config.data.dir", "cifar10_batches", "digits"):
        assert remedy in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        load("cifar10", dir=str(tmp_path / "missing"))


@pytest.fixture(params=["cifar10"])
def prepared(request, tmp_path):
    """A TFDS folder of this name with 20 train and 10 test images, and those images."""
    name = request.param
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    images = np.random.RandomState(0).randint(256, size=(30, 32, 32, 3)).astype(np.uint8)
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=[f"kind {i}" for i in range(100 if name == "cifar100" else 10)]),
        }
    )
    folder = tmp_path / "tfds" / name / "3.0.2"
    folder.mkdir(parents=True)
    infos = []
    for split, rows in (("train", range(20)), ("test", range(20, 30))):
        shard = f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(folder / shard)) as writer:
            for i in rows:
                example = {"id": str(i), "image": images[i], "label": i % 10}
                writer.write(features.serialize_example(features.encode_example(example)))
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=[len(rows)], num_bytes=(folder / shard).stat().st_size)
        )
    tfds.folder_dataset.write_metadata(data_dir=folder, features=features, split_infos=infos)
    return tmp_path / "tfds", images


def test_tfds_is_read_in_order_and_cached_without_tensorflow(prepared, tmp_path, monkeypatch):
    folder, images = prepared
    dataset = load("cifar10", dir=str(folder))
    np.testing.assert_array_equal(dataset.splits["train"].images, images[:20])
    np.testing.assert_array_equal(dataset.splits["test"].labels, np.arange(20, 30) % 10)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    code = (
        "import sys; from vit_jax.config import DataConfig; from vit_jax.data import sources; "
        "d = sources.load(DataConfig(), 32); print(len(d.splits['train'].labels), 'tensorflow' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["20", "False"]
    # The cached copy serves where the folder is gone and none is named: on a machine without TFDS, say.
    monkeypatch.delenv("TFDS_DATA_DIR")
    os.rename(folder, tmp_path / "elsewhere")
    assert len(load("cifar10").splits["train"].labels) == 20


@pytest.mark.parametrize("prepared", ["cifar100"], indirect=True)
def test_cifar100_is_read_with_its_own_classes(prepared):
    folder, images = prepared
    dataset = load("cifar100", dir=str(folder))
    assert dataset.name == "cifar100" and dataset.classes == tuple(f"kind {i}" for i in range(100))
    np.testing.assert_array_equal(dataset.splits["test"].images, images[20:])


@pytest.mark.parametrize("damage", ["cut", "info"])
def test_a_damaged_tfds_folder_is_named(prepared, damage):
    folder, _ = prepared
    name = "dataset_info.json" if damage == "info" else "cifar10-test.tfrecord-00000-of-00001"
    file = folder / "cifar10" / "3.0.2" / name
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match=r"cifar10/3\.0\.2.*can't be read"):
        load("cifar10", dir=str(folder))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real CIFAR-10")
def test_real_cifar10_is_whole():
    dataset = load("cifar10", dir=str(REAL))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.images.shape == (50_000, 32, 32, 3) and test.images.shape == (10_000, 32, 32, 3)
    assert (np.bincount(train.labels) == 5000).all() and (np.bincount(test.labels) == 1000).all()
    assert len(take(dataset, "train[:90%]", "key").labels) == 45_000


# --- the others


def test_digits_and_fake_are_embedded():
    digits, fake = load("digits"), load("fake")
    for dataset, name in ((digits, "digits"), (fake, "fake")):
        assert {k: len(v.labels) for k, v in dataset.splits.items()} == sources.SIZES[name]
        assert dataset.splits["train"].images.shape[1:] == (32, 32, 3)
        assert set(dataset.splits["test"].labels) == set(range(10))
    again = load("digits")
    np.testing.assert_array_equal(again.splits["train"].images, digits.splits["train"].images)
    joined = np.concatenate([s.images for s in digits.splits.values()]).reshape(1797, -1)
    assert len(np.unique(joined, axis=0)) == 1797  # nothing is in train and test both


def write_folder(root):
    rng = np.random.RandomState(0)
    for split, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.randint(256, size=(20, 30, 3)).astype(np.uint8))
                image.save(root / split / label / f"{i}.{'png' if i % 2 else 'JPG'}")
    return root


def test_image_folders(tmp_path):
    root = write_folder(tmp_path / "pets")
    dataset = sources.load(DataConfig(name="image_folder", dir=str(root)), 16)
    assert dataset.classes == ("cat", "dog")
    assert dataset.splits["train"].images.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(np.sort(dataset.splits["test"].labels), [0, 0, 1, 1])
    for label, name in enumerate(dataset.classes):
        found = dataset.splits["train"].images[dataset.splits["train"].labels == label]
        files = sorted((root / "train" / name).iterdir())
        expected = np.stack([read_image(file, 16) for file in files])
        np.testing.assert_array_equal(np.sort(found.reshape(4, -1), 0), np.sort(expected.reshape(4, -1), 0))
    # A changed file is seen, though the cache has the old arrays.
    Image.new("RGB", (16, 16), (1, 2, 3)).save(root / "train/cat/1.png")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    dataset = sources.load(DataConfig(name="image_folder", dir=str(root)), 16)
    assert (dataset.splits["train"].images == (1, 2, 3)).all((1, 2, 3)).sum() == 1
    assert dataset.classes == ("cat", "dog")


def test_slices_of_an_image_folder_have_every_class(tmp_path):
    for i in range(40):
        folder = tmp_path / "train" / f"class{i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    dataset = sources.load(DataConfig(name="image_folder", dir=str(tmp_path)), 4)
    for spec in ("train[:50%]", "train[50%:]"):
        assert set(take(dataset, spec, "key").labels) == {0, 1, 2, 3}


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_images_of_any_mode(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 32_768, np.uint16))
    else:
        image = Image.new("RGB", (8, 8), (128, 128, 128)).convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    image.save(tmp_path / f"x.{suffix}")
    pixels = read_image(tmp_path / f"x.{suffix}", 4)
    assert pixels.shape == (4, 4, 3) and pixels.dtype == np.uint8
    if mode != "1":
        assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_wrong_image_folders_are_explained(tmp_path):
    root = write_folder(tmp_path / "pets")
    (root / "train/dog/1.png").write_bytes(b"no image")
    (root / "train/dog/0.JPG").write_bytes((root / "train/dog/0.JPG").read_bytes()[:100])
    with pytest.raises(UserError, match=r"2 images.*dog/0\.JPG.*dog/1\.png"):
        load("image_folder", dir=str(root))
    (root / "test/bird").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test/bird/1.png")
    with pytest.raises(UserError, match="bird is no class: train/ has cat, dog"):
        load("image_folder", dir=str(root))
    with pytest.raises(UserError, match="expected train/<class>"):
        load("image_folder", dir=str(tmp_path))


# --- splits and the cache


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", range(100)),
        ("train[:90%]", range(90)),
        ("train[90%:]", range(90, 100)),
        ("train[10:20]", range(10, 20)),
        ("train[-10%:]", range(90, 100)),
        ("train[:-30]", range(70)),
        ("train[:33%]", range(33)),
    ],
)
def test_splits(spec, expected):
    assert split_range(spec, "key", {"train": 100, "test": 5}) == ("train", expected)


def small(seed=0):
    rng = np.random.RandomState(seed)
    examples = Examples(rng.randint(256, size=(9, 4, 4, 3)).astype(np.uint8), np.arange(9, dtype=np.int32) % 2)
    return DataSet("small", ("a", "b"), {"train": examples, "test": examples})


def test_the_cache_gives_back_what_was_written(tmp_path):
    cache.write(tmp_path / "small-1", small())
    again = cache.read(tmp_path / "small-1")
    assert again.classes == ("a", "b") and isinstance(again.splits["train"].images, np.memmap)
    np.testing.assert_array_equal(again.splits["test"].images, small().splits["test"].images)


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
    files = carry_data.cut("digits", tmp_path / "pieces", 1)
    assert len(files) > 4 and all(file.stat().st_size <= 2**20 for file in files)
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
