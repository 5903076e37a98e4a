"""Runs by the clock, averages, seeds, sizes and sweeps, through the command line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from promises.harness import RUN

from scripts import sweep
from vit_jax.runs import metrics
from vit_jax.steps.clock import Clock
from vit_jax.steps.plan import Plan
from vit_jax.training import loop
from vit_jax.training.log import Log
from vit_jax.training.seeds import spread


def rows(workdir, split):
    return [row for row in metrics.read(Path(workdir)) if row["split"] == split]


def results(workdir):
    return json.loads((Path(workdir) / "results.json").read_text())


# --- by the clock


def clock_at(monkeypatch, wall, train):
    clock = Clock(0.0)
    monkeypatch.setattr(clock, "totals", lambda: {"wall": wall, "train": train})
    return clock


def test_places_go_from_0_to_the_end_whatever_else_takes_time(monkeypatch):
    plan = Plan(10_000, seconds=100.0, reserve=10.0)
    assert plan.place(0, clock_at(monkeypatch, wall=30.0, train=0.0)) == 0
    assert plan.place(9, clock_at(monkeypatch, wall=60.0, train=30.0)) == 5_000
    # An evaluation of 10 s later: less is left, but the schedule still ends.
    assert plan.place(9, clock_at(monkeypatch, wall=70.0, train=30.0)) == 6_000
    assert plan.ended(99, clock_at(monkeypatch, wall=90.0, train=50.0))
    training = Plan(10_000, seconds=100.0, clock="train")
    assert training.place(9, clock_at(monkeypatch, wall=500.0, train=25.0)) == 2_500


@pytest.mark.slow
def test_a_run_by_the_clock_ends_in_time_with_everything(command, tmp_path):
    args = [*RUN, "--config.train.length=25 s", "--config.optim.schedule=linear", "--config.optim.warmup=10 %"]
    args += ["--config.eval.every=0 steps", "--config.checkpoint.every=0 steps"]
    started = time.monotonic()
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    assert time.monotonic() - started < 26
    found, logged = results(tmp_path / "run"), rows(tmp_path / "run", "train")
    assert found["steps"] == found["checkpoint"] and found["train_seconds"] > 3
    assert found["wall_seconds"] < found["total_seconds"] < 25
    assert found["train_flops"] == pytest.approx(found["steps"] * 32 * found["train_flops_per_image"])
    rates = [row["learning_rate"] for row in logged]
    assert max(rates) > 0.9e-3 and rates[-1] < 0.15 * max(rates)
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [found["steps"]]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_a_run_by_the_clock_goes_on_with_the_time_it_has_left(command, tmp_path):
    original = Log.put

    def put(self, step, *args):
        original(self, step, *args)
        if step == 20:
            signal.raise_signal(signal.SIGTERM)

    args = [*RUN, "--config.train.length=2 s", "--config.train.clock=train", "--config.eval.every=0 steps"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "put", put)
        code, printed = command(*args, f"--workdir={tmp_path}")
    assert code == 143 and "Stopped after step 20 of a run of 2 s; saved" in printed
    code, printed = command(*args, f"--workdir={tmp_path}")
    assert code == 0 and "Resuming after step 20 of a run of 2 s" in printed
    assert 2 <= results(tmp_path)["train_seconds"] < 3


@pytest.mark.slow
def test_a_time_that_starting_up_takes_is_too_short(command, tmp_path):
    code, printed = command(*RUN, "--config.train.length=0.1 s", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "before the first step" in printed
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.optim.warmup=10 steps"], "give a percentage"),
        (["--config.eval.every=10 %"], "give steps, epochs or examples"),
        (["--config.log.every=5 s"], "only config.train.length may be a time"),
        (["--config.train.clock=sun"], "not one of wall, train"),
    ],
)
def test_lengths_that_a_time_excludes_are_refused(command, tmp_path, flags, message):
    code, printed = command(*RUN, "--config.train.length=1 min", f"--workdir={tmp_path / 'run'}", *flags)
    assert code == 2 and message in printed and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("test", ["", "test"])
def test_a_run_by_the_clock_that_was_killed_at_once_is_not_complete(command, tmp_path, test):
    """Only the checkpoint of its start is there then."""
    args = [*RUN, "--config.train.length=2 s", "--config.train.clock=train", "--config.eval.every=0 steps"]
    args += ["--config.checkpoint.every=0 steps", f"--config.data.test={test}", f"--workdir={tmp_path}"]

    class Killed(Exception):
        pass

    def put(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "put", put)
        with pytest.raises(Killed):
            command(*args)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0"]
    code, printed = command(*args)
    assert code == 0 and "already complete" not in printed
    assert rows(tmp_path, "validation")[-1]["step"] > 0


@pytest.mark.slow
def test_evaluations_that_take_the_rest_of_the_time_end_the_run_once(command, tmp_path, monkeypatch):
    """Each evaluation takes 3 s here, of 2: the first is the last, and no step follows it."""
    original = loop._evaluate

    def slow(*args):
        scores = original(*args)
        spent["wall"] += 3
        return scores

    spent = {"wall": 0.0}
    totals = Clock.totals
    monkeypatch.setattr(loop, "_evaluate", slow)
    monkeypatch.setattr(Clock, "totals", lambda self: {**totals(self), "wall": spent["wall"] + totals(self)["train"]})
    monkeypatch.setattr("vit_jax.training.prepare.reserve_of", lambda *_: 0.0)
    code, printed = command(*RUN, "--config.train.length=2 s", "--config.eval.every=5 steps", f"--workdir={tmp_path}")
    assert code == 0, printed
    assert [row["step"] for row in rows(tmp_path, "validation")] == [5] and results(tmp_path)["steps"] == 5


# --- everything random at once


@pytest.mark.slow
def test_stopped_and_resumed_with_everything_is_the_straight_run(command, tmp_path):
    """Policies, mixing, erasing, flips, averages, Muon, ramps and sizes, several steps in a call: bit for bit."""
    flags = ["augment.policy=randaugment", "augment.mixup=0.8", "augment.cutmix=1.0", "augment.erase=0.25"]
    flags += ["augment.cutout=4", "augment.alternate_flip=true", "augment.ramp=linear", "augment.off_last=0.2"]
    flags += ["model.drop_path=0.2", "model.drop_path_ramp=linear", "train.ema=0.9", "eval.params=ema"]
    flags += ["optim.name=muon", "optim.adam_learning_rate=1e-3", "train.sizes=((0.0, 16), (0.5, 32))"]
    flags += ["train.steps_per_call=4", "model.stem.kind=conv", "model.stem.widths=(8,)", "model.stem.whiten=2"]
    args = [*RUN, *(f"--config.{flag}" for flag in flags), "--config.model.patch_size=4"]
    assert command(*args, f"--workdir={tmp_path / 'straight'}")[0] == 0
    original = Log.put

    def put(self, step, *rest):
        original(self, step, *rest)
        if step == 12:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "put", put)
        assert command(*args, f"--workdir={tmp_path / 'stopped'}")[0] == 143
    assert command(*args, f"--workdir={tmp_path / 'stopped'}")[0] == 0
    states = [
        ocp.PyTreeCheckpointer().restore(tmp_path / name / "checkpoints" / "30" / "state")
        for name in ("straight", "stopped")
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    kernel = states[0]["params"]["stem"]["whitening"]["kernel"]
    np.testing.assert_array_equal(kernel, states[0]["ema"]["stem"]["whitening"]["kernel"])
    assert abs(kernel[:, :12] - np.eye(12)).max() > 0.1  # of the data, not the identity it begins with


# --- averages, flips, goals


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run with a moving average, tested with it and with flips."""
    from vit_jax.main import main

    workdir = tmp_path_factory.mktemp("averaged") / "run"
    flags = ["--config.train.ema=0.9", "--config.eval.params=ema", "--config.eval.flips=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "GOALS", (11, 23, 99))
        assert main(["vit-jax", *RUN, *flags, f"--workdir={workdir}"]) == 0
    return workdir


def test_the_average_is_validated_beside_the_parameters_and_tested(averaged, command):
    raw, ema = rows(averaged, "validation"), rows(averaged, "validation_ema")
    assert [row["step"] for row in raw] == [row["step"] for row in ema]
    assert all(a["loss"] != b["loss"] for a, b in zip(raw, ema, strict=True))
    before = results(averaged)
    assert before["tested_params"] == "ema"
    assert before["top1_flips"] > 0 and before["loss_flips"] != before["loss"]
    code, printed = command("--mode=evaluate", f"--workdir={averaged}")
    assert code == 0 and "with flips" in printed
    assert results(averaged)["loss"] == before["loss"]
    scores = json.loads((averaged / "checkpoints" / "30" / "meta.json").read_text())["scores"]
    assert scores["loss"] == ema[-1]["loss"]


def test_the_time_to_each_goal_is_noted_once(averaged):
    ema = rows(averaged, "validation_ema")
    for goal in (11, 23):
        noted = [row for row in ema if f"time_to/{goal}" in row]
        reached = [row for row in ema if row["top1"] >= goal / 100]
        assert noted == reached[:1] and noted
        assert 0 < noted[0][f"time_to/{goal}"] < noted[0][f"wall_to/{goal}"]
    assert not any("time_to/99" in row for row in ema)


def test_an_average_that_is_not_kept_cannot_be_tested(command, tmp_path):
    code, printed = command(*RUN, "--config.eval.params=ema", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "needs config.train.ema" in printed


# --- progressive resolution


@pytest.mark.slow
def test_a_run_can_begin_with_smaller_images(command, tmp_path):
    sizes = "--config.train.sizes=((0.0, 16), (0.5, 32))"
    code, printed = command(*RUN, sizes, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    logged = rows(tmp_path / "run", "train")
    speed = {row["step"]: row["tflops_per_second"] / row["images_per_second"] for row in logged}
    assert speed[10] < 0.3 * speed[30]  # a quarter of the patches before
    found = results(tmp_path / "run")
    assert 0.5 < found["train_flops"] / (30 * 32 * found["train_flops_per_image"]) < 0.7


@pytest.mark.parametrize("sizes", ["((0.1, 16), (0.5, 32))", "((0.0, 16),)", "((0.0, 12), (0.5, 32))"])
def test_sizes_that_do_not_fit_are_refused(command, tmp_path, sizes):
    code, printed = command(*RUN, f"--config.train.sizes={sizes}", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and ("config.train.sizes" in printed or "patch_size=8" in printed)


# --- seeds and sweeps


@pytest.mark.slow
def test_several_seeds_are_runs_of_their_own_summed_up(command, tmp_path):
    args = [*RUN, "--config.seeds=2", "--config.seed=3", f"--workdir={tmp_path}"]
    code, printed = command(*args)
    assert code == 0, printed
    found = [results(tmp_path / f"seed_{seed}") for seed in (3, 4)]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["seeds"] == [3, 4] and [f["seed"] for f in found] == [3, 4]
    tops = [f["top1"] for f in found]
    assert summary["top1"]["values"] == tops and summary["top1"]["mean"] == pytest.approx(np.mean(tops))
    assert summary["top1"]["sd"] == pytest.approx(np.std(tops, ddof=1))
    code, printed = command(*args)
    assert code == 0 and printed.count("already complete") == 2
    code, printed = command(*args, "--resume=never")
    assert code == 2 and "already holds runs" in printed
    code, printed = command(*args, "--config.seeds=3")  # one more
    assert code == 0 and json.loads((tmp_path / "summary.json").read_text())["seeds"] == [3, 4, 5]
    code, printed = command("--mode=evaluate", f"--workdir={tmp_path}")
    assert code == 2 and "seed_N" in printed


def test_the_interval_is_students():
    found = spread([0.5, 0.6, 0.7])
    assert found["mean"] == pytest.approx(0.6) and found["sd"] == pytest.approx(0.1)
    assert found["high"] - found["mean"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # t(0.975, 2)
    assert spread([0.5])["sd"] == 0 and spread([0.5])["low"] == 0.5


def test_arms_are_all_combinations():
    arms = sweep.arms_of(["a=1;2", "b=x;y"], ["", "c=0 d='(1, 2)'"])
    assert len(arms) == 8
    assert arms[0].overrides == ("a=1", "b=x") and arms[-1].overrides == ("c=0", "d=(1, 2)", "a=2", "b=y")
    assert len({arm.folder() for arm in arms}) == 8
    for grids, together in ((["a"], []), (["a="], []), ([], ["x"])):
        with pytest.raises(ValueError, match="write KEY=VALUE"):
            sweep.arms_of(grids, together)
    for together in (["a=1", "a=1"], ["a=(1,2)", "a=[1,2]"]):
        with pytest.raises(ValueError, match="can't be told apart"):
            sweep.arms_of([], together)


@pytest.mark.slow
def test_a_sweep_goes_on_and_leaves_the_test_split_alone(tmp_path):
    command = [sys.executable, "scripts/sweep.py", "--config=configs/debug.py", f"--workdir={tmp_path}", "--seeds=0,1"]
    command += ["--grid=optim.learning_rate=-1;1e-3", "--config.data.name=digits"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 1 and "Some runs failed" in first.stderr  # a negative rate is refused
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2].startswith("| optim.learning_rate=1e-3 | ") and table[2].endswith("| 2 | 0 |")
    assert table[3] == "| optim.learning_rate=-1 | - | - | 0 | 2 |"
    done = tmp_path / "optim.learning_rate=1e-3" / "seed_1"
    assert not (done / "results.json").exists() and not (done / "confusion.csv").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.count("already complete") == 2 and (tmp_path / "table.md").read_text().splitlines() == table


@pytest.mark.slow
def test_a_sweep_that_is_stopped_lets_its_run_save(tmp_path):
    command = [sys.executable, "scripts/sweep.py", "--config=configs/debug.py", f"--workdir={tmp_path}"]
    command += [
        "--config.train.length=100000 steps",
        "--config.eval.every=0 steps",
        "--config.checkpoint.every=0 steps",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        workdir, until = tmp_path / "as_it_is" / "seed_0", time.monotonic() + 60
        while not (workdir / "metrics.jsonl").exists() or len(rows(workdir, "train")) < 3:
            assert time.monotonic() < until
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 1 and "the same command goes on from there" in said
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) >= 10
