"""Folders of images: read whatever their form, and hostile ones are refused."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from batches import load
from PIL import Image, ImageFile

from vit_jax.config import DataConfig
from vit_jax.data import sources
from vit_jax.data.dataset import take
from vit_jax.data.sources.image_folder import MAX_PIXELS, read_image
from vit_jax.errors import UserError


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


def test_pictures_that_an_image_folder_leaves_out_are_counted(tmp_path, capsys):
    root = write_folder(tmp_path / "pets")
    for name in ("train/cat/a.webp", "train/dog/b.WebP", "test/dog/c.gif", "train/dog/notes.txt", "train/dog/.d.bmp"):
        (root / name).touch()
    load("image_folder", dir=str(root))
    assert f"Left out of {root}: 2 .webp, 1 .gif. Only PNG and JPEG are read" in capsys.readouterr().out
    for file in [*root.glob("*/*/*.png"), *root.glob("*/*/*.JPG")]:
        file.unlink()
    with pytest.raises(UserError, match=r"no \*\.png.*; found 2 \.webp, 1 \.gif: convert them first"):
        load("image_folder", dir=str(root))


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


def png(width, height, rows=b""):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (*chunks, (b"IEND", b""))
    )


def encoded(image, form):
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: png(60_000, 60_000), r"more than the 50,000,000 pixels.*3600000000"),
        (lambda: png(10_000, 10_000), r"more than the 50,000,000 pixels.*100000000"),
        (lambda: png(7_072, 7_072), r"more than the 50,000,000 pixels.*7072 x 7072 = 50,013,184"),
        (lambda: png(2**31 - 1, 2**31 - 1), "more than the 50,000,000 pixels"),
        (lambda: b"", "neither PNG nor JPEG"),
        (lambda: b"GIF89a", "neither PNG nor JPEG"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "neither PNG nor JPEG"),
        *((lambda form=form: encoded(Image.new("P", (8, 8)), form), "neither") for form in ("GIF", "TIFF", "BMP")),
        (lambda: encoded(Image.new("RGB", (64, 64), (1, 2, 3)), "PNG")[:100], "truncated|broken"),
        (lambda: encoded(Image.effect_noise((64, 64), 64), "PNG")[:900], "truncated"),
        (lambda: encoded(Image.effect_noise((64, 64), 64), "JPEG")[:900], "truncated"),
        (lambda: png(64, 64, bytes(100)), "truncated"),
    ],
)
def test_hostile_images_are_refused(tmp_path, content, message, monkeypatch):
    file = tmp_path / "x.png"
    file.write_bytes(content())
    if "truncated" not in message:  # the others are refused before anything is decoded

        def refuse(_):
            raise AssertionError("decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    started = time.process_time()
    with pytest.raises(UserError if "truncated" not in message else Exception, match=message):
        read_image(file, 4)
    assert time.process_time() - started < 1


def test_images_below_the_cap_are_read_whatever_their_suffix(tmp_path):
    side = int(MAX_PIXELS**0.5)
    (tmp_path / "large.jpg").write_bytes(encoded(Image.new("L", (side, side), 100), "PNG"))
    (tmp_path / "cmyk.png").write_bytes(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    (tmp_path / "grey.png").write_bytes(encoded(Image.fromarray(np.full((8, 8), 65_535, np.uint16)), "PNG"))
    assert (read_image(tmp_path / "large.jpg", 4) == 100).all()
    assert (read_image(tmp_path / "grey.png", 4) == 255).all()
    red = read_image(tmp_path / "cmyk.png", 4)
    assert red[..., 0].min() > 200 and red[..., 1:].max() < 60


def test_all_hostile_images_of_a_folder_are_named_in_one_message(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000))
    (folder / "empty.jpg").touch()
    (folder / "gif.png").write_bytes(encoded(Image.new("P", (8, 8)), "GIF"))
    with pytest.raises(UserError, match=r"3 images.*bomb\.png.*50,000,000.*empty\.jpg.*gif\.png \(neither PNG nor"):
        load("image_folder", dir=str(tmp_path))
