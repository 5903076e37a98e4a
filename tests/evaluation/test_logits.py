"""Scores and probabilities of logits, those that aren't finite with them. Every number of a result can be read."""

import json
import shutil
import warnings

import numpy as np
import pytest

from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.evaluation.logits import calibration_error, confusion, probabilities, score
from vit_jax.runs.scores import scores_of

LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3])
LOGITS = (8.0 * np.eye(6)[LABELS] + np.random.RandomState(0).normal(size=(8, 6))).astype(np.float32)  # all right


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [1, 4], ids=["its own class", "another class"])
def test_an_image_without_finite_logits_counts_as_wrong(place, value):
    """In every score alike, whichever logit it is; the others' scores stay what they were."""
    logits = LOGITS.copy()
    logits[1, place] = value
    found, matrix = score(logits, LABELS), confusion(logits, LABELS)
    assert found["top1"] == found["top5"] == 7 / 8 and np.isnan(found["loss"])
    assert np.trace(matrix) == 7 and matrix.sum() == 8 and matrix[1].sum() == 2
    assert scores_of(matrix).balanced_accuracy == 7 / 8
    others = np.arange(8) != 1
    assert calibration_error(logits, LABELS) == pytest.approx(  # confidence 1 and wrong, in the bin of the others
        abs(1 + (probabilities(LOGITS[others]).max(axis=1) - 1).sum()) / 8
    )
    np.testing.assert_array_equal(np.isnan(probabilities(logits)).all(axis=1), ~others)
    np.testing.assert_array_equal(probabilities(logits)[others], probabilities(LOGITS[others]))


def test_a_model_without_any_finite_logits_scores_nothing():
    logits = np.full((8, 6), np.nan, np.float32)
    assert score(logits, LABELS)["top1"] == score(logits, LABELS)["top5"] == 0
    assert np.trace(confusion(logits, LABELS)) == 0 and calibration_error(logits, LABELS) == 1


@pytest.fixture
def broken(monkeypatch):
    """The first image's first logit is NaN, of its mirror image infinite."""
    logits = Evaluator.logits

    def changed(self, params, images, check=lambda: None, mirrored=False):
        found = logits(self, params, images, check, mirrored)
        found[0, 0] = np.inf if mirrored else np.nan
        return found

    monkeypatch.setattr(Evaluator, "logits", changed)


def test_a_test_says_how_many_logits_are_not_finite_and_writes_json(straight, command, tmp_path, broken):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    code, printed = command("--mode=evaluate", f"--workdir={run}", "--config.eval.flips=True")
    assert code == 0 and "the logits of 1 of 128 images aren't finite" in " ".join(printed.split()), printed
    text = (run / "evaluations" / "test-30" / "results.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity aren't JSON
    assert found["loss"] is None and found["loss_flips"] is None and "not finite" in printed
    for key in ("top1", "top5", "top1_flips", "calibration_error", "balanced_accuracy", "macro_f1"):
        assert 0 <= found[key] <= 1
    table = run / "evaluations" / "test-30" / "confusion.csv"
    counts = np.loadtxt(table, int, delimiter=",", skiprows=1, usecols=range(1, 11))
    assert counts.sum() == 128 and np.trace(counts) / 128 == found["top1"]


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_prediction_names_images_whose_logits_are_not_finite(straight, command, capsys, tmp_path, broken, format):
    from PIL import Image

    from vit_jax.main import main

    for name in "ab":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    arguments = [f"--workdir={straight}", f"--images={tmp_path}", f"--format={format}"]
    assert main(["vit-jax", "predict", *arguments]) == 2
    printed = capsys.readouterr()
    assert "logits of 1 of 2 images aren't finite" in printed.err and "a.png" in printed.err
    assert "a.png" not in printed.out and "b.png" in printed.out and "nan" not in printed.out.lower()
    if format == "json":
        assert len(json.loads(printed.out)) == 1
