"""Sets of TFDS that can't be read are refused by what they are: missing, of another form, of other examples."""

import json

import numpy as np
import pytest

from vit_jax.data.sources import example, tfds
from vit_jax.errors import UserError


def feature(kind, **parts):
    return {"pythonClassName": f"tensorflow_datasets.core.features.x.{kind}", **parts}


IMAGE = feature("Image", image={"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}})


LABEL = feature("ClassLabel", classLabel={"numClasses": "3"})


def write_json(place, features, keys=None, name="some", version="1.0.0", **changes):
    """What stands in a prepared folder beside the files of the examples."""
    folder = place / name / version
    folder.mkdir(parents=True)
    split = {"name": "train", "numBytes": "9", "shardLengths": ["2", "3"]}
    info = {"name": name.split("/")[0], "version": version, "splits": [split]} | changes
    if keys:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in keys]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = {"pythonClassName": "x.FeaturesDict", "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(features))
    return folder


def test_what_is_not_here_is_said_with_what_is(tmp_path, monkeypatch):
    for name, version in (("some/one", "1.0.0"), ("some/two", "1.0.0"), ("some/two", "1.10.0"), ("some/two", "1.9.0")):
        write_json(tmp_path, {"image": IMAGE, "label": LABEL}, name=name, version=version)
    write_json(tmp_path / "second", {"image": IMAGE, "label": LABEL}, name="other")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "second"))

    def version(name):
        return tfds.source_of(name, str(tmp_path), tmp_path).identity["version"]

    assert version("tfds:some/two") == "1.10.0" and version("tfds:some/two:1.9.0") == "1.9.0"
    assert version("tfds:other") == "1.0.0"
    for absent in ("tfds:some", "tfds:some/three", "tfds:some/two:2.0.0"):
        assert tfds.source_of(absent, str(tmp_path), tmp_path) is None
        with pytest.raises(UserError, match="tfds build some") as error:
            tfds.fetch(absent, str(tmp_path))
        for said in (str(tmp_path), "second", "tfds:some/one:1.0.0", "tfds:some/two:1.9.0", "--config.data.dir"):
            assert said in str(error.value)
    with pytest.raises(UserError) as error:
        tfds.fetch("tfds:nowhere", None)
    assert "there is" not in str(error.value)


def test_features_are_found_without_supervised_keys_and_names_without_a_list(tmp_path):
    folder = write_json(tmp_path, {"photo": IMAGE, "kind": LABEL, "id": feature("Text")})
    source = tfds.source_of("tfds:some", str(tmp_path), tmp_path)
    assert source.classes == ("0", "1", "2") and source.counts == {"train": 5} and source.nbytes == 9
    (folder / "kind.labels.txt").write_text("cat\ndog\nfox\n")
    assert tfds.source_of("tfds:some", str(tmp_path), tmp_path).classes == ("cat", "dog", "fox")
    (folder / "kind.labels.txt").write_text("cat\n")
    with pytest.raises(UserError, match="kind.labels.txt has 1 names for 3 classes"):
        tfds.source_of("tfds:some", str(tmp_path), tmp_path)


SEQUENCE = feature("Sequence", sequence={"feature": LABEL, "length": "-1"})


REFUSED = {
    "detection": {"image": IMAGE, "objects": SEQUENCE},
    "no labels": {"image": IMAGE, "id": feature("Text")},
    "multi-label": {"image": IMAGE, "labels": SEQUENCE},
    "video": {"video": feature("Video", video={}), "label": LABEL},
    "two images": {"left": IMAGE, "right": IMAGE, "label": LABEL},
    "two labels": {"image": IMAGE, "a": LABEL, "b": LABEL},
    "arrays that aren't encoded": {"image": feature("Tensor", tensor={"dtype": "uint8"}), "label": LABEL},
    "floats in a PNG": {"image": feature("Image", image={"dtype": "float32"}), "label": LABEL},
}


# With keys that say which, two images or labels are none too many.
@pytest.mark.parametrize(
    ("kind", "keyed"), [(kind, keyed) for kind in REFUSED for keyed in (False, True) if not (keyed and "two" in kind)]
)
def test_other_examples_than_an_image_with_a_class_are_refused(kind, keyed, tmp_path):
    features = REFUSED[kind]
    write_json(tmp_path, features, keys=list(features) if keyed else None)
    with pytest.raises(UserError, match=r"one encoded image \(Image\) with one class") as error:
        tfds.source_of("tfds:some", str(tmp_path), tmp_path)
    assert all(f"{name} (" in str(error.value) for name in features)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fileFormat": "riegeli"}, "of the file format riegeli; prepare it again.*--file_format=tfrecord"),
        ({"splits": []}, "no split has examples"),
        ({"splits": 3}, "can't be read .TypeError"),
        ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, "can't be read .ValueError"),
        (
            {"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "../{SHARD_X_OF_Y}"}]},
            "00000-of-00001 lies outside",
        ),
    ],
)
def test_folders_of_another_form_are_refused(changes, said, tmp_path):
    write_json(tmp_path, {"image": IMAGE, "label": LABEL}, **changes)
    with pytest.raises(UserError, match=said):
        tfds.source_of("tfds:some", str(tmp_path), tmp_path)


def test_what_is_no_example_is_refused_whatever_it_is():
    features = {
        b"image": b"\x0a\x05\x0a\x03abc",  # a list of bytes
        b"label": b"\x1a\x03\x0a\x01\x07",  # a list of integers
    }
    entries = b"".join(
        b"\x0a"
        + bytes([len(key) + len(value) + 4])
        + b"\x0a"
        + bytes([len(key)])
        + key
        + b"\x12"
        + bytes([len(value)])
        + value
        for key, value in features.items()
    )
    whole = b"\x0a" + bytes([len(entries)]) + entries

    def parsed(record):
        found = example.features(record)
        return record[slice(*example.only_bytes(record, found.get(b"image")))], example.only_integer(
            record, found.get(b"label")
        )

    assert parsed(whole) == (b"abc", 7)
    rng = np.random.RandomState(0)
    for cut in range(len(whole)):
        with pytest.raises(ValueError, match="Example|values"):
            parsed(whole[:cut])
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.randint(len(whole), size=3):
            damaged[place] = rng.randint(256)
        try:
            content, label = parsed(bytes(damaged))
        except ValueError:
            continue
        assert len(content) < len(whole) and -(2**63) <= label < 2**70
