"""Prepared sets of TensorFlow Datasets by name: what they hold, and their encoded images in any order."""

import gzip
import io
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from batches import load, load_at
from PIL import Image

from vit_jax.cli.prepare import prepare
from vit_jax.config import Config, DataConfig, ModelConfig
from vit_jax.data import cache, sources
from vit_jax.data.sources import pieces, tfds
from vit_jax.errors import UserError

COUNTS = {"train": 30, "extra": 10}


def build(
    place,
    form="tfrecord",
    name="small",
    version="1.0.0",
    shape=(None, None, 3),
    counts=COUNTS,
    unlabelled=(),
    heights=(8,),
):
    """A set that TFDS itself prepares: noise as PNG, 8 pixels wide, in three files for each split."""
    pytest.importorskip("tensorflow")
    lib = pytest.importorskip("tensorflow_datasets")

    def info(self):
        parts = {
            "id": lib.features.Text(),
            "image": lib.features.Image(shape=shape, encoding_format="png"),
            "label": lib.features.ClassLabel(names=[f"kind {i}" for i in range(10)]),
        }
        features = lib.features.FeaturesDict(parts)
        return lib.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def examples(self, split):
        rng = np.random.RandomState(counts[split])
        for i in range(counts[split]):
            image = rng.randint(256, size=(heights[i % len(heights)], 8, 3)).astype(np.uint8)
            yield i, {"id": str(i), "image": image, "label": -1 if split in unlabelled else i % 10}

    members = {
        "name": name,
        "VERSION": lib.core.Version(version),
        "_info": info,
        "_split_generators": lambda self, _: {split: self._generate_examples(split) for split in counts},
        "_generate_examples": examples,
    }
    with lib.core.registered.skip_registration():
        builder = type("Small", (lib.core.GeneratorBasedBuilder,), members)(data_dir=place, file_format=form)
    builder.download_and_prepare(download_config=lib.download.DownloadConfig(num_shards=3, try_download_gcs=False))
    return builder


def as_tfds_gives_them(builder, split):
    """The images and labels, one file after the other."""
    import tensorflow_datasets as lib

    if builder.info.file_format.value == "array_record":
        rows = list(builder.as_data_source(split=split))
    else:
        read_config = lib.ReadConfig(interleave_cycle_length=1)
        rows = list(builder.as_dataset(split=split, read_config=read_config).as_numpy_iterator())
    return np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows])


def decoded(records, index):
    return np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in records.read(index)])


@pytest.mark.parametrize("form", ["tfrecord", "array_record"])
def test_images_are_those_of_tfds_in_the_order_of_the_files(form, tmp_path, monkeypatch):
    if form == "array_record":
        pytest.importorskip("array_record")
    builder = build(tmp_path / "sets", form)
    source = tfds.source_of("tfds:small", str(tmp_path / "sets"), tmp_path / "store")
    assert source.counts == COUNTS and source.size is None and source.classes[3] == "kind 3" and source.nbytes > 0
    for again in (False, True):
        if again:  # from the index: neither TensorFlow nor another walk through the files
            monkeypatch.setitem(sys.modules, "tensorflow", None)
        for split, (records, labels) in source.open().items():
            if not again:
                images, expected = as_tfds_gives_them(builder, split)
                np.testing.assert_array_equal(labels, expected)
                np.testing.assert_array_equal(decoded(records, np.arange(len(images))), images)
            chosen = np.array([len(labels) - 1, 0, 7, 7])
            assert len(records) == COUNTS[split] and labels.dtype == np.int32
            assert records.read(chosen) == [records.read(np.array([i]))[0] for i in chosen]
    assert records.name(4).endswith(f"small-extra.{form}-00001-of-00003, image 1")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    if form == "tfrecord":
        with pytest.raises(UserError, match="tfds:small from TFDS needs TensorFlow.*vit-jax prepare"):
            tfds.source_of("tfds:small", str(tmp_path / "sets"), tmp_path / "other").open()


def test_cifar10_keeps_its_cached_arrays_and_its_order(tmp_path):
    build(tmp_path / "sets", name="cifar10", version="3.0.2", shape=(8, 8, 3), counts={"train": 30, "test": 10})
    dataset = load("cifar10", dir=str(tmp_path / "sets"))
    source = tfds.source_of("cifar10", str(tmp_path / "sets"), tmp_path / "store")
    assert source.size == (8, 8) and source.classes == dataset.classes and source.classes[0] == "airplane"
    # The folder by which the arrays of earlier versions are found.
    info = json.loads((tmp_path / "sets/cifar10/3.0.2/dataset_info.json").read_text())
    assert source.arrays_identity == {"version": "3.0.2", "splits": info["splits"]}
    assert cache.read(cache.folder(tmp_path / "cache", "cifar10", source.arrays_identity)).sha256
    for split, (records, labels) in source.open().items():
        np.testing.assert_array_equal(labels, dataset.splits[split].labels)
        np.testing.assert_array_equal(decoded(records, np.arange(len(labels))), dataset.splits[split].images)


@pytest.mark.slow
def test_what_is_kept_of_a_set_belongs_to_its_files(tmp_path, capsys):
    """Of a set that is prepared anew TFDS may state the same version, counts and bytes, though the order is another."""
    build(tmp_path / "sets", heights=(8, 10, 12))

    def check(place="sets"):
        arrays = load_at(8, "tfds:small", dir=str(tmp_path / place)).splits["train"].images
        images = load_at(8, "tfds:small", dir=str(tmp_path / place), pipeline="decoded").splits["train"].images
        shapes = [Image.open(io.BytesIO(content)).size[::-1] for content in images.read(np.arange(30))]
        assert list(map(tuple, images.sizes(np.arange(30)))) == shapes
        np.testing.assert_array_equal(images[:], arrays)
        return arrays

    before = check()
    assert "index was made of" not in capsys.readouterr().out
    first, second = (tmp_path / f"sets/small/1.0.0/small-train.tfrecord-0000{i}-of-00003" for i in (0, 1))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    after = check()
    np.testing.assert_array_equal(after, before[[*range(10, 20), *range(10), *range(20, 30)]])
    said = f"The files of {tmp_path}/sets/small/1.0.0 aren't those that its index was made of"
    assert capsys.readouterr().out.count(said) == 1
    shutil.move(tmp_path / "sets", tmp_path / "moved")
    check("moved")
    assert not capsys.readouterr().out  # all that is kept belongs to the moved ones, too


def test_a_split_without_classes_is_left_out_and_named(tmp_path, capsys):
    build(tmp_path / "sets", unlabelled=("extra",))  # as the test split of ImageNet is
    splits = tfds.source_of("tfds:small", str(tmp_path / "sets"), tmp_path / "store").open()
    assert set(splits) == {"train"} and set(splits["train"].labels) == set(range(10))
    assert "Left out: extra, of whose 10 images 10 have no class." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar100", ("cifar100", None)),
        ("tfds:stl10", ("stl10", None)),
        ("tfds:imagenet_v2/matched-frequency", ("imagenet_v2/matched-frequency", None)),
        ("tfds:a/b.c+d:1.2.3", ("a/b.c+d", "1.2.3")),
        ("tfds:a:10.0.0", ("a", "10.0.0")),
    ],
)
def test_names(name, expected):
    assert tfds.parse(name) == expected


@pytest.mark.parametrize("name", ["tfds:", "tfds:../x", "tfds:a/..", "tfds:a/b/c", "tfds:a:1", "tfds:a b", "tfds:*"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UserError, match=r"is no name of a data set of TFDS; write tfds:NAME"):
        tfds.source_of(name, None, Path("store"))


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path):
    build(tmp_path / "sets")
    source = tfds.source_of("tfds:small", str(tmp_path / "sets"), tmp_path / "store")
    file = tmp_path / "sets/small/1.0.0/small-train.tfrecord-00001-of-00003"
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[200] ^= 1
    damages = {
        "cut": content[:-10],
        "flipped": bytes(flipped),
        "gzip": gzip.compress(content),
        "one record less": content[16 + int.from_bytes(content[:8], "little") :],
    }
    for kind, damaged in damages.items():
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{file.name} can't be read.*(copy|prepare) the data set") as error:
            source.open()
        assert ("gzip" in str(error.value)) == (kind == "gzip")
        assert ("it has 9 records, where dataset_info.json says 10" in str(error.value)) == (kind == "one record less")
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name} can't be read \(No such file"):
        source.open()

    # What is damaged after the index was made is seen when it is read.
    file.write_bytes(content)
    records, _ = source.open()["train"]
    place = content.index(b"\x89PNG")
    with file.open("r+b") as stream:
        stream.seek(place + 60)
        stream.write(bytes([content[place + 60] ^ 1]))
    records.read(np.arange(10))
    with pytest.raises(UserError, match=rf"{file.name}, image 0 can't be read \(it differs from its checksum"):
        records.read(np.arange(20))
    os.truncate(file, place)
    with pytest.raises(UserError, match=rf"{file.name}, image 0 can't be read \(it ends behind the end"):
        records.read(np.array([10]))


def test_a_damaged_array_record_is_named(tmp_path):
    pytest.importorskip("array_record")
    build(tmp_path / "sets", "array_record")
    source = tfds.source_of("tfds:small", str(tmp_path / "sets"), tmp_path / "store")
    source.open()
    file = tmp_path / "sets/small/1.0.0/small-train.array_record-00001-of-00003"
    records, _ = source.open()["train"]
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(UserError, match=rf"{file.name}.* can't be read .*copy the data set again"):
        records.read(np.array([15]))
    with pytest.raises(UserError, match=rf"{file.name} can't be read .*copy the data set again"):
        source.open()


def test_few_of_many_files_stay_open_whatever_many_threads_read(tmp_path, monkeypatch):
    build(tmp_path / "sets")
    tfds.source_of("tfds:small", str(tmp_path / "sets"), tmp_path / "store").open()
    # TensorFlow, which made the index, may still have files open; of a copy, whose index that is, too, it has none.
    shutil.copytree(tmp_path / "sets", tmp_path / "copy")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(pieces.resource, "getrlimit", lambda which: (4, 4))
    records, _ = tfds.source_of("tfds:small", str(tmp_path / "copy"), tmp_path / "store").open()["train"]
    images = records.read(np.arange(30))
    orders = [np.random.RandomState(i).permutation(30) for i in range(200)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns at every step, so that files are put away at the worst moments
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(records.read, orders))
    finally:
        sys.setswitchinterval(usual)
    for order, got in zip(orders, found, strict=True):
        assert got == [images[i] for i in order]

    def still_open():
        return [
            f for f in Path("/proc/self/fd").iterdir() if f.is_symlink() and str(tmp_path / "copy") in os.readlink(f)
        ]

    assert 0 < len(still_open()) <= 2
    del records
    assert not still_open()


def test_images_of_one_size_are_kept_whole_and_grey_where_the_model_is(tmp_path):
    build(tmp_path / "sets", name="cifar10", version="3.0.2", shape=(8, 8, 3), counts={"train": 30, "test": 10})
    colour, cropped = (load("cifar10", dir=str(tmp_path / "sets"), crop_pct=pct) for pct in (1.0, 0.5))
    assert cropped.view is None and cropped.sha256 == colour.sha256
    small = load("cifar10", dir=str(tmp_path / "sets"), crop_pct=0.5, image_size=4)
    again = load("cifar10", dir=str(tmp_path / "sets"), crop_pct=0.5, image_size=4)
    assert small.view.crop_pct == 0.5 and again.view == small.view
    assert small.splits["test"].images.shape == (10, 4, 4, 3)
    shutil.rmtree(tmp_path / "sets")  # as on a machine that has the cache alone
    data = DataConfig(name="cifar10", crop_pct=0.5, image_size=4)
    grey = sources.load(Config(data=data, model=ModelConfig(channels=1))).splits["test"].images
    assert grey.shape == (10, 4, 4, 1)
    with pytest.raises(UserError, match=r"for another config \(\(4, 4\) pixels.*not \(5, 5\) pixels"):
        load("cifar10", crop_pct=0.5, image_size=5)


def test_a_set_of_tfds_is_prepared_for_a_machine_that_has_the_cache_alone(tmp_path, capsys):
    build(tmp_path / "sets")
    prepare("tfds:small", str(tmp_path / "sets"), None, 4)
    shutil.rmtree(tmp_path / "sets")
    (folder,) = (tmp_path / "cache").glob("tfds_small-*")  # no ":", which scp takes for a machine's name
    assert f"in {folder}" in capsys.readouterr().out.splitlines()
    assert load_at(4, "tfds:small").splits["train"].images.shape == (30, 4, 4, 3)
    with pytest.raises(UserError, match="is not one of .*tfds:NAME"):
        prepare("small", None, None, 4)
