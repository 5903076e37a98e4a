"""CIFAR-10 as its authors distribute it is read bit for bit, and nothing else in its place."""

import pickle
import struct
import tarfile
import time

import numpy as np
import pytest
from batches import NAMES, Canary, batch, expected, load, pin, write_pickles

from vit_jax.data.sources import pickled
from vit_jax.errors import UserError


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
    started = time.process_time()
    read = pickled.read(content)
    assert time.process_time() - started < 2
    assert read[b"filenames"] == names and (read[b"data"] == data).all()


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
    started = time.process_time()
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
    assert time.process_time() - started < 10


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
