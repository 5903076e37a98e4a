"""Prediction takes images of every kind, as evaluation would see them, and says which it couldn't read."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax.config import Config, DataConfig, ModelConfig
from vit_jax.data import sources
from vit_jax.data.encoded import seen
from vit_jax.data.images import upright
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.evaluation.predict import Predictor, find_images
from vit_jax.main import main
from vit_jax.runs import trained
from vit_jax.steps.step import eval_step
from vit_jax.system import progress

GOLDEN = Path(__file__).parents[1] / "golden" / "0.1.0"
CLASSES = {f"class {i}" for i in range(10)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return shutil.copytree(GOLDEN, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(str(run))


@pytest.fixture(scope="module")
def examples():
    config = Config(data=DataConfig(name="fake"), model=ModelConfig(image_size=16))
    return sources.load(config).splits["test"].images  # (128, 16, 16, 3)


@pytest.fixture
def pictures(tmp_path):
    """A function that saves a picture in one of Pillow's modes under a name."""

    def save(name, mode="RGB", size=(40, 30), **options):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.RandomState(0).randint(256, size=(*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(noise).convert(mode).save(file, **options)
        return file

    return save


def test_probabilities_are_those_of_the_evaluation(run, predictor, examples, tmp_path):
    """A test image that was saved as a PNG goes the way of the stored one, bit by bit."""
    model = trained.load(str(run))
    logits = jax.jit(lambda images: eval_step(model.params, images, module=model.module, config=model.config))(examples)
    files = [tmp_path / f"{i}.png" for i in range(40)]
    for file, image in zip(files, examples, strict=False):
        Image.fromarray(image).save(file)
    found = predictor(files)
    assert found.shape == (40, 10) and found.dtype == np.float32
    np.testing.assert_allclose(found, jax.nn.softmax(logits)[:40], rtol=1e-5, atol=1e-7)
    assert set(predictor.classes) == CLASSES


def test_paths_pictures_and_arrays_are_one(predictor, pictures):
    file = pictures("a.png")
    with Image.open(file) as image:
        found = predictor([str(file), file, image, np.asarray(image)])
        for alone in (str(file), file, image, np.asarray(image)):
            np.testing.assert_array_equal(predictor(alone), found[:1])
    np.testing.assert_array_equal(found, found[:1].repeat(4, axis=0))
    assert predictor([]).shape == (0, 10)


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), "u1")]
)
def test_other_arrays_are_refused(predictor, array):
    with pytest.raises(UserError, match=r"uint8 \(H, W, 3\) or, grey, \(H, W, 1\); found .*8"):
        predictor([array])


def test_what_is_no_image_is_refused(predictor, tmp_path):
    with pytest.raises(UserError, match=r"is a folder; give its images: .*glob"):
        predictor(tmp_path)
    with pytest.raises(UserError, match="an image is a path.*; found int"):
        predictor([3])


def test_an_array_of_images_is_each_of_them_and_one_without_colours_is_refused(predictor, examples):
    assert predictor(examples[:3]).shape == (3, 10)
    with pytest.raises(UserError, match=r"\(H, W, 1\); found uint8 \(16, 16\)"):
        predictor(examples[0, :, :, 0])


@pytest.mark.parametrize(
    ("name", "mode"), [("l.png", "L"), ("1.png", "1"), ("la.png", "LA"), ("rgba.png", "RGBA"), ("p.png", "P"),
                       ("i16.png", "I;16"), ("l.jpg", "L"), ("cmyk.jpeg", "CMYK"), ("upper.JPG", "RGB")],
)  # fmt: skip
def test_images_of_every_mode(predictor, pictures, name, mode):
    probabilities = predictor([pictures(name, mode)])
    assert probabilities.sum() == pytest.approx(1, abs=1e-5) and np.isfinite(probabilities).all()


def test_cameras_that_lay_on_their_side(predictor, pictures):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = predictor.read(pictures("turned.png", exif=exif))
    expected = np.rot90(predictor.read(pictures("plain.png")), -1)
    np.testing.assert_allclose(turned.astype(int), expected, atol=1)  # resized along the other side first


def test_images_of_folders(pictures, tmp_path):
    files = [pictures(name) for name in ("b/2.JPEG", "b/1.png", "a.jpg", "c d/ü.png")]
    for hidden in (".h.png", ".git/x.png", "b/.cache/y.png", "b/@eaDir/1.png", "__MACOSX/2.png"):
        pictures(hidden)
    (tmp_path / "pictures" / "notes.txt").touch()
    folder = tmp_path / "pictures"
    assert find_images([str(folder)]) == ([files[2], files[1], files[0], files[3]], "")
    assert find_images([str(folder / ".h.png"), str(files[0])]) == ([folder / ".h.png", files[0]], "")


def test_a_folder_below_that_can_not_be_read_is_named(pictures, tmp_path, monkeypatch):
    pictures("a.png"), pictures("b/1.png")
    scandir = os.scandir

    def denied(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)  # root may read all
    with pytest.raises(UserError, match=r"--images: Permission denied \(.*/pictures/b\)"):
        find_images([str(tmp_path / "pictures")])


def test_pictures_of_other_formats_are_counted(run, pictures, tmp_path, capsys):
    pictures("a.png")
    folder = tmp_path / "pictures"
    for name in ("b.avif", "c.HEIC", "more/d.heic", ".h.jxl", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert main(["vit-jax", "predict", f"--workdir={run}", f"--images={folder}", "--format=csv", "--top_k=1"]) == 0
    printed = capsys.readouterr()
    assert "Left out: 2 .heic, 1 .avif. Only PNG, JPEG, WebP, BMP, GIF and TIFF are read" in printed.err
    assert len(printed.out.splitlines()) == 2
    (folder / "a.png").unlink()
    with pytest.raises(UserError, match="no .*png.* in this folder; found 2 .heic, 1 .avif: convert them first"):
        find_images([str(folder)])


def test_csv_and_json_are_all_that_stdout_holds(run, pictures, tmp_path, capsys):
    files = [str(pictures(name)) for name in ('com,ma "x".png', "b.png", "c.jpg")]
    args = ["vit-jax", "predict", f"--workdir={run}", "--images", *files, "--top_k=3"]
    assert main([*args, "--format=csv"]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["path", "rank", "class", "probability"]
    assert [row[0] for row in rows] == [file for file in files for _ in range(3)]
    assert [row[1] for row in rows] == ["1", "2", "3"] * 3 and {row[2] for row in rows} <= CLASSES
    assert main([*args, "--format=json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["path"], i["class"], i["probability"]) for one in listed for i in one["predictions"]] == [
        (path, name, float(probability)) for path, _, name, probability in rows
    ]
    for one in listed:
        probabilities = [i["probability"] for i in one["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True) and len(probabilities) == 3


def test_the_table_names_no_more_classes_than_there_are(run, pictures, command):
    file = pictures("a.png")
    code, printed = command("predict", f"--workdir={run}", f"--images={file}", "--top_k=50")
    head, line = printed.splitlines()
    assert code == 0 and head.split()[0] == "image" and head.split()[-2:] == ["class", "10"]
    assert line.startswith(str(file)) and line.count(" %") == 10 and all(name in line for name in CLASSES)


def test_a_table_has_a_line_for_each_image_whatever_its_name(run, pictures, tmp_path, command):
    pictures("new\nline \x1b[31m.png")
    code, printed = command("predict", f"--workdir={run}", f"--images={tmp_path / 'pictures'}")
    assert code == 0 and len(printed.splitlines()) == 2 and r"new\nline \x1b[31m.png" in printed


def test_a_table_fits_a_narrow_terminal(run, pictures, command, monkeypatch):
    file = pictures(f"{'deep/' * 20}a.png")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(progress.console, "width", 60)
    code, printed = command("predict", f"--workdir={run}", f"--images={file}", "--top_k=2")
    name, *classes = printed.splitlines()
    assert code == 0 and len(classes) == 2 and len(name) == 60
    assert name.startswith("...") and name.endswith("/deep/a.png") and str(file).endswith(name[3:])
    assert all(re.fullmatch(r" +\d+\.\d\d %  class \d", line) for line in classes)


def test_what_cannot_be_read_is_named_and_the_rest_predicted(run, pictures, tmp_path, capsys):
    good = [pictures("a.png"), pictures("z.png")]
    cut = pictures("cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-100])
    (tmp_path / "pictures" / "empty.png").touch()
    pictures("ppm.ppm").rename(tmp_path / "pictures" / "ppm.png")
    args = ["vit-jax", "predict", f"--workdir={run}", f"--images={tmp_path / 'pictures'}", "--top_k=1", "--format=csv"]
    assert main(args) == 2
    printed = capsys.readouterr()
    assert [row.split(",")[0] for row in printed.out.splitlines()[1:]] == [str(file) for file in good]
    assert "3 of 5 images can't be read" in printed.err and "Traceback" not in printed.err
    for name, reason in (("cut.jpg", "truncated"), ("empty.png", "no PNG, JPEG"), ("ppm.png", "no PNG, JPEG")):
        assert any(name in line and reason in line for line in printed.err.splitlines())


@pytest.mark.parametrize("kind", ["absent.png", "empty"])
def test_paths_without_images_are_refused_at_once(run, tmp_path, command, kind, monkeypatch):
    monkeypatch.setattr(trained, "load", lambda *_: pytest.fail("the model was read"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    code, printed = command("predict", f"--workdir={run}", f"--images={tmp_path / kind}")
    assert code == 2 and kind in printed and ("no such" in printed or "no *.png" in printed)


def test_more_images_than_a_batch(run, examples, tmp_path, capsys):
    for i, image in enumerate(examples):
        Image.fromarray(image).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "064.png").write_bytes(b"")
    args = ["vit-jax", "predict", f"--workdir={run}", f"--images={tmp_path}", "--top_k=1", "--format=json"]
    assert main(args) == 2
    listed = json.loads(capsys.readouterr().out)
    assert [Path(one["path"]).stem for one in listed] == [f"{i:03d}" for i in range(128) if i != 64]


@pytest.mark.slow
def test_a_reader_that_leaves_and_names_that_are_no_text(run, pictures, tmp_path):
    """`predict ... | head -1` ends without a complaint, whatever bytes the names have."""
    os.rename(pictures("a.png"), os.fsencode(tmp_path / "pictures") + b"/\xff.png")
    for i in range(2000):
        os.link(pictures("b.png") if not i else tmp_path / "pictures" / "b.png", tmp_path / "pictures" / f"c{i}.png")
    child = subprocess.Popen(
        [sys.executable, "-m", "vit_jax.main", "predict", f"--workdir={run}", "--format=csv", "--images",
         os.fsencode(tmp_path / "pictures") + b"/\xff.png", tmp_path / "pictures"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == b"path,rank,class,probability\n"
    assert rb"/\xff.png,1,class" in child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b"" and child.wait() == 0


def test_a_16_bit_picture_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((40, 20), np.uint16)
    pixels[:20] = 60000
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "deep.png", exif=exif)
    Image.fromarray((pixels // 257).astype(np.uint8)).save(tmp_path / "plain.png", exif=exif)
    deep, plain = (seen(upright((tmp_path / name).read_bytes()), View((8, 8))) for name in ("deep.png", "plain.png"))
    np.testing.assert_allclose(deep.astype(int), plain, atol=1)
    assert plain[:, -1].min() > plain[:, 0].max()


def test_images_that_the_evaluation_saw_whole_are_predicted_whole(run, examples, tmp_path):
    """Of sets whose images all have one size config.data.crop_pct takes nothing away."""
    copy = shutil.copytree(run, tmp_path / "run")
    config, data = (json.loads((copy / name).read_text()) for name in ("config.json", "data.json"))
    config["data"]["crop_pct"] = 0.5
    (copy / "config.json").write_text(json.dumps(config))
    for crop_pct in (1.0, 0.5):
        (copy / "data.json").write_text(json.dumps(data | {"crop_pct": crop_pct}))
        found = Predictor(str(copy)).read(examples[0])
        assert found.shape == (16, 16, 3) and (found == examples[0]).all() == (crop_pct == 1)
