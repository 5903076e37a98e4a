"""NumPy's .npz archives of images: the forms that are read, and what is refused before it is."""

import io
import zipfile

import numpy as np
import pytest
from batches import Canary, load

from vit_jax.data import cache
from vit_jax.data.sources import npz
from vit_jax.errors import UserError

RNG = np.random.RandomState(0)
GREY = RNG.randint(256, size=(12, 8, 6)).astype(np.uint8)
COLOUR = RNG.randint(256, size=(12, 8, 6, 3)).astype(np.uint8)
LABELS = np.arange(12) % 3


def read(file):
    return npz.read(npz.files_of(str(file)))


FORMS = {
    "plain": ({"images": COLOUR, "labels": LABELS}, {"train": 12}),
    "MedMNIST": (
        {
            **{f"{split}_images": GREY for split in ("train", "val", "test")},
            **{f"{split}_labels": LABELS[:, None].astype(np.uint8) for split in ("train", "val", "test")},
        },
        {"train": 12, "validation": 12, "test": 12},
    ),
    "Keras": (
        {"x_train": GREY, "y_train": LABELS.astype(np.uint8), "x_test": GREY[:5], "y_test": LABELS[:5]},
        {"train": 12, "test": 5},
    ),
    "one grey channel, of Fortran's order": (
        {"images": np.asfortranarray(GREY[..., None]), "labels": LABELS},
        {"train": 12},
    ),
    "big-endian labels, and other arrays": (
        {"images": COLOUR, "labels": LABELS.astype(">i8"), "of": np.array([{}], object)},
        {"train": 12},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_usual_forms_are_read(form, save, tmp_path):
    arrays, counts = FORMS[form]
    save(tmp_path / "set.npz", **arrays)
    dataset = read(tmp_path if form == "plain" else tmp_path / "set.npz")
    assert {split: len(examples.labels) for split, examples in dataset.splits.items()} == counts
    expected = next(iter(arrays.values()))
    images, labels = dataset.splits["train"]
    np.testing.assert_array_equal(images, expected.reshape(12, 8, 6, -1))
    assert labels.tolist() == LABELS.tolist() and dataset.classes == ("0", "1", "2")
    again = cache.write(tmp_path / "cache" / "npz-1", dataset)  # grey ones, too
    np.testing.assert_array_equal(again.splits["train"].images, images)
    assert isinstance(again.splits["train"].images, np.memmap)


def test_a_folder_has_a_file_for_each_split(tmp_path):
    np.savez(tmp_path / "train.npz", images=COLOUR, labels=LABELS, class_names=np.array(["a", "b", "c", "d"]))
    np.savez(tmp_path / "val.npz", x=COLOUR[:4], y=LABELS[:4])
    np.savez(tmp_path / "test.npz", test_images=COLOUR[:5], test_labels=LABELS[:5])
    np.savez(tmp_path / "other.npz", images=GREY, labels=LABELS)
    dataset = read(tmp_path)
    counts = {split: len(examples.labels) for split, examples in dataset.splits.items()}
    assert counts == {"train": 12, "validation": 4, "test": 5} and dataset.classes == ("a", "b", "c", "d")
    np.savez(tmp_path / "train.npz", images=COLOUR, labels=LABELS, class_names=np.array(["a", "b", "c", "b"]))
    with pytest.raises(UserError, match="class_names has 'b' twice or more"):
        read(tmp_path)
    identity = npz.identity(npz.files_of(str(tmp_path)))
    np.savez(tmp_path / "val.npz", x=COLOUR[:3], y=LABELS[:3])
    assert npz.identity(npz.files_of(str(tmp_path))) != identity


REFUSED = {
    "channels first": ({"images": COLOUR.transpose(0, 3, 1, 2), "labels": LABELS}, r"transpose\(0, 2, 3, 1\)"),
    "flat images": ({"images": COLOUR.reshape(12, -1), "labels": LABELS}, r"images must be \(N, H, W\)"),
    "four channels": ({"images": np.repeat(GREY[..., None], 4, 3), "labels": LABELS}, r"images must be \(N, H, W\)"),
    "floats": ({"images": COLOUR / np.float32(255), "labels": LABELS}, r"not uint8.*\* 255\).round\(\)"),
    "16 bits": ({"images": GREY.astype(np.uint16), "labels": LABELS}, r"uint16.*not uint8"),
    "one-hot labels": ({"images": COLOUR, "labels": np.eye(3, dtype=int)[LABELS]}, r"one integer for each image"),
    "float labels": ({"images": COLOUR, "labels": LABELS / 1}, r"one integer for each image"),
    "fewer labels": ({"images": COLOUR, "labels": LABELS[:-1]}, r"labels is int64 \(11,\)"),
    "negative labels": ({"images": COLOUR, "labels": LABELS - 1}, r"from -1 to 1; labels count from 0"),
    "labels beyond 32 bits": ({"images": COLOUR, "labels": LABELS + 2**40}, r"labels count from 0"),
    "labels from 1": ({"images": COLOUR, "labels": LABELS + 1}, r"no 0\. Number the classes anew"),
    "a gap": ({"images": COLOUR, "labels": LABELS * 5}, r"last class, 10; the train split has no 1, 2, 3, 4, 6"),
    "too few names": ({"images": COLOUR, "labels": LABELS, "classes": np.array(["a", "b"])}, r"all 3 classes as text"),
    "names that are objects": (
        {"images": COLOUR, "labels": LABELS, "classes": np.array(["a", "b", "c"], object)},
        r"classes is object",
    ),
    "no labels": ({"images": COLOUR}, r"none of the arrays that are read.*found images \(12, 8, 6, 3\)"),
    "no array": ({}, r"found no array"),
    "no train split": ({"x_test": COLOUR, "y_test": LABELS}, r"no images to train on; found test"),
    "no image": ({"images": COLOUR[:0], "labels": LABELS[:0]}, r"no images to train on"),
    "several shapes": (
        {"x_train": COLOUR, "y_train": LABELS, "x_test": GREY, "y_test": LABELS},
        r"the same shape; found .*\(8, 6, 3\).*\(8, 6, 1\)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_arrays_are_refused(kind, tmp_path):
    arrays, said = REFUSED[kind]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "set.npz")


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def write_zip(file, images, **more):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", npy(LABELS))
        for name, content in more.items():
            archive.writestr(name, content)


def claim(shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def test_damaged_and_hostile_archives_are_refused_in_one_line(tmp_path):
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=COLOUR, labels=LABELS)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1
    contents = {"cut": whole[:-30], "flipped": bytes(flipped), "an array": npy(COLOUR), "nothing": b""}
    for content in contents.values():
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"set.npz can't be read \(.*fetch it again"):
            read(file)
    shapes = ("(1000000000000, 4, 4, 3)", "(-12, 8, 6, 3)", "(9" + "9" * 40 + ",)", "__import__('os')", "(" * 60_000)
    for images in (*map(claim, shapes), claim("(12, 8, 6, 3)") + bytes(12 * 8 * 6 * 3 - 1), b"cos\nsystem\n"):
        write_zip(file, images)
        with pytest.raises(UserError, match=r"set.npz can't be read \(.*fetch it again"):
            read(file)


def test_what_memory_cannot_hold_is_refused_unread(tmp_path, monkeypatch):
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=np.zeros((1000, 100, 100), np.uint8), labels=np.zeros(1000, int))
    monkeypatch.setattr(npz.os, "sysconf", lambda name: 2**12 if name == "SC_PAGE_SIZE" else 2000)  # 8 MB
    monkeypatch.setattr(npz.np, "load", lambda *args, **more: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"0.0 GiB once unpacked.*of memory"):
        read(file)


def test_arrays_of_objects_run_nothing(tmp_path):
    objects = np.empty((12, 8, 6), object)
    objects[:] = Canary(tmp_path / "canary")
    for arrays in ({"images": objects, "labels": LABELS}, {"images": COLOUR, "labels": objects[:, 0, 0]}):
        np.savez(tmp_path / "set.npz", **arrays)
        with pytest.raises(UserError, match="is object"):
            read(tmp_path / "set.npz")
    assert not (tmp_path / "canary").exists()
    with np.load(tmp_path / "set.npz", allow_pickle=True) as archive:  # the test can fail
        assert len(archive["labels"]) == 12
    assert (tmp_path / "canary").exists()


def test_folders_without_archives_are_refused(tmp_path):
    with pytest.raises(UserError, match="needs config.data.dir"):
        npz.files_of(None)
    with pytest.raises(UserError, match=r"expected an .npz.*found 'no such folder'|no such folder"):
        npz.files_of(str(tmp_path / "nowhere"))
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"found \['a.npz', 'b.npz'\]"):
        npz.files_of(str(tmp_path))


def test_names_of_classes_are_safe_to_print(tmp_path):
    np.savez(tmp_path / "odd.npz", images=COLOUR, labels=LABELS, class_names=np.array(["a\nb", "\x1b[2J", "c"]))
    assert load("npz", dir=str(tmp_path / "odd.npz")).classes == (r"a\nb", r"\x1b[2J", "c")
