"""Parquet files of images, as Hugging Face has them: which splits, columns and classes, and their images by number."""

import json
import sys

import numpy as np
import pytest

from vit_jax.data.sources import parquet
from vit_jax.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog", "fox"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def contents(count, seed=0):
    rng = np.random.RandomState(seed)
    return [rng.bytes(rng.randint(20, 300)) for _ in range(count)]  # whatever they are: nothing decodes them here


def write(file, images, labels, features=FEATURES, kind=IMAGE, label_kind=None, group=7, **more):
    if kind is IMAGE:
        images = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    columns = {"image": pa.array(images, kind), "label": pa.array(labels, label_kind)} | more
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def source_of(tmp_path):
    return parquet.source_of(str(tmp_path / "set"), tmp_path / "store")


def test_images_of_the_hub_are_copied_once_and_read_by_number(tmp_path, capsys):
    train, test = contents(40), contents(9, seed=1)
    files = [
        write(tmp_path / "set/data/train-00000-of-00002.parquet", train[:25], [i % 3 for i in range(25)]),
        write(tmp_path / "set/data/train-00001-of-00002.parquet", train[25:], [i % 3 for i in range(25, 40)]),
        write(tmp_path / "set/data/test-00000-of-00001.parquet", test, [2] * 9),
        write(tmp_path / "set/data/extra-00000-of-00001.parquet", test, [1] * 8 + [-1]),
    ]
    source = source_of(tmp_path)
    assert (
        source.classes == tuple(NAMES) and source.counts == {"train": 40, "test": 9, "extra": 9} and source.size is None
    )
    assert sum(map(len, train + test + test)) <= source.nbytes < 1.5 * sum(map(len, train + test + test))
    assert not (tmp_path / "store").exists()
    source.open()
    for file in files:  # from now on the copy alone is read
        file.unlink()
    splits = source.open()
    records, labels = splits["train"]
    np.testing.assert_array_equal(labels, np.arange(40) % 3)
    assert labels.dtype == np.int32 and list(splits) == ["train", "test"]
    order = np.random.RandomState(2).permutation(40)
    assert records.read(order) == [train[i] for i in order] and len(records) == 40
    assert splits["test"].records.read(np.arange(9)) == test
    assert "image 7" in records.name(7)
    assert "Left out: extra, of whose 9 images 1 have no class." in capsys.readouterr().out


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_plain_bytes_and_labels_that_are_text(kind, tmp_path):
    images = contents(6)
    texts = ["dog", "cat", "eel", "cat", "dog", "eel"]
    write(tmp_path / "set/train.parquet", images, texts, None, pa.binary(), kind)
    write(tmp_path / "set/test.parquet", images[:2], ["eel", "cat"], None, pa.large_binary(), pa.string())
    source = source_of(tmp_path)
    assert source.classes == ("cat", "dog", "eel")
    splits = source.open()
    assert splits["train"].labels.tolist() == [1, 0, 2, 0, 1, 2] and splits["test"].labels.tolist() == [2, 0]
    assert splits["train"].records.read(np.array([5, 0])) == [images[5], images[0]]


def test_a_class_that_train_lacks_is_refused(tmp_path):
    write(tmp_path / "set/train.parquet", contents(2), ["a", "b"], None)
    write(tmp_path / "set/test.parquet", contents(2), ["a", "c"], None)
    with pytest.raises(UserError, match=r"test.parquet: the label 'c' is none of the 2 classes"):
        source_of(tmp_path).open()
    assert [path.name for path in (tmp_path / "store").iterdir()][0].startswith("parquet_train-")


def test_numbers_without_names_are_their_own(tmp_path):
    write(tmp_path / "set/part.parquet", contents(4), [1, 0, 2, 1], None)  # a lone file is the train split
    assert source_of(tmp_path).classes == ("0", "1", "2") and source_of(tmp_path).counts == {"train": 4}
    write(tmp_path / "set/part.parquet", contents(4), [1, 0, 3, 1], None)
    with pytest.raises(UserError, match=r"0, 1, 2 and so on, without a gap; found 0, 1, 3"):
        source_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"], {"train": 1, "validation": 1}),
        (["data/train-00000-of-00002-a1b2c3.parquet", "data/train-00001-of-00002-d4e5f6.parquet"], {"train": 2}),
        (["test/0000.parquet", "train/0000.parquet", "train/0001.parquet"], {"train": 2, "test": 1}),
        (["test/data-00000-of-00001.parquet", "train/data-00000-of-00001.parquet"], {"train": 1, "test": 1}),
        (["extra-00000-of-00001.parquet", "train.parquet"], {"train": 1, "extra": 1}),
        (["dev.parquet", "eval.parquet", "training.parquet"], {"train": 1, "validation": 1, "test": 1}),
        (["unlabelled/0.parquet", "train/0.parquet"], {"train": 1, "unlabelled": 1}),
    ],
)
def test_splits_by_the_names_of_files_and_folders(files, splits, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = parquet.files_of(str(tmp_path))
    assert {split: len(files) for split, files in found.items()} == splits and list(found) == list(splits)
    assert parquet.files_of(str(tmp_path / files[0])) == {"train": [tmp_path / files[0]]}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], r"holds no \*.parquet; found \[\]"),
        (["a.parquet", "b.parquet"], "a.parquet: of which split"),
        (["one/train-00000-of-00001.parquet", "two/train-00000-of-00001.parquet"], r"several data sets \(one, two\)"),
    ],
)
def test_files_of_no_known_split_are_refused(files, said, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=said):
        parquet.files_of(str(tmp_path))
    with pytest.raises(UserError, match="needs config.data.dir"):
        parquet.files_of(None)


def test_columns_that_do_not_fit_are_listed(tmp_path):
    file, images = tmp_path / "set/train.parquet", contents(3)
    more = pa.array(images, pa.binary())
    two_labels = FEATURES | {"coarse_label": FEATURES["label"], "fine_label": FEATURES["label"]}
    for arguments in (
        {"features": None, "second": more},  # two columns of images
        {"features": {"label": FEATURES["label"]}, "second": more},
        {"features": None, "label_kind": pa.float32()},
        {"features": None, "label_kind": pa.list_(pa.int64()), "labels": [[0], [1], [2]]},
        {"kind": pa.list_(IMAGE), "images": [[], [], []], "features": None},
    ):
        write(file, **({"images": images, "labels": [0, 1, 2]} | arguments))
        with pytest.raises(UserError, match=r"train.parquet needs one column of encoded images.*image \(.*label \("):
            source_of(tmp_path)
    write(file, images, [0, 1, 2], FEATURES, second=more, number=pa.array([7, 8, 9]))  # the metadata says which
    assert source_of(tmp_path).open()["train"].labels.tolist() == [0, 1, 2]
    table = pa.table({"image": more, "coarse_label": pa.array([0, 0, 1]), "fine_label": pa.array([2, 1, 0])})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": two_labels}})}), file)
    assert source_of(tmp_path).open()["train"].labels.tolist() == [2, 1, 0]


def test_rows_without_bytes_or_label_and_files_that_are_damaged_are_named(tmp_path):
    file = tmp_path / "set/train.parquet"
    write(file, [*contents(2), None], [0, 1, 2])
    with pytest.raises(UserError, match=r"train.parquet: an image without bytes, only a path"):
        source_of(tmp_path).open()
    write(file, contents(3), [0, None, 2])
    with pytest.raises(UserError, match=r"train.parquet: a row without a label"):
        source_of(tmp_path).open()
    write(file, contents(3), [0, 3, 2])
    with pytest.raises(UserError, match=r"train.parquet: the label 3 is none of the 3 classes"):
        source_of(tmp_path).open()
    assert not list((tmp_path / "store").iterdir())  # nothing half-made is left
    write(file, contents(300), [0] * 300)
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(20_000) + content[20_004:])  # the metadata at the end is whole
    with pytest.raises(UserError, match=r"train.parquet can't be read \(.*fetch it again"):
        source_of(tmp_path).open()
    file.write_bytes(content[:100])
    with pytest.raises(UserError, match=r"train.parquet can't be read \(ArrowInvalid.*fetch it again"):
        source_of(tmp_path)


def test_a_damaged_copy_is_seen_and_made_anew(tmp_path, capsys):
    images = contents(5)
    write(tmp_path / "set/train.parquet", images, [0, 1, 2, 0, 1])
    source = source_of(tmp_path)
    records, _ = source.open()["train"]
    (copy,) = (tmp_path / "store").glob("parquet_train-*/images.bin")
    content = bytearray(copy.read_bytes())
    content[len(images[0])] ^= 1
    copy.write_bytes(content)
    assert records.read(np.array([0, 2])) == [images[0], images[2]]
    with pytest.raises(UserError, match=r"image 1 can't be read \(it differs from its checksum\); delete .*made anew"):
        records.read(np.array([0, 1]))
    copy.write_bytes(content[:-1])
    assert source.open()["train"].records.read(np.arange(5)) == images
    assert "damaged (images.bin hasn't its" in capsys.readouterr().out


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    write(tmp_path / "set/train.parquet", contents(2), [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="need the package pyarrow.*vit-jax prepare --name=parquet"):
        source_of(tmp_path)
