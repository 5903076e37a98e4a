"""Folders of images are found whatever their form, and nothing is left out without a word."""

import os
import socket
import time

import numpy as np
import pytest
from folders import TWO, files, make, notes, refused

from vit_jax.data.sources.image_folder import scan

# --- forms


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Train", "VAL", "TESTING"), ("training", "valid", "Test")]
    + [("TRAINING", "validation", "testing"), ("train", "dev", "test")],
)
def test_splits_by_any_of_their_names(tmp_path, train, validation, test):
    names = [f"{split}/{label}/1.png" for split in (test, validation, train) for label in ("cat", "dog")]
    found = scan(make(tmp_path, *names), False)
    assert list(found.splits) == ["train", "validation", "test"] and found.classes == ("cat", "dog")
    for split, folder in (("train", train), ("validation", validation), ("test", test)):
        assert files(found, split) == {"cat": [f"{folder}/cat/1.png"], "dog": [f"{folder}/dog/1.png"]}
        assert found.splits[split].labels.dtype == np.int32
    assert not found.notes


def test_two_folders_for_one_split_are_refused(tmp_path):
    make(tmp_path, *TWO, "val/cat/1.png", "Validation/cat/1.png")
    assert "Validation/ and val/ are both the validation split" in refused(tmp_path)


def test_class_folders_alone_are_one_split(tmp_path):
    found = scan(make(tmp_path, "cat/1.png", "dog/1.png"), False)
    assert files(found) == {"cat": ["cat/1.png"], "dog": ["dog/1.png"]} and list(found.splits) == ["train"]
    assert "each folder there is a class" in notes(found) and "no test split" in notes(found)


def test_everything_below_a_class_belongs_to_it(tmp_path):
    deeper = ["train/animal/1.png", "train/animal/cat/1.png", "train/animal/cat/young/1.png", "train/tree/oak/1.png"]
    found = scan(make(tmp_path, *deeper), False)
    assert files(found) == {"animal": deeper[:3], "tree": deeper[3:]} and not found.notes


def test_a_wrapper_folder_is_entered(tmp_path):
    make(tmp_path, *(f"archive/pictures/{name}" for name in (*TWO, "test/cat/1.png")), "archive/README.md")
    make(tmp_path, "__MACOSX/._x", "archive/__MACOSX/pictures/train/cat/._1.png")
    found = scan(tmp_path, False)
    assert list(found.splits) == ["train", "test"] and found.classes == ("cat", "dog")
    assert f"Read from {tmp_path}/archive/pictures, the only folder" in notes(found)
    make(tmp_path, "other/1.png")  # now it isn't the only one
    assert "archive" not in notes(scan(tmp_path, False)) or "each folder there is a class" in notes(
        scan(tmp_path, False)
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/1.png", "train/2.png"], ["train/ has 2 images outside of class folders", "train/<class>/*.png"]),
        ([*TWO, "val/1.png", "val/2.png"], ["val/ has 2 images", "expected val/<class>", "the names of train's"]),
        (
            ["train/1.png", "bus/1.png", "car/1.png"],
            ["If train is a class, put all class folders into a new folder train"],
        ),
        (["1.png", "2.png"], ["has 2 images outside of class folders", "expected <class>/*.png"]),
        (["test/cat/1.png", "val/cat/1.png"], ["expected train/<class>", "no train/ beside val, test"]),
        (["notes.txt", "holiday.txt"], ["expected train/<class>", "found holiday.txt, notes.txt"]),
        ([], ["expected train/<class>", "found nothing"]),
        (["train/cat/1.heic", "train/dog/1.HEIC", "train/dog/x"], ["no images", "2 .heic, 1 without a suffix"]),
        (["train/cat/", "train/dog/"], ["no images", "nothing in cat, dog"]),
        (["train/cat/1.png"], ["train/cat: one class can't be told"]),
        (["animal/1.png", "animal/cat/1.png", "animal/dog/1.png"], ["If cat, dog below it", "data.dir=ROOT/animal"]),
        (["a/b/cat/1.png", "a/b/dog/1.png"], ["If cat, dog below it", "data.dir=ROOT/a/b"]),
        (["train/all/cat/1.png", "train/all/dog/1.png"], ["train/all: one class", "move them up into train/"]),
        (["training_set/cat/1.png", "test_set/cat/1.png"], ["test_set, training_set look like splits"]),
        (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"], ["cat/ has test, train in it", "data.dir=ROOT/cat"]),
    ],
)
def test_other_forms_are_explained(tmp_path, names, said):
    root = tmp_path / "pets"
    root.mkdir()
    message = refused(make(root, *names))
    for text in said:
        assert text.replace("ROOT", str(root)) in message


def test_what_is_no_folder_is_explained(tmp_path):
    message = refused(tmp_path / "missing")
    assert "expected a folder with train/<class>" in message and "No such file" in message
    (tmp_path / "pets.zip").touch()
    assert "unpack it" in refused(tmp_path / "pets.zip")
    assert "File name too long" in refused(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_folder_that_can_not_be_read_is_named(tmp_path):
    make(tmp_path, *TWO)
    (tmp_path / "train/cat").chmod(0)
    assert "train/cat can't be read (Permission denied)" in refused(tmp_path)
    (tmp_path / "train/cat").chmod(0o700)


def test_a_class_that_train_lacks_is_named(tmp_path):
    make(tmp_path, *TWO, "train/bird/", "test/bird/1.png")
    message = refused(tmp_path)
    assert "test/bird is no class: train/ has cat, dog" in message and "no images in train/bird" in message
    make(tmp_path, *(f"train/{i:02}/1.png" for i in range(20)), "test/fish/1.png")
    message = refused(tmp_path)
    assert "test/bird, test/fish are no classes: train/ has 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, ..." in message


# --- what is left out


def test_unlabelled_test_images_are_no_split(tmp_path):
    found = scan(make(tmp_path, *TWO, "test/1.png", "test/2.png"), False)
    assert list(found.splits) == ["train"]
    assert "test/ has 2 images, but no class folders: there is no test split. `vit-jax predict`" in notes(found)


def test_a_split_without_images_is_none(tmp_path):
    found = scan(make(tmp_path, *TWO, "val/", "test/cat/"), False)
    assert list(found.splits) == ["train"]
    assert "val/ has no images: there is no validation split" in notes(found)
    assert "test/ has no images: there is no test split" in notes(found)


def test_the_systems_files_are_left_out_and_empty_classes_are_named(tmp_path):
    junk = ["__MACOSX/1.png", ".ipynb_checkpoints/1.png", "@eaDir/1.png", "lost+found/1.png", "$RECYCLE.BIN/1.png"]
    junk += [
        "cat/@eaDir/1.png",
        "cat/.hidden/1.png",
        "cat/Thumbs.db",
        "cat/.DS_Store",
        "cat/._x.jpg",
        "cat/desktop.ini",
    ]
    found = scan(make(tmp_path, *TWO, *(f"train/{name}" for name in junk), "train/bird/", "val/dog/1.png"), False)
    assert files(found) == {"cat": ["train/cat/1.png"], "dog": ["train/dog/1.png"]}
    assert found.notes == ["Without an image, and left out: train/bird."]


def test_suffixes_are_read_or_counted(tmp_path):
    read = ["a.png", "b.JPG", "c.jpeg", "d.jpe", "e.JFIF", "f.webp", "g.bmp", "h.gif", "i.tif", "j.TIFF"]
    left = ["k.heic", "l.HEIC", "m.heic", "n.txt", "o", "p"]
    found = scan(make(tmp_path, *TWO, *(f"train/cat/x/{name}" for name in read + left)), False)
    assert files(found)["cat"] == ["train/cat/1.png", *(f"train/cat/x/{name}" for name in read)]
    assert found.notes == ["Left out: 3 .heic, 2 without a suffix, 1 .txt."]
    make(tmp_path, *(f"train/cat/x.{i}" for i in range(20)))
    assert "1 .0, 1" in notes(scan(tmp_path, False)).replace(".1,", ".0,") and "15 others" in notes(
        scan(tmp_path, False)
    )


def test_images_and_folders_beside_are_named(tmp_path):
    make(tmp_path, *TWO, "train/1.png", "train/2.png", "3.png", "annotations/1.xml", "images/1.png", ".git/x")
    found = scan(tmp_path, False)
    assert f"images beside the class folders (1 in {tmp_path}, 2 in train/)" in notes(found)
    assert "Not read: annotations/, images/ beside train/." in found.notes
    assert files(found) == {"cat": ["train/cat/1.png"], "dog": ["train/dog/1.png"]}


def test_links_out_of_the_folder_need_a_word(tmp_path):
    outside = make(tmp_path / "outside", "birds/1.png", "2.png")
    root = make(tmp_path / "pets", *TWO)
    (root / "train/bird").symlink_to(outside / "birds")
    (root / "train/cat/2.png").symlink_to(outside / "2.png")
    (root / "train/cat/3.png").symlink_to("../dog/1.png")
    (root / "train/cat/4.png").symlink_to("nowhere.png")
    found = scan(root, False)
    assert files(found) == {"cat": ["train/cat/1.png", "train/cat/3.png"], "dog": ["train/dog/1.png"]}
    assert "2 links that lead out of the folder (--config.data.follow_links=True takes them)" in notes(found)
    assert "1 link that leads nowhere" in notes(found)
    found = scan(root, True)
    assert files(found)["bird"] == ["train/bird/1.png"] and "train/cat/2.png" in files(found)["cat"]
    assert "out of the folder" not in notes(found) and "1 link that leads nowhere" in notes(found)


def test_a_folder_of_links_alone_says_what_takes_them(tmp_path):
    outside = make(tmp_path / "outside", *TWO)
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/train").symlink_to(outside / "train")
    assert "follow_links=True" in refused(tmp_path / "pets")
    make(tmp_path / "pets2", "train/cat/1.png")
    (tmp_path / "pets2/train/dog").symlink_to(outside / "train/dog")
    message = refused(tmp_path / "pets2")
    assert "train/cat: one class" in message and "follow_links=True" in message
    assert scan(tmp_path / "pets", True).classes == ("cat", "dog")
    (tmp_path / "link").symlink_to(outside)  # the root itself may be one
    assert scan(tmp_path / "link", False).classes == ("cat", "dog") and not scan(tmp_path / "link", False).notes


def test_loops_of_links_end(tmp_path):
    make(tmp_path, *TWO, *(f"train/cat/{i}/1.png" for i in range(12)))
    for name in ("train/up", "train/cat/up", "train/dog/up"):
        (tmp_path / name).symlink_to("..")
    (tmp_path / "train/dog/root").symlink_to("/")
    (tmp_path / "train/dog/itself").symlink_to("itself")
    for i in range(12):  # without a memory, all ways through them: 12! of them
        for j in range(12):
            (tmp_path / f"train/cat/{i}/to{j}").symlink_to(f"../{j}")
    started = time.process_time()
    found = scan(tmp_path, True)
    assert time.process_time() - started < 2
    assert len(files(found)["cat"]) == 13 and files(found)["dog"] == ["train/dog/1.png"]
    assert "back to a folder that is already read" in notes(found) and "1 link that leads nowhere" in notes(found)


def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch):
    make(tmp_path, *TWO)
    os.mkfifo(tmp_path / "train/cat/x.png")
    (tmp_path / "train/cat/y.png").symlink_to("x.png")
    monkeypatch.chdir(tmp_path / "train/dog")  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("z.png")
        found = scan(tmp_path, False)
    assert files(found) == {"cat": ["train/cat/1.png"], "dog": ["train/dog/1.png"]}
    assert found.notes == ["Left out: 3 no regular file (FIFO, socket or device)."]


def test_empty_files_are_one_message(tmp_path):
    make(tmp_path, *TWO)
    for i in range(3000):
        os.close(os.open(tmp_path / f"train/cat/e{i:04}.png", os.O_CREAT))
    message = refused(tmp_path)
    assert "3,000 of 3,002 images are empty (0 bytes): train/cat/e0000.png, train/cat/e0001.png" in message
    assert len(message) < 300 and message.endswith("...; remove them")
