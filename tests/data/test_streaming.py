"""Encoded images, decoded as they are needed: the same pixels, at any step, whoever asks. B batch."""

import hashlib
import json
import re

import jax
import numpy as np
import pytest
from batches import load_at
from PIL import Image

from vit_jax.config import DataConfig
from vit_jax.data.crops import Crops
from vit_jax.data.dataset import Examples, take, with_default_splits
from vit_jax.data.encoded import EncodedImages, cut
from vit_jax.data.geometry import enlarged
from vit_jax.data.pipeline import RandomCrop, TfDataPipeline, indices_at
from vit_jax.data.streaming import batches
from vit_jax.errors import UserError
from vit_jax.system.sharding import batch_sharding, make_mesh

CROP = RandomCrop((0.1, 1.0), (0.75, 4 / 3), "bilinear")
LEFT = CROP._replace(enlarged_in_step=True)


@pytest.fixture
def pictures(tmp_path):
    """44 of many sizes in two classes: PNG, JPEG of any orientation, grey, with a palette."""
    rng = np.random.RandomState(0)
    for i in range(44):
        folder = tmp_path / "pictures" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        small = rng.randint(256, size=(6, 8, 3)).astype(np.uint8)
        image = Image.fromarray(small).resize((20 + 3 * i, 90 - i), Image.Resampling.BICUBIC)
        if i % 4 == 0:
            image.save(folder / f"{i}.png")
        elif i % 4 == 1:
            exif = Image.Exif()
            exif[0x0112] = 1 + i % 8
            image.save(folder / f"{i}.jpg", exif=exif)
        else:
            image.convert("L" if i % 4 == 2 else "P").save(folder / f"{i}.{'jpg' if i % 4 == 2 else 'gif'}")
    return tmp_path / "pictures"


def load(pictures, size=16, **kwargs):
    return load_at(size, "image_folder", dir=str(pictures), **kwargs)


def test_decoded_as_needed_is_decoded_before(pictures):
    arrays, encoded = load(pictures, pipeline="mapped"), load(pictures, pipeline="decoded")
    assert isinstance(arrays.splits["train"].images, np.ndarray)
    images = encoded.splits["train"].images
    assert isinstance(images, EncodedImages) and images.shape == (44, 16, 16, 3)
    np.testing.assert_array_equal(images[:], arrays.splits["train"].images)
    part = take(encoded, "train[10:31]", "key").images
    np.testing.assert_array_equal(np.concatenate(list(batches(part, 8))), arrays.splits["train"].images[10:31])
    np.testing.assert_array_equal(part[-1], arrays.splits["train"].images[30])


def test_a_stream_is_a_function_of_seed_and_step(pictures):
    pytest.importorskip("tensorflow")
    examples = load(pictures, pipeline="decoded").splits["train"]
    for crop in (None, LEFT, CROP):
        pipeline = TfDataPipeline(examples, 12, crop=crop)
        straight = dict(zip(range(9), pipeline.stream(3, 0), strict=False))
        again = next(TfDataPipeline(examples, 12, crop=crop).stream(3, 7))
        parts = [TfDataPipeline(examples, 12, process, 2, crop).batch_at(3, 7) for process in (0, 1)]
        for name, values in straight[7].items():
            np.testing.assert_array_equal(again[name], values)
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)
        np.testing.assert_array_equal(again["label"], examples.labels[indices_at(3, 7, 44, 12)])
    whole = examples.images[indices_at(3, 7, 44, 12)]
    assert (straight[7]["image"] != whole).any()
    first_epoch, second = (np.sort(indices_at(3, i, 44, 44)) for i in (0, 1))
    np.testing.assert_array_equal(first_epoch, second)


def test_each_image_is_read_once_an_epoch_however_many_processes_come_and_go():
    pytest.importorskip("tensorflow")
    count, size = 48, 8  # six steps an epoch
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8)
    examples = Examples(images, np.arange(count, dtype=np.int32))
    read = []  # what all processes read, step by step
    for first, last, processes in ((0, 3, 2), (3, 4, 1), (4, 9, 4), (9, 12, 8)):  # starts: two in mid-epoch
        streams = [TfDataPipeline(examples, size, i, processes).stream(5, first) for i in range(processes)]
        for _ in range(first, last):
            parts = [next(stream) for stream in streams]
            for part in parts:
                assert len(part["label"]) == size // processes
                np.testing.assert_array_equal(part["image"][:, 0, 0, 0], part["label"])
            read.append(np.concatenate([part["label"] for part in parts]))
    for epoch in (read[:6], read[6:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(count))


def test_crops_of_arrays_are_cut_as_those_of_files(tmp_path):
    pytest.importorskip("tensorflow")
    rng = np.random.RandomState(1)
    for i in range(9):
        folder = tmp_path / "tiny" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(256, size=(24, 24, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    found, mesh = [], make_mesh(jax.devices()[:1])
    for pipeline in ("mapped", "decoded"):
        examples = load(tmp_path / "tiny", 24, pipeline=pipeline).splits["train"]
        for crop in (CROP, LEFT):
            stream = TfDataPipeline(examples, 9, crop=crop)
            batch, shapes = stream.batch_at(0, 5), stream.shapes(batch_sharding(mesh))
            assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
                name: (x.shape, x.dtype) for name, x in shapes.items()
            }
            found.append(batch["image"] if crop == CROP else np.asarray(enlarged(batch["image"], batch["extent"])))
    assert max(np.abs(found[0].astype(int) - other).max() for other in found) <= 1


def test_what_stays_encoded(pictures, monkeypatch):
    def kind(size=16, **kwargs):
        return type(load(pictures, size, **kwargs).splits["train"].images).__name__

    assert kind() == "memmap"
    monkeypatch.setattr("vit_jax.data.sources.named._KEPT_AS_ARRAYS", 10_000)
    assert kind(8) == "memmap"  # smaller than the files
    assert kind(64) == "EncodedImages"
    assert kind(64, pipeline="resident") == "memmap"
    assert kind(8, pipeline="decoded") == "EncodedImages"


def test_an_image_that_breaks_in_mid_run_is_named_and_nothing_else_is_said(pictures, capfd):
    pytest.importorskip("tensorflow")
    examples = load(pictures, pipeline="decoded").splits["train"]
    broken = pictures / "cat/0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"cat/0\.png can't be decoded.*put a whole copy"):
        for _ in zip(range(4), TfDataPipeline(examples, 12).stream(0, 0), strict=False):
            pass
    Image.new("RGB", (3, 3)).save(broken, "GIF")  # smaller than what is to be cut out of it
    with pytest.raises(UserError, match=r"can't be decoded \(it has changed since the start\)"):
        for _ in zip(range(4), TfDataPipeline(examples, 12, crop=CROP).stream(0, 0), strict=False):
            pass
    broken.unlink()
    with pytest.raises(UserError, match=r"cat/0\.png can't be read \(No such file"):
        for _ in zip(range(4), TfDataPipeline(examples, 12).stream(0, 0), strict=False):
            pass
    printed = capfd.readouterr().err
    assert "Traceback" not in printed and "rendezvous" not in printed  # TensorFlow's


def test_the_index_is_made_once_and_sees_changes(pictures, monkeypatch, capsys):
    first = load(pictures, pipeline="decoded")
    with monkeypatch.context() as patch:
        patch.setattr("vit_jax.data.index.header", None)  # would raise
        assert load(pictures, pipeline="decoded").sha256 == first.sha256
    assert not capsys.readouterr().out
    Image.new("RGB", (9, 9), (1, 2, 3)).save(pictures / "cat/0.png")
    assert load(pictures, pipeline="decoded").sha256 != first.sha256
    said = f"The files of {pictures} aren't those that its index was made of: looking at each image anew ...\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("damage", ["images", "notes"])
def test_an_index_of_other_images_is_made_anew(damage, pictures, tmp_path, capsys):
    first = load(pictures, pipeline="decoded")
    (file,) = (tmp_path / "cache").glob("image_folder_index-*/index.json")
    about = json.loads(file.read_text())
    if damage == "images":
        np.save(file.with_name("train_sizes.npy"), np.ones((43, 2), np.int32))
        content = file.with_name("train_sizes.npy").read_bytes()
        about["sha256"]["train_sizes.npy"] = hashlib.sha256(content).hexdigest()
    else:
        about["notes"] = [["train", 44, "of no image"]]
    file.write_text(json.dumps(about))
    assert load(pictures, pipeline="decoded").sha256 == first.sha256
    assert re.fullmatch(r"The cached arrays in .* are damaged .*made anew\.\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        ("train test", {}, ("train[:90%]", "train[90%:]", "test")),
        ("train", {}, ("train[:90%]", "train[90%:]", "")),
        ("train validation", {}, ("train", "validation", "")),
        ("train val test", {}, ("train", "val", "test")),
        ("train validation", {"validation": "train[80%:]"}, ("train[:90%]", "train[80%:]", "")),
        ("train validation", {"validation": ""}, ("train", "", "")),
        ("train test", {"validation": ""}, ("train[:90%]", "", "test")),
        ("train validation test", {"train": "train[:50%]", "test": ""}, ("train[:50%]", "validation", "")),
    ],
)
def test_splits_that_a_config_leaves_open(names, given, expected):
    found = with_default_splits(DataConfig(**given), names.split())
    assert (found.train, found.validation, found.test) == expected


def test_cutting_arrays():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    windows = np.array([[0, 0, 4, 4], [1, 1, 2, 2]], np.int32)
    boxes = np.array([[0, 0, 4, 4], [0, 0, 2, 2]], np.float32)
    found, extent = cut(images, Crops(windows, boxes), "bilinear")
    np.testing.assert_array_equal(found[0], images[0])
    inside = Image.fromarray(images[1][1:3, 1:3]).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[1], np.asarray(inside))
    assert (extent == 4).all()
    found, extent = cut(images, Crops(windows, boxes), "bilinear", enlarge=False)
    np.testing.assert_array_equal(found[1, :2, :2], images[1][1:3, 1:3])
    assert extent.tolist() == [[4, 4], [2, 2]]
