"""What ends a run before its end, and going on from there. P1 to P4, P9, P13 and P14 of tests/promises say more."""

import re
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
from promises.harness import RUN, arrays, require_same, rows, stopping_after

import vit_jax
from vit_jax.data.pipeline import indices_at
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.runs import metrics
from vit_jax.steps import step


@pytest.mark.slow
def test_a_full_disk_and_a_stop_during_an_evaluation_leave_the_straight_run(straight, command, tmp_path, monkeypatch):
    """The 12th row of the metrics can't be written; Ctrl-C comes during the second evaluation, which is repeated."""
    write, logits = metrics.MetricsFile.write, Evaluator.logits
    written, evaluated = [], []

    def full(self, row):
        written.append(row)
        if len(written) == 12:
            raise OSError(28, "No space left on device", "metrics.jsonl")
        write(self, row)

    def interrupted(self, params, images, check):
        evaluated.append(len(images))
        if len(evaluated) == 2:
            signal.raise_signal(signal.SIGINT)
        return logits(self, params, images, check)

    workdir = tmp_path / "run"
    monkeypatch.setattr(metrics.MetricsFile, "write", full)
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 1 and "No space left on device: 'metrics.jsonl'" in printed and "Traceback" not in printed
    evaluated.clear()
    monkeypatch.setattr(Evaluator, "logits", interrupted)
    assert command(*RUN, f"--workdir={workdir}")[0] == 130
    assert [row["step"] for row in rows(workdir, "validation")] == [10]
    assert command(*RUN, f"--workdir={workdir}")[0] == 0
    require_same(workdir, straight)


@pytest.mark.slow
def test_several_steps_in_a_call_are_the_same_steps(straight, command, tmp_path):
    """Evaluations, checkpoints and logged rows stay where they are, also after an interruption between two calls."""
    several = [*RUN, "--config.train.steps_per_call=3", f"--workdir={tmp_path / 'run'}"]
    with stopping_after({15}, signal.SIGTERM):
        code, printed = command(*several)
    assert code == 143 and "Stopped after step 15 of 30; saved" in printed
    assert command(*several)[0] == 0
    for row, plain in zip(rows(tmp_path / "run"), rows(straight), strict=True):
        assert (row["step"], row["split"]) == (plain["step"], plain["split"])
        assert abs(row["loss"] - plain["loss"]) < 1e-4


def test_several_steps_in_a_call_need_resident_images(command, tmp_path):
    args = [*RUN, "--config.train.steps_per_call=3", "--config.data.pipeline=mapped"]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "steps_per_call=3 needs the images on the device" in printed


def test_a_diverged_run_stops_and_says_where(command, tmp_path):
    """Though no step is logged; P14 sees to what is logged and saved."""
    args = ["--config.optim.learning_rate=1e30", "--config.optim.clip_norm=none", "--config.checkpoint.every=0 steps"]
    args += ["--config.optim.eps=1e-30", "--config.train.length=60 steps", "--config.log.every=0 steps"]
    code, printed = command(*RUN, *args, "--config.eval.every=0 steps", f"--workdir={tmp_path / 'run'}")
    assert code == 1
    assert re.search(r"gradient norm nan at step \d+ \(learning rate \d\.\d+e\+\d\d\)", printed)
    assert "Traceback" not in printed


@pytest.mark.slow
def test_steps_that_are_not_finite_can_be_left_out(command, tmp_path, monkeypatch):
    """Those whose first example is of class 3, here: each is told and logged, the rest go on, and all stays finite."""
    original = step.mixed_cross_entropy

    def poisoned(logits, targets, *rest):
        return original(logits, targets, *rest) * jnp.where(targets.label[0] == 3, jnp.nan, 1.0)

    monkeypatch.setattr(step, "mixed_cross_entropy", poisoned)
    labels = vit_jax.setup("debug").splits.train.labels
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
    assert all(np.isfinite(x).all() for x in arrays(tmp_path / "run").values())


@pytest.mark.slow
def test_a_reader_that_is_gone_does_not_keep_a_run_from_saving(process, tmp_path):
    """Ctrl-C under `... | tee log` ends tee as well."""
    workdir = tmp_path / "run"
    child = process(*RUN, "--config.train.length=100000 steps", f"--workdir={workdir}")
    while child.poll() is None and len(rows(workdir, "train")) < 12:
        time.sleep(0.01)
    child.stdout.close()
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130
    assert max(int(p.name) for p in (workdir / "checkpoints").iterdir()) == rows(workdir, "train")[-1]["step"]
