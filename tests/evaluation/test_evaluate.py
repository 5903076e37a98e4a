"""Evaluation counts every image once, at any batch size and device count, from the folder of a run alone."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from vit_jax import models
from vit_jax.config import AugmentConfig, Config, EvalConfig, ModelConfig
from vit_jax.evaluation import evaluate
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.evaluation.logits import calibration_error, confusion, score
from vit_jax.runs.scores import by_name, scores_of

CONFIG = Config(
    augment=AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3),
    model=ModelConfig(
        num_classes=10, image_size=8, patch_size=4, width=16, depth=1, heads=2, mlp_dim=32, init="keras2"
    ),
)


@pytest.mark.slow
def test_ten_thousand_are_ten_thousand():
    """The same logits, in order, at batch sizes that divide the set, don't, or exceed it, on 1, 3 and 8 devices."""
    images = np.random.RandomState(0).randint(256, size=(10_000, 8, 8, 3)).astype(np.uint8)
    labels = np.random.RandomState(1).randint(10, size=10_000)
    module = models.create(CONFIG.model)
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    expected = None
    for batch_size, devices in ((500, 1), (1, 1), (7, 1), (256, 1), (512, 3), (7, 8), (10_000, 8), (12_000, 3)):
        count = {1: 100, 7: 1003}.get(batch_size, 10_000)  # few at a time take long
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        config = dataclasses.replace(CONFIG, eval=EvalConfig(batch_size=batch_size))
        logits = Evaluator(module, config, mesh, params, (8, 8, 3)).logits(params, images[:count])
        expected = logits if expected is None else expected
        assert logits.shape == (count, 10)
        np.testing.assert_allclose(logits, expected[:count], atol=1e-5)
        assert score(logits, labels[:count])["num_examples"] == count


def test_parts_and_kernels_that_are_rounded_before_change_nothing(monkeypatch):
    """On two devices, in bfloat16: the parts in order, the same bits."""
    images = np.random.RandomState(0).randint(256, size=(20, 8, 8, 3)).astype(np.uint8)
    module = models.create(dataclasses.replace(CONFIG.model, dtype="bfloat16"))
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    config = dataclasses.replace(CONFIG, eval=EvalConfig(batch_size=16))

    def logits(params):
        return Evaluator(module, config, mesh, params, (8, 8, 3)).logits(params, images)

    whole, rounded = logits(params), models.rounded_once(params, module)
    assert rounded["block_00"]["mlp"]["dense_0"]["kernel"].dtype == jax.numpy.bfloat16
    np.testing.assert_array_equal(logits(rounded), whole)
    monkeypatch.setattr(evaluate, "evaluation_parts", lambda cfg, dtype, images: images // 2)
    np.testing.assert_allclose(logits(params), whole, atol=0.02 * np.abs(whole).max())


def test_scores():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    labels = np.array([0, 2, 0, 1])
    found = score(logits, labels)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_probs[range(4), labels].mean())
    assert found["top1"] == 0.5 and found["top5"] == 1.0
    matrix = confusion(logits, labels)
    np.testing.assert_array_equal(matrix, [[2, 0, 0], [1, 0, 0], [0, 1, 0]])


def test_scores_of_classes_are_scikit_learns():
    """Of unbalanced classes, one of them without images, one without predictions, and one with neither."""
    from sklearn import metrics

    random = np.random.RandomState(0)
    labels = random.choice(6, 300, p=[0.5, 0.2, 0.15, 0.1, 0.05, 0.0])
    logits = random.normal(size=(300, 7)) + 2 * np.eye(7)[labels]
    logits[:, [3, 6]] = -9.0
    guesses = logits.argmax(axis=1)
    assert set(guesses) == {0, 1, 2, 4, 5} and set(labels) == {0, 1, 2, 3, 4}
    found = scores_of(confusion(logits, labels))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, guesses))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, guesses, average="macro", zero_division=0))
    expected = metrics.precision_recall_fscore_support(labels, guesses, labels=range(7), zero_division=0)
    for values, theirs in zip((found.precision, found.recall, found.f1), expected, strict=False):
        np.testing.assert_allclose(np.nan_to_num(values), theirs)
    assert np.flatnonzero(np.isnan(found.precision)).tolist() == [3, 6]  # never predicted
    assert np.flatnonzero(np.isnan(found.recall)).tolist() == [5, 6]  # without images
    named = by_name(found.f1, list("abcdefg"))
    assert named["d"] == named["f"] == 0 < named["a"] and named["g"] is None


def test_calibration_error_of_known_confidence():
    """Three quarters sure and right half the time: off by a quarter."""
    logits = np.log(np.tile([[0.75, 0.25]], (100, 1)))
    assert calibration_error(logits, np.arange(100) % 2) == pytest.approx(0.25)
    assert calibration_error(logits, (np.arange(100) % 4 == 0).astype(int)) == pytest.approx(0.0, abs=1e-9)


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


SAME = ("top1", "top5", "loss", "num_examples", "per_class", "checkpoint", "steps", "epochs", "params", "wall_seconds")


def test_evaluating_repeats_the_runs_result_after_the_folder_moved(straight, command, tmp_path):
    moved = tmp_path / "moved here, ünicode"
    shutil.copytree(straight, moved)
    (moved / "results.json").write_text("as it was")
    code, printed = command("--mode=evaluate", f"--workdir={moved}")
    assert code == 0, printed
    assert (moved / "results.json").read_text() == "as it was"
    found = moved / "evaluations" / "test-30"
    assert {k: results(found)[k] for k in SAME} == {k: results(straight)[k] for k in SAME}
    with (found / "confusion.csv").open() as file:
        table = list(csv.reader(file))
    matrix = np.array([row[1:] for row in table[1:]], int)
    assert matrix.sum() == 128 and table[0][1] == "class 0"
    assert np.trace(matrix) / 128 == results(found)["top1"]


@pytest.mark.parametrize(("name", "step"), [("latest", 30), ("28", 28), ("best", None)])
def test_any_checkpoint_can_be_evaluated(straight, command, tmp_path, name, step):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    code, printed = command("--mode=evaluate", f"--checkpoint={name}", f"--workdir={copy}")
    assert code == 0, printed
    kept = [int(path.name) for path in (straight / "checkpoints").iterdir()]
    (found,) = (copy / "evaluations").iterdir()
    assert results(found)["checkpoint"] in ([step] if step else kept)
    assert found.name == f"test-{results(found)['checkpoint']}" and results(found)["steps"] == 30


def test_a_checkpoint_that_comes_meanwhile_is_another(straight, command, tmp_path, monkeypatch):
    copy, later = tmp_path / "run", tmp_path / "30"
    shutil.copytree(straight, copy)
    shutil.move(copy / "checkpoints" / "30", later)

    class SavedMeanwhile(Evaluator):
        def logits(self, *args, **others):
            shutil.copytree(later, copy / "checkpoints" / "30", dirs_exist_ok=True)
            return super().logits(*args, **others)

    monkeypatch.setattr(evaluate, "Evaluator", SavedMeanwhile)
    code, printed = command("--mode=evaluate", "--checkpoint=latest", f"--workdir={copy}")
    assert code == 0, printed
    assert results(copy / "evaluations" / "test-28")["checkpoint"] == 28


def test_a_run_of_a_gpu_is_evaluated_on_a_cpu(straight, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    config = json.loads((copy / "config.json").read_text())
    assert config["model"]["attention"] == "auto"
    config["model"].update(attention="cudnn", dtype="bfloat16")
    (copy / "config.json").write_text(json.dumps(config))
    code, printed = command("--mode=evaluate", f"--workdir={copy}")
    assert code == 0, printed
    found = results(copy / "evaluations" / "test-30")
    assert found["loss"] == pytest.approx(results(straight)["loss"], abs=0.05)


def test_absent_checkpoints_are_listed(straight, command):
    code, printed = command("--mode=evaluate", "--checkpoint=15", f"--workdir={straight}")
    assert code == 2 and "28, 30]" in printed


def test_a_checkpoint_of_another_model_is_refused_with_every_difference(straight, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    config = json.loads((copy / "config.json").read_text())
    config["model"].update(mlp_dim=48, depth=2)
    (copy / "config.json").write_text(json.dumps(config))
    code, printed = command("--mode=evaluate", f"--workdir={copy}")
    assert code == 2 and "Traceback" not in printed
    assert "params/block_00/mlp/dense_0/kernel: ((32, 64), 'float32') in the checkpoint, ((32, 48)" in printed
    assert "params/block_01/norm_0/scale: absent in the checkpoint" in printed


@pytest.mark.parametrize("damage", ["state", "state/_METADATA", "state/d", "state/ocdbt.process_0", "meta.json"])
def test_damaged_checkpoints_are_named(straight, command, tmp_path, damage):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    target = copy / "checkpoints" / "30" / damage
    assert target.exists()
    shutil.rmtree(target) if target.is_dir() else target.write_bytes(b"")
    before = (copy / "results.json").read_bytes()
    code, printed = command("--mode=evaluate", f"--workdir={copy}")
    assert code == 2 and "checkpoint 30" in printed and "damaged" in printed and "Traceback" not in printed
    assert (copy / "results.json").read_bytes() == before and not (copy / "evaluations").exists()


@pytest.mark.slow
def test_another_device_count_gives_the_same(straight, process, tmp_path):
    """One that doesn't divide the batch; P12 of tests/promises has one device."""
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    child = process("--mode=evaluate", f"--workdir={copy}", devices=3)
    printed = child.communicate()[0]
    assert child.returncode == 0, printed
    found, expected = results(copy / "evaluations" / "test-30"), results(straight)
    assert found["num_examples"] == 128 and found["top1"] == expected["top1"]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
