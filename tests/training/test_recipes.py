"""Runs with nearly everything but the defaults, through the command line: two, each of which shows several things."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from promises.harness import RUN, arrays, require_same, rows, stopping_after

from vit_jax.evaluation import evaluate
from vit_jax.main import main
from vit_jax.runs import metrics

# All that is random: policies, mixing, erasing, flips, stochastic depth, with their ramps; and Muon and whitening.
RANDOM = ["augment.policy=randaugment", "augment.policy_operations=1", "augment.mixup=0.8", "augment.cutmix=1.0"]
RANDOM += ["augment.erase=0.25", "augment.cutout=4", "augment.alternate_flip=true", "augment.ramp=linear"]
RANDOM += ["augment.off_last=0.2", "model.drop_path=0.2", "model.drop_path_ramp=linear", "optim.name=muon"]
RANDOM += ["optim.adam_learning_rate=1e-3", "model.stem.kind=conv", "model.stem.widths=(8,)", "model.stem.whiten=2"]
RANDOM += ["model.patch_size=4", "train.ema=0.9"]
# Averages, sizes, several steps in a call; tested with flips.
PHASES = ["train.ema=0.9", "eval.params=ema", "eval.flips=true", "train.sizes=((0.0, 16), (0.5, 32))"]
PHASES += ["train.steps_per_call=4"]


def args_of(flags):
    return [*RUN, *(f"--config.{flag}" for flag in flags)]


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def phased(tmp_path_factory):
    """The workdir of a run with PHASES, without interruption."""
    workdir = tmp_path_factory.mktemp("phased") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "GOALS", (11, 23, 99))
        assert main(["vit-jax", *args_of(PHASES), f"--workdir={workdir}"]) == 0
    return workdir


def resumed(flags, workdir):
    """A run that was stopped after step 12 and went on."""
    args = ["vit-jax", *args_of(flags), f"--workdir={workdir}"]
    with stopping_after({12}):
        assert main(args) == 138
    assert main(args) == 0
    return workdir


@pytest.mark.slow
def test_stopped_and_resumed_with_all_that_is_random_is_the_straight_run(tmp_path):
    """Bit for bit."""
    assert main(["vit-jax", *args_of(RANDOM), f"--workdir={tmp_path / 'straight'}"]) == 0
    require_same(resumed(RANDOM, tmp_path / "stopped"), tmp_path / "straight")
    state = arrays(tmp_path / "straight")
    kernel = state["['params']['stem']['whitening']['kernel']"]
    np.testing.assert_array_equal(kernel, state["['ema']['stem']['whitening']['kernel']"])
    assert abs(kernel[:, :12] - np.eye(12)).max() > 0.1  # of the data, not the identity it begins with


@pytest.mark.slow
def test_stopped_and_resumed_between_sizes_and_calls_is_the_straight_run(phased, tmp_path):
    require_same(resumed(PHASES, tmp_path / "stopped"), phased)
    assert {path.split("'")[1] for path in arrays(phased)} >= {"params", "ema"}


@pytest.mark.slow
def test_the_average_is_validated_beside_the_parameters_and_tested(phased, command):
    raw, ema = rows(phased, "validation"), rows(phased, "validation_ema")
    assert [row["step"] for row in raw] == [row["step"] for row in ema]
    assert all(a["loss"] != b["loss"] for a, b in zip(raw, ema, strict=True))
    before = results(phased)
    assert before["tested_params"] == "ema"
    assert before["top1_flips"] > 0 and before["loss_flips"] != before["loss"]
    code, printed = command("--mode=evaluate", f"--workdir={phased}")
    assert code == 0 and "with flips" in printed
    again = results(phased / "evaluations" / "test-30")
    assert {key: again[key] for key in ("loss", "top1", "top1_flips")} == {
        key: before[key] for key in ("loss", "top1", "top1_flips")
    }
    scores = json.loads((phased / "checkpoints" / "30" / "meta.json").read_text())["scores"]
    assert scores["loss"] == ema[-1]["loss"]
    assert command("evaluate", f"--workdir={phased}", "--config.eval.params=raw")[0] == 0
    other = results(phased / "evaluations" / "test-30-raw")
    assert other["tested_params"] == "raw" and other["loss"] != before["loss"]


@pytest.mark.slow
def test_the_time_to_each_goal_is_noted_once(phased):
    ema = [row for row in metrics.read(phased) if row["split"] == "validation_ema"]
    for goal in (11, 23):
        noted = [row for row in ema if f"time_to/{goal}" in row]
        reached = [row for row in ema if row["top1"] >= goal / 100]
        assert noted == reached[:1] and noted
        assert 0 < noted[0][f"time_to/{goal}"] < noted[0][f"wall_to/{goal}"]
    assert not any("time_to/99" in row for row in ema)


@pytest.mark.slow
def test_a_run_can_begin_with_smaller_images(phased):
    logged = [row for row in metrics.read(phased) if row["split"] == "train"]
    speed = {row["step"]: row["tflops_per_second"] / row["images_per_second"] for row in logged}
    assert speed[10] < 0.3 * speed[30]  # a quarter of the patches before
    found = results(phased)
    assert 0.5 < found["train_flops"] / (30 * 32 * found["train_flops_per_image"]) < 0.7


def test_an_average_that_is_not_kept_cannot_be_tested(command, tmp_path):
    code, printed = command(*RUN, "--config.eval.params=ema", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "needs a run with config.train.ema" in printed


@pytest.mark.parametrize("sizes", ["((0.1, 16), (0.5, 32))", "((0.0, 16),)", "((0.0, 12), (0.5, 32))"])
def test_sizes_that_do_not_fit_are_refused(command, tmp_path, sizes):
    code, printed = command(*RUN, f"--config.train.sizes={sizes}", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and ("config.train.sizes" in printed or "patch_size=8" in printed)


GIVEN = ["--config.augment.mean=(0.1, 0.2, 0.3)", "--config.augment.std=(1.0, 1.0, 1.0)"]
UNUSUAL = [*RUN, "--config.eval.select=best", "--config.optim.schedule=linear", "--config.optim.final_fraction=1.0"]
UNUSUAL += ["--config.checkpoint.keep_latest=1", "--config.eval.every=5 steps"]
UNUSUAL += ["--config.model.image_size=17", "--config.model.stem.kind=conv", "--config.model.stem.widths=(8,)"]
UNUSUAL += ["--config.model.stem.strides=(3,)", "--config.model.patch_size=1", "--config.log.tensorboard=true"]


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    """The workdir of a run with UNUSUAL and GIVEN, whose third validation of six is the best."""
    pytest.importorskip("tensorboard")
    workdir = tmp_path_factory.mktemp("unusual") / "run"
    real, validations = evaluate.score, iter([0.1, 0.2, 0.4, 0.3, 0.2, 0.3])

    def score(*args):
        found = real(*args)
        return found | {"top1": next(validations, found["top1"])}

    tracker = "mlflow" if importlib.util.find_spec("mlflow") else "none"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "score", score)
        patch.setenv("MLFLOW_TRACKING_URI", f"file:{workdir.parent / 'store'}")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        assert main(["vit-jax", *UNUSUAL, *GIVEN, f"--workdir={workdir}", f"--config.log.tracker={tracker}"]) == 0
    return workdir


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_tested(unusual):
    """The best is not the last, and both are there."""
    assert [row["step"] for row in rows(unusual, "validation") if row["top1"] == 0.4] == [15]
    assert results(unusual)["checkpoint"] == 15 and results(unusual)["steps"] == 30
    assert results(unusual)["selected"] == "best on validation"
    assert {int(p.name) for p in (unusual / "checkpoints").iterdir()} == {15, 30}


@pytest.mark.slow
def test_no_patches_are_drawn_of_tokens_that_are_no_squares_of_the_image(unusual):
    assert (unusual / "curves.png").exists() and not (unusual / "patches.png").exists()


@pytest.mark.slow
def test_tensorboard_events_hold_the_metrics(unusual):
    pytest.importorskip("tensorflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(unusual))
    events.Reload()
    found = {e.step: float(make_ndarray(e.tensor_proto)) for e in events.Tensors("validation/top1")}
    assert found == pytest.approx({r["step"]: r["top1"] for r in rows(unusual, "validation")})


@pytest.mark.slow
def test_a_tracker_has_the_metrics_and_the_test(unusual):
    tracking = pytest.importorskip("mlflow.tracking")
    run = json.loads((unusual / "tracker.json").read_text())["mlflow"]["id"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = tracking.MlflowClient(f"file:{unusual.parent / 'store'}")
    found = {metric.step: metric.value for metric in client.get_metric_history(run, "validation/top1")}
    assert found == {row["step"]: row["top1"] for row in rows(unusual, "validation")}
    (tested,) = client.get_metric_history(run, "test/top1")
    assert (tested.step, tested.value) == (15, results(unusual)["top1"])
    assert client.get_run(run).info.status == "FINISHED"


@pytest.mark.slow
def test_a_config_that_leaves_less_open_or_more_is_still_the_runs(unusual, straight, command, tmp_path):
    """What the run has resolved stays: statistics given at the start aren't recomputed on resuming."""
    workdir = shutil.copytree(unusual, tmp_path / "run")
    before = results(workdir)
    (workdir / "results.json").unlink()
    assert command(*UNUSUAL, f"--workdir={workdir}")[0] == 0
    assert json.loads((workdir / "config.json").read_text())["augment"]["mean"] == [0.1, 0.2, 0.3]
    assert results(workdir)["loss"] == before["loss"]
    code, printed = command(*RUN, GIVEN[0], f"--workdir={straight}")
    assert code == 2 and "config.augment.mean" in printed
