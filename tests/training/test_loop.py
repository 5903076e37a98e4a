"""Whole runs through the command line: what a run leaves, resuming, stopping, refusing."""

import hashlib
import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from promises.harness import RUN

from vit_jax.runs import metrics


def rows(workdir, split=None):
    """The metrics of a run without what depends on the clock."""
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "tflops_per_second")}
        for row in metrics.read(Path(workdir))
        if split in (None, row["split"])
    ]


def results(workdir):
    return json.loads((Path(workdir) / "results.json").read_text())


def digests(workdir):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(workdir).rglob("*")) if p.is_file()}


def final(workdir):
    """The last checkpoint of a run of 30 steps."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / "30" / "state")


def assert_same(a, b):
    """Asserts that two trees are the same bit for bit."""
    import jax
    import numpy as np

    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A workdir trained without interruption."""
    from vit_jax.main import main

    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert main(["vit-jax", *RUN, f"--workdir={workdir}"]) == 0
    return workdir


def test_what_a_run_leaves(straight):
    assert {p.name for p in straight.iterdir()} == {
        "config.json", "data.json", "metrics.jsonl", "checkpoints", "results.json",
        "curves.png", "patches.png", "confusion.png", "confusion.csv", ".lock",
    }  # fmt: skip
    config = json.loads((straight / "config.json").read_text())
    assert config["model"]["num_classes"] == 10 and config["model"]["head_dim"] == 16
    assert len(config["augment"]["mean"]) == 3 and all(0.3 < m < 0.7 for m in config["augment"]["mean"])
    assert [r["step"] for r in rows(straight, "train")] == list(range(1, 31))
    for row in rows(straight, "train"):
        assert {"loss", "top1", "top5", "grad_norm", "learning_rate", "epoch"} <= row.keys()
    for split in ("train_epoch", "validation"):
        assert [r["step"] for r in rows(straight, split)] == [10, 20, 30]
        assert all({"loss", "top1", "top5"} <= row.keys() for row in rows(straight, split))
    assert {int(p.name) for p in (straight / "checkpoints").iterdir()} >= {28, 30}


def test_the_train_epoch_is_the_mean_of_its_steps(straight):
    steps, means = rows(straight, "train"), rows(straight, "train_epoch")
    for i, mean in enumerate(means):
        window = steps[10 * i : 10 * i + 10]
        for name in ("loss", "top1", "top5"):
            assert abs(mean[name] - sum(r[name] for r in window) / 10) < 1e-5


def test_results_hold_the_contract(straight):
    found = results(straight)
    assert set(found) >= {
        "dataset", "split", "num_examples", "top1", "top5", "loss", "params", "flops_per_image", "steps", "epochs",
        "seed", "checkpoint", "wall_seconds", "compile_seconds", "images_per_second", "device", "versions",
        "git_commit",
    }  # fmt: skip
    assert found["dataset"] == "fake" and found["split"] == "test" and found["num_examples"] == 128
    assert 0.3 < found["top1"] <= found["top5"] <= 1
    assert found["steps"] == found["checkpoint"] == 30
    assert abs(found["epochs"] - 30 * 32 / 461) < 1e-9
    assert found["wall_seconds"] > found["compile_seconds"] > 0
    assert found["train_flops_per_image"] == 3 * found["flops_per_image"]
    rate = found["images_per_second"] * found["train_flops_per_image"] / 1e12
    assert found["tflops_per_second"] == pytest.approx(rate)
    startup = found["startup_seconds"]
    assert startup.keys() == {"imports", "data", "init", "compile", "first_step"} and min(startup.values()) > 0
    assert startup["compile"] == found["compile_seconds"] and sum(startup.values()) < found["wall_seconds"]


def test_learning_happens(straight):
    steps = rows(straight, "train")
    assert steps[-1]["loss"] < 0.95 * steps[0]["loss"]


def test_running_a_finished_run_again_changes_nothing(straight, command):
    before = digests(straight)
    code, printed = command(*RUN, f"--workdir={straight}")
    assert code == 0 and "already complete" in printed
    assert f"for longer, choose another --workdir and add --config.init_from={straight}" in printed
    assert digests(straight) == before


def test_a_changed_config_is_refused_with_the_difference(straight, command):
    before = digests(straight)
    code, printed = command(*RUN, "--config.optim.learning_rate=0.5", "--config.seed=3", f"--workdir={straight}")
    assert code == 2
    assert "config.optim.learning_rate: 0.001 in the run, 0.5 now" in printed
    assert "config.seed: 0 in the run, 3 now" in printed and "Traceback" not in printed
    assert "--config.init_from" not in printed
    code, printed = command(*RUN, "--config.train.length=40 steps", f"--workdir={straight}")
    assert code == 2 and "config.train.length: '30 steps' in the run, '40 steps' now" in printed
    assert f"for longer, choose another --workdir and add --config.init_from={straight}" in printed
    assert digests(straight) == before


@pytest.mark.slow
def test_a_config_that_leaves_less_open_or_more_is_still_the_runs(straight, command, tmp_path):
    """What the run has resolved stays: statistics given at the start aren't recomputed on resuming."""
    workdir = tmp_path / "run"
    given = ["--config.augment.mean=(0.1, 0.2, 0.3)", "--config.augment.std=(1.0, 1.0, 1.0)", f"--workdir={workdir}"]
    assert command("--config=configs/debug.py", *given)[0] == 0
    (workdir / "results.json").unlink()
    assert command("--config=configs/debug.py", f"--workdir={workdir}")[0] == 0
    assert json.loads((workdir / "config.json").read_text())["augment"]["mean"] == [0.1, 0.2, 0.3]
    code, printed = command(*RUN, "--config.augment.mean=(0.1, 0.2, 0.3)", f"--workdir={straight}")
    assert code == 2 and "config.augment.mean" in printed


def test_a_run_from_before_a_key_was_born_is_still_the_runs(straight, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["attention"] = "xla"  # what "auto" was then
    del config["train"]["steps_per_call"]
    (workdir / "config.json").write_text(json.dumps(config))
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_a_result_from_before_the_end_does_not_end_the_run(straight, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    expected = results(copy)
    assert command("--mode=evaluate", "--checkpoint=28", f"--workdir={copy}")[0] == 0
    assert results(copy)["checkpoint"] == 28 and results(copy)["selected"] == "given"
    code, printed = command(*RUN, f"--workdir={copy}")
    assert code == 0 and "already complete" not in printed
    assert results(copy)["checkpoint"] == 30 and results(copy)["top1"] == expected["top1"]
    assert rows(copy) == rows(straight)


@pytest.mark.parametrize(("resume", "exists"), [("never", True), ("must", False)])
def test_resume_flags(straight, command, tmp_path, resume, exists):
    code, printed = command(*RUN, f"--resume={resume}", f"--workdir={straight if exists else tmp_path / 'new'}")
    assert code == 2 and "--resume=auto" in printed
    assert not (tmp_path / "new").exists()


def wait_for_steps(workdir, count, child):
    """Returns when the metrics file has so many steps."""
    while child.poll() is None and len(rows(workdir, "train")) < count:
        time.sleep(0.002)


@pytest.mark.slow
def test_stopped_killed_and_resumed_is_the_straight_run(straight, process, tmp_path):
    """Interrupted by SIGTERM, kill -9 and Ctrl-C: every metric of every step, and the result, to the last bit."""
    workdir = tmp_path / "interrupted"
    started = process(*RUN, f"--workdir={workdir}", devices=8)
    for signum, steps, code in ((signal.SIGTERM, 6, 143), (signal.SIGKILL, 15, -9), (signal.SIGINT, 22, 130)):
        wait_for_steps(workdir, steps, started)
        started.send_signal(signum)
        printed = started.communicate()[0]
        assert started.returncode == code, printed
        if code > 0:
            assert "saved" in printed and "Traceback" not in printed
        started = process(*RUN, "--resume=must", f"--workdir={workdir}", devices=8)
    printed = started.communicate()[0]
    assert started.returncode == 0, printed
    assert "Resuming after step" in printed
    assert rows(workdir) == rows(straight)
    same = ("top1", "top5", "loss", "steps", "checkpoint", "calibration_error", "per_class")
    assert {k: results(workdir)[k] for k in same} == {k: results(straight)[k] for k in same}


def test_stopping_saves_and_the_state_is_the_straight_ones(straight, command, tmp_path, monkeypatch):
    """Stopped after 13 of 30 steps and resumed in this process: parameters and optimizer bit for bit."""

    from vit_jax.training.log import Log

    taken = []
    original = Log.put

    def put(self, step, figures, dispatched, flops_per_image):
        original(self, step, figures, dispatched, flops_per_image)
        taken.append(step)
        if step == 13 and len(taken) == 13:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Log, "put", put)
    workdir = tmp_path / "run"
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 143 and "Stopped after step 13 of 30; saved" in printed
    assert command(*RUN, f"--workdir={workdir}")[0] == 0
    assert taken == list(range(1, 31))

    assert set(final(workdir)) == {"step", "seed", "params", "opt_state", "totals", "ema"}
    assert_same(final(workdir), final(straight))


@pytest.mark.slow
def test_stopping_during_an_evaluation_repeats_it(straight, command, tmp_path, monkeypatch):
    from vit_jax.evaluation.evaluate import Evaluator

    original, calls = Evaluator.logits, []

    def logits(self, params, images, check):
        calls.append(len(images))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, params, images, check)

    monkeypatch.setattr(Evaluator, "logits", logits)
    workdir = tmp_path / "run"
    assert command(*RUN, f"--workdir={workdir}")[0] == 130
    assert [r["step"] for r in rows(workdir, "validation")] == [10]
    assert command(*RUN, f"--workdir={workdir}")[0] == 0
    assert rows(workdir) == rows(straight)


@pytest.mark.slow
def test_several_steps_in_a_call_are_the_same_steps(straight, command, tmp_path):
    """Evaluations, checkpoints and logged rows stay where they are; an interrupted run is the uninterrupted one."""
    several = [*RUN, "--config.train.steps_per_call=3"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command(*several, f"--workdir={whole}")[0] == 0
    for row, plain in zip(rows(whole), rows(straight), strict=True):
        assert (row["step"], row["split"]) == (plain["step"], plain["split"])
        assert abs(row["loss"] - plain["loss"]) < 1e-4

    from vit_jax.training.log import Log

    original = Log.put

    def put(self, step, figures, dispatched, flops_per_image):
        original(self, step, figures, dispatched, flops_per_image)
        if step == 15:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "put", put)
        assert command(*several, f"--workdir={stopped}")[0] == 143
    assert command(*several, f"--workdir={stopped}")[0] == 0
    assert rows(stopped) == rows(whole)
    assert_same(final(stopped), final(whole))


def test_several_steps_in_a_call_need_resident_images(command, tmp_path):
    args = [*RUN, "--config.train.steps_per_call=3", "--config.data.pipeline=tfdata"]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "steps_per_call=3 needs the images on the device" in printed


def test_a_run_goes_on_without_its_config_file(command, tmp_path, straight):
    code, printed = command(f"--workdir={straight}")
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_tested(command, tmp_path):
    """A learning rate that explodes at the end: the best is not the last, and both are there."""
    workdir = tmp_path / "run"
    args = [*RUN, "--config.eval.select=best", "--config.optim.schedule=linear", "--config.optim.final_fraction=1.0"]
    args += ["--config.optim.learning_rate=0.05", "--config.checkpoint.keep_latest=1", "--config.eval.every=5 steps"]
    code, printed = command(*args, f"--workdir={workdir}")
    assert code == 0, printed
    best = max(rows(workdir, "validation"), key=lambda r: (r["top1"], r["step"]))
    assert results(workdir)["checkpoint"] == best["step"] and results(workdir)["steps"] == 30
    assert results(workdir)["selected"] == "best on validation"
    assert {int(p.name) for p in (workdir / "checkpoints").iterdir()} == {best["step"], 30}


def test_a_diverged_run_stops_and_says_where(command, tmp_path):
    workdir = tmp_path / "run"
    args = ["--config.optim.learning_rate=1e30", "--config.optim.clip_norm=none", "--config.checkpoint.every=0 steps"]
    code, printed = command(*RUN, *args, "--config.eval.every=0 steps", f"--workdir={workdir}")
    assert code == 1
    assert re.search(r"gradient norm nan at step \d+ \(learning rate \d\.\d+e\+\d\d\)", printed)
    assert "Traceback" not in printed


def test_only_finite_states_are_saved(command, tmp_path):
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    workdir = tmp_path / "run"
    args = ["--config.optim.learning_rate=1e30", "--config.optim.clip_norm=none", "--config.log.every=0 steps"]
    code, printed = command(*RUN, "--config.checkpoint.every=1 steps", *args, f"--workdir={workdir}")
    assert code == 1 and "at step" in printed
    saved = sorted((workdir / "checkpoints").glob("*/state"))
    assert saved
    for state in saved:
        params = ocp.PyTreeCheckpointer().restore(state)["params"]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_any_data_set_and_both_pipelines(command, tmp_path):
    pytest.importorskip("tensorflow")
    for pipeline in ("device", "tfdata"):
        args = ["--config=configs/debug.py", "--config.data.name=digits", f"--config.data.pipeline={pipeline}"]
        code, printed = command(*args, "--config.log.every=1 steps", f"--workdir={tmp_path / pipeline}")
        assert code == 0, printed
    # The same batches: the same losses, but for the rounding of two compilations.
    for a, b in zip(rows(tmp_path / "device", "train"), rows(tmp_path / "tfdata", "train"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-4


@pytest.mark.slow
def test_the_quickstart_learns(process, tmp_path):
    child = process("--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}")
    printed = child.communicate()[0]
    assert child.returncode == 0, printed
    assert results(tmp_path / "run")["top1"] >= 0.97
    assert (tmp_path / "run" / "curves.png").exists()


def test_an_image_folder_without_a_test_split(command, tmp_path):
    from PIL import Image

    for i, label in enumerate(("cat", "dog") * 40):
        folder = tmp_path / "pets" / "train" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (200 * (i % 2), i, 0)).save(folder / f"{i}.png")
    args = ["--config=configs/debug.py", "--config.data.name=image_folder", f"--config.data.dir={tmp_path / 'pets'}"]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    assert "no test split" in printed and not (tmp_path / "run" / "results.json").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["num_classes"] == 2
    before = digests(tmp_path / "run")
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "already complete" in printed and digests(tmp_path / "run") == before
    # More images of another class are other data: refused, and nothing of the run is changed.
    (tmp_path / "pets/train/frog").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "pets/train/frog/1.png")
    shutil.rmtree(tmp_path / "run/checkpoints/20")  # as if it had not been at its end
    before = digests(tmp_path / "run")
    for again in ([*args], ["--mode=evaluate"]):
        code, printed = command(*again, f"--workdir={tmp_path / 'run'}")
        assert code == 2 and "trained on other data" in printed and "frog" in printed
    assert digests(tmp_path / "run") == before


def test_one_process_at_a_time(command, tmp_path):
    from vit_jax.runs.folder import RunFolder

    run = RunFolder(tmp_path / "run")
    run.create()
    with run.lock():
        code, printed = command("--config=configs/debug.py", f"--workdir={run.path}")
    assert code == 2 and "another process" in printed


def test_checkpoints_without_a_config_are_not_taken_over(straight, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    (copy / "config.json").unlink()
    code, printed = command(*RUN, f"--workdir={copy}")
    assert code == 2 and "no config.json" in printed


@pytest.mark.slow
def test_a_stem_whose_tokens_are_no_squares_of_the_image(command, tmp_path):
    args = ["--config.model.image_size=35", "--config.model.stem.kind=conv", "--config.model.stem.widths=(8,)"]
    args += ["--config.model.stem.strides=(3,)", "--config.model.patch_size=1", f"--workdir={tmp_path / 'run'}"]
    code, printed = command("--config=configs/debug.py", *args)
    assert code == 0, printed
    assert (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "patches.png").exists()


def test_a_wrong_class_count_names_the_right_one(command, tmp_path):
    code, printed = command(
        "--config=configs/debug.py", "--config.model.num_classes=7", f"--workdir={tmp_path / 'run'}"
    )
    assert code == 2 and "--config.model.num_classes=10" in printed


@pytest.mark.slow
def test_tensorboard_events_hold_the_metrics(command, tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workdir = tmp_path / "run"
    code, printed = command("--config=configs/debug.py", "--config.log.tensorboard=true", f"--workdir={workdir}")
    assert code == 0, printed
    events = EventAccumulator(str(workdir))
    events.Reload()
    from tensorboard.util.tensor_util import make_ndarray

    found = {e.step: float(make_ndarray(e.tensor_proto)) for e in events.Tensors("validation/top1")}
    assert found == pytest.approx({r["step"]: r["top1"] for r in rows(workdir, "validation")})


@pytest.mark.slow
def test_steps_that_are_not_finite_can_be_left_out(command, tmp_path, monkeypatch):
    """Those whose first example is of class 3, here: each is told and logged, the rest go on, and all stays finite."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vit_jax.data import sources
    from vit_jax.data.pipeline import indices_at
    from vit_jax.steps import step

    original = step.mixed_cross_entropy

    def poisoned(logits, targets, smoothing):
        return original(logits, targets, smoothing) * jnp.where(targets.label[0] == 3, jnp.nan, 1.0)

    monkeypatch.setattr(step, "mixed_cross_entropy", poisoned)
    labels = sources._read_fake(32).splits["train"].labels[:461]
    bad = [s + 1 for s in range(30) if labels[indices_at(0, s, 461, 32)[0]] == 3]
    longest = max(sum(bad.count(s + i) for i in range(30)) if s - 1 not in bad else 0 for s in bad)
    assert 2 <= len(bad) <= 8 and longest <= 2
    args = [*RUN, "--config.train.accumulate=1", "--config.optim.skip_nonfinite=2"]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    assert [row["step"] for row in rows(tmp_path / "run", "train") if row.get("skipped")] == bad
    assert printed.count("is left out") == len(bad)
    finite = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert len(finite) == 30 - len(bad) + 6 and all(np.isfinite(row["loss"]) for row in finite)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(final(tmp_path / "run")))
    code, printed = command(*RUN, "--config.train.accumulate=1", f"--workdir={tmp_path / 'without'}")
    assert code == 1 and f"at step {bad[0]} " in printed


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_metrics_ends_the_run(straight, command, tmp_path, monkeypatch):
    original, calls = metrics.MetricsFile.write, []

    def write(self, row):
        calls.append(row)
        if len(calls) == 12:
            raise OSError(28, "No space left on device", "metrics.jsonl")
        original(self, row)

    monkeypatch.setattr(metrics.MetricsFile, "write", write)
    workdir = tmp_path / "run"
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 1 and "No space left on device: 'metrics.jsonl'" in printed and "Traceback" not in printed
    assert command(*RUN, f"--workdir={workdir}")[0] == 0
    assert rows(workdir) == rows(straight)
    assert_same(final(workdir), final(straight))


def test_damaged_results_and_metrics_are_made_again(straight, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    (workdir / "results.json").write_text('{"top1": ')
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join([*lines[:3], "garbage\n", "5\n", "{}\n", *lines[3:], '{"step": 3']))
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 0 and "3 lines" in printed and "metrics.jsonl.damaged" in printed
    assert rows(workdir) == rows(straight) and results(workdir)["top1"] == results(straight)["top1"]
    assert "garbage" in (workdir / "metrics.jsonl.damaged").read_text()
    (workdir / "config.json").write_text("{")
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 2 and "config.json can't be read" in printed and "Traceback" not in printed


def test_a_run_without_its_checkpoints_is_not_begun_anew(straight, command, tmp_path):
    """Its metrics would be wiped: a disk that isn't mounted looks like that."""
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    shutil.rmtree(workdir / "checkpoints")
    before = rows(workdir)
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 2 and "come to step 30, but none of its checkpoints is left" in printed
    assert rows(workdir) == before


def test_a_folder_that_cannot_be_written_is_evaluated_all_the_same(straight, command, tmp_path, monkeypatch):
    from vit_jax.runs import report

    def fail(*_):
        raise OSError(30, "Read-only file system", "confusion.csv")

    monkeypatch.setattr(report, "write_confusion", fail)
    code, printed = command("--mode=evaluate", f"--workdir={straight}")
    assert code == 0 and "not kept" in printed and "Read-only file system" in printed and "top-1" in printed


@pytest.mark.slow
def test_a_reader_that_is_gone_does_not_keep_a_run_from_saving(process, tmp_path):
    """Ctrl-C under `... | tee log` ends tee as well."""
    workdir = tmp_path / "run"
    child = process(*RUN, "--config.train.length=100000 steps", f"--workdir={workdir}")
    wait_for_steps(workdir, 12, child)
    child.stdout.close()
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130
    assert max(int(p.name) for p in (workdir / "checkpoints").iterdir()) == rows(workdir, "train")[-1]["step"]
