"""Folders of images: names of any kind, their records, what is said of them, and hostile images are refused."""

import csv
import io
import json
import os

import numpy as np
import pytest
from batches import load, load_at
from folders import PIXEL, files, make, png, refused
from PIL import Image

from vit_jax.data.dataset import take
from vit_jax.data.encoded import seen
from vit_jax.data.images import header, upright
from vit_jax.data.sources.image_folder import Files, report, scan, source_of
from vit_jax.data.view import View
from vit_jax.errors import UserError

# --- names


def test_a_class_is_one_however_its_accents_are_written(tmp_path):
    make(tmp_path, "train/caf\u00e9/1.png", "train/cafe\u0301/2.png", "train/dog/1.png", "test/cafe\u0301/1.png")
    found = scan(tmp_path, False)
    assert found.classes == ("caf\u00e9", "dog")
    assert len(files(found)["caf\u00e9"]) == 2 and found.splits["test"].labels.tolist() == [0]


def test_names_are_safe_to_print_and_to_keep(tmp_path):
    names = [b"a\nb", b"red\x1b[31m", b"caf\xe9", "\u202egnp".encode(), "猫".encode(), "👩\u200d🌾".encode(), b'q,"$x$']
    found = scan(make(tmp_path, *(b"train/" + name + b"/1.png" for name in names)), False)
    expected = {"a\\nb", "red\\x1b[31m", "caf\\xe9", "\\u202egnp", "猫", "👩\u200d🌾", 'q,"$x$'}
    assert set(found.classes) == expected
    assert json.loads(json.dumps(found.classes)) == list(found.classes)
    for name in found.classes:
        assert len(name.encode().decode().splitlines()) == 1
    text = io.StringIO()
    csv.writer(text).writerow(found.classes)
    assert next(csv.reader([text.getvalue()])) == list(found.classes)
    # They are read by their true names.
    records = source_of(found).open()["train"].records
    assert records.read(np.arange(len(records))) == [PIXEL] * len(names)
    assert all(records.name(i).isprintable() or "👩" in records.name(i) for i in range(len(records)))


def test_names_that_read_the_same_are_refused(tmp_path):
    make(tmp_path, b"train/a\nb/1.png", b"train/a\\nb/1.png")
    assert "two folders of train/ read 'a\\\\nb'" in refused(tmp_path)
    assert "\\x1b" in refused(make(tmp_path / "x", b"train/\x1b[31m/1.png"))


# --- as a source


def test_the_source_of_a_folder(tmp_path):
    names = [f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(20)]
    root = make(tmp_path / "pets", *names, "test/cat/1.png")
    source = source_of(scan(root, False))
    assert source.classes == ("cat", "dog") and source.counts == {"train": 40, "test": 1}
    assert source.nbytes == 41 * len(PIXEL) and source.size is None
    records, labels = source.open()["train"]
    assert len(records) == 40 and set(labels[:10]) == set(labels[30:]) == {0, 1}  # shuffled
    for i, label in enumerate(labels):
        assert f"/train/{source.classes[label]}/" in records.name(i)
    (tmp_path / "pets").rename(tmp_path / "moved")
    moved = source_of(scan(tmp_path / "moved", False))
    assert moved.identity == source.identity == json.loads(json.dumps(source.identity))
    os.utime(tmp_path / "moved/train/cat/3.png", ns=(1, 1))
    assert source_of(scan(tmp_path / "moved", False)).identity != source.identity
    (tmp_path / "moved/train/cat").rename(tmp_path / "moved/train/lynx")
    with pytest.raises(UserError, match="test/cat is no class: train/ has dog, lynx"):
        scan(tmp_path / "moved", False)


def test_a_file_that_is_gone_is_named(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png")
    records = Files([tmp_path / "a.png", str(tmp_path / "b.png"), tmp_path / "c.png"])
    assert records.read(np.array([1, 0, 1])) == [PIXEL] * 3
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png can't be read \(No such file"):
        records.read(np.array([0, 1]))
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png is no regular file any more"):
        records.read(np.array([1]))
    with open(tmp_path / "c.png", "wb") as file:
        file.truncate(2**31)  # takes no room
    with pytest.raises(UserError, match=r"c\.png has 2,147,483,648 bytes"):
        records.read(np.array([2]))


def test_the_report_says_what_was_found(tmp_path):
    names = [f"train/{label}/{i}.png" for label, n in (("cat", 5), ("dog", 2), ("fox", 3)) for i in range(n)]
    found = scan(make(tmp_path, *names, "val/cat/1.png", "train/cat/x.txt"), False)
    assert report(found) == [
        f"{tmp_path}: 3 classes; images: train 10, validation 1.",
        "Images of a class in train: smallest 2 (dog), median 3, largest 5 (cat).",
        "Left out: 1 .txt.",
    ]
    notes = load("image_folder", dir=str(tmp_path)).notes
    assert notes == (*report(found), "Width x height in pixels: smallest 1 x 1, median 1 x 1, largest 1 x 1.")


def test_a_note_on_an_image_says_where_it_is_now(tmp_path):
    make(tmp_path / "pets", *(f"train/{label}/1.png" for label in ("cat", "dog")))
    for i in range(7):
        picture = encoded(Image.new("RGB", (8, 8)), "JPEG")
        exif = b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\0\0\0"  # whose table would lie behind its end
        (tmp_path / f"pets/train/cat/{i}.jpg").write_bytes(picture[:2] + exif + picture[2:])
    for place in ("pets", "moved"):
        notes = [note for note in load("image_folder", dir=str(tmp_path / place)).notes if "EXIF" in note]
        assert len(notes) == 5 and all(note.startswith(f"{tmp_path}/{place}/train/cat/") for note in notes)
        assert "... and 2 more images with such a note" in load("image_folder", dir=str(tmp_path / place)).notes
        if place == "pets":
            (tmp_path / "pets").rename(tmp_path / "moved")


# --- decoded


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
    dataset = load_at(16, "image_folder", dir=str(root))
    assert dataset.classes == ("cat", "dog")
    assert dataset.splits["train"].images.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(np.sort(dataset.splits["test"].labels), [0, 0, 1, 1])
    for label, name in enumerate(dataset.classes):
        found = dataset.splits["train"].images[dataset.splits["train"].labels == label]
        files = sorted((root / "train" / name).iterdir())
        expected = np.stack([seen(upright(file.read_bytes()), View((16, 16))) for file in files])
        np.testing.assert_array_equal(np.sort(found.reshape(4, -1), 0), np.sort(expected.reshape(4, -1), 0))
    # A changed file is seen, though the cache has the old arrays.
    Image.new("RGB", (16, 16), (1, 2, 3)).save(root / "train/cat/1.png")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    dataset = load_at(16, "image_folder", dir=str(root))
    assert (dataset.splits["train"].images == (1, 2, 3)).all((1, 2, 3)).sum() == 1
    assert dataset.classes == ("cat", "dog")


def test_slices_of_an_image_folder_have_every_class(tmp_path):
    for i in range(40):
        folder = tmp_path / "train" / f"class{i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    dataset = load_at(4, "image_folder", dir=str(tmp_path))
    for spec in ("train[:50%]", "train[50%:]"):
        assert set(take(dataset, spec, "key").labels) == {0, 1, 2, 3}


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


def test_a_png_with_a_wrong_checksum_is_left_to_pillow(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    broken = bytearray(png(8, 8, bytes(8 * 25)))
    assert header(bytes(broken)).plain
    broken[-13] ^= 1  # the last of the pixels' checksum: TensorFlow's decoder would refuse the file
    assert not header(bytes(broken)).plain and upright(bytes(broken)).size == (8, 8)
    (folder / "1.png").write_bytes(broken)
    make(tmp_path, "train/dog/1.png")
    assert load_at(8, "image_folder", dir=str(tmp_path)).splits["train"].images.shape == (2, 8, 8, 3)
    # Where the pixels can't be read either, the start says so, not the step that comes to them.
    noise = np.random.RandomState(0).bytes(8 * 25)
    flipped = bytearray(png(8, 8, noise))
    flipped[50:60] = bytes(10)
    (folder / "1.png").write_bytes(flipped)
    with pytest.raises(UserError, match=r"^1 image can't be read; mend or remove it: .*cat/1\.png \("):
        load_at(8, "image_folder", dir=str(tmp_path), pipeline="decoded")


def test_a_jpeg_of_which_tensorflow_would_warn_is_left_to_pillow():
    raw = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    assert header(bytes(raw)).plain
    raw[11:13] = bytes(2)  # JFIF's version
    assert not header(bytes(raw)).plain


def encoded(image, form):
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def test_all_hostile_images_of_a_folder_are_named_in_one_message(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000))
    (folder / "text.jpg").write_text("no image")
    make(tmp_path, "train/dog/1.png")
    (folder / "ppm.png").write_bytes(encoded(Image.new("RGB", (8, 8)), "PPM"))
    with pytest.raises(UserError, match=r"3 images.*bomb\.png.*50,000,000.*ppm\.png \(no PNG, JPEG,.*text\.jpg"):
        load("image_folder", dir=str(tmp_path))
