"""CIFAR-10 from TFDS, the embedded data sets, and splits."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batches import NAMES, batch, load, write_pickles

from vit_jax.config import Config, DataConfig
from vit_jax.data import sources
from vit_jax.data.dataset import split_range, take
from vit_jax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "tfds"


@pytest.mark.parametrize("tfds", [True, False])
@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")])
def test_absent_and_offline_gives_remedies_of_its_own(name, title, tfds, tmp_path, monkeypatch):
    if tfds:
        pytest.importorskip("tensorflow_datasets")
    else:
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        load(name, dir=str(tmp_path / "empty"))
    said = str(error.value)
    for remedy in (title, *((f"TFDS's folder {name} ", "--config.data.dir", "digits") if tfds else ("cache_dir",))):
        assert remedy in said
    # The way by an archive is CIFAR-10's alone.
    assert ("cifar10_batches" in said) == ("cifar-10-python" in said) == (name == "cifar10")
    with pytest.raises(UserError, match="does not exist"):
        load(name, dir=str(tmp_path / "missing"))


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
        "import sys; from vit_jax.config import Config; from vit_jax.data import sources; "
        "d = sources.load(Config()); print(len(d.splits['train'].labels), 'tensorflow' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["20", "False"]
    # The cached copy serves where the folder is gone and none is named: on a machine without TFDS, say.
    monkeypatch.delenv("TFDS_DATA_DIR")
    os.rename(folder, tmp_path / "elsewhere")
    assert len(load("cifar10").splits["train"].labels) == 20


def test_a_runs_own_arrays_are_found_among_others_when_its_folder_is_gone(tmp_path):
    folders, found = [write_pickles(tmp_path / name) for name in "ab"], []
    content = {b"data": batch(9)[0], b"labels": batch(9)[1]}
    (folders[1] / NAMES[0]).write_bytes(pickle.dumps(content, protocol=2))
    for folder in folders:
        found.append(load("cifar10_batches", dir=str(folder)).sha256)
    for folder in folders:
        folder.rename(tmp_path / f"moved {folder.name}")
    assert found[0] != found[1]
    config = Config(data=DataConfig(name="cifar10_batches", dir=str(folders[0])))
    for sha256 in found:
        assert sources.load(config, must_find_dir=False, sha256=sha256).sha256 == sha256


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
    dataset = load("cifar10", dir=str(REAL), pipeline="decoded")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.images.shape == (50_000, 32, 32, 3) and test.images.shape == (10_000, 32, 32, 3)
    assert (np.bincount(train.labels) == 5000).all() and (np.bincount(test.labels) == 1000).all()
    assert len(take(dataset, "train[:90%]", "key").labels) == 45_000
    assert train.images[-1].shape == (32, 32, 3)


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
