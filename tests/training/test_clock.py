"""Runs that are a time long, through the command line."""

import json
import signal
import time

import pytest
from promises.harness import RUN, stopping_after

from vit_jax.runs import metrics
from vit_jax.steps.clock import Clock
from vit_jax.steps.plan import Plan
from vit_jax.training import loop
from vit_jax.training.log import Log

# The same compiled step for all, whatever their time.
CLOCKED = [*RUN, "--config.optim.schedule=linear", "--config.optim.warmup=10 %"]


def rows(workdir, split):
    return [row for row in metrics.read(workdir) if row["split"] == split]


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def clock_at(monkeypatch, wall, train):
    clock = Clock(0.0)
    monkeypatch.setattr(clock, "totals", lambda: {"wall": wall, "train": train})
    return clock


def test_places_go_from_0_to_the_end_whatever_else_takes_time(monkeypatch):
    plan = Plan(10_000, seconds=100.0, reserve=10.0)
    assert plan.progress(0, clock_at(monkeypatch, wall=30.0, train=0.0)) == 0
    assert plan.progress(9, clock_at(monkeypatch, wall=60.0, train=30.0)) == 5_000
    # An evaluation of 10 s later: less is left, but the schedule still ends.
    assert plan.progress(9, clock_at(monkeypatch, wall=70.0, train=30.0)) == 6_000
    assert plan.ended(99, clock_at(monkeypatch, wall=90.0, train=50.0))
    training = Plan(10_000, seconds=100.0, clock="train")
    assert training.progress(9, clock_at(monkeypatch, wall=500.0, train=25.0)) == 2_500


@pytest.mark.slow
def test_a_run_by_the_clock_goes_on_with_the_time_it_has_left(command, tmp_path):
    args = [*CLOCKED, "--config.train.length=2 s", "--config.train.clock=train", "--config.eval.every=0 steps"]
    with stopping_after({20}, signal.SIGTERM):
        code, printed = command(*args, f"--workdir={tmp_path}")
    assert code == 143 and "Stopped after step 20 of a run of 2 s; saved" in printed
    code, printed = command(*args, f"--workdir={tmp_path}")
    assert code == 0 and "Resuming after step 20 of a run of 2 s" in printed
    assert 2 <= results(tmp_path)["train_seconds"] < 3


@pytest.mark.slow
@pytest.mark.parametrize("test", ["", "test"])
def test_a_run_by_the_clock_that_was_killed_at_once_is_not_complete(command, tmp_path, test):
    """Only the checkpoint of its start is there then."""
    args = [*CLOCKED, "--config.train.length=2 s", "--config.train.clock=train", "--config.eval.every=0 steps"]
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
    code, printed = command(
        *CLOCKED, "--config.train.length=2 s", "--config.eval.every=5 steps", f"--workdir={tmp_path}"
    )
    assert code == 0, printed
    assert [row["step"] for row in rows(tmp_path, "validation")] == [5] and results(tmp_path)["steps"] == 5


@pytest.mark.slow
def test_a_run_by_the_clock_ends_in_time_with_everything(command, tmp_path, monkeypatch):
    args = [*CLOCKED, "--config.train.length=18 s", "--config.eval.every=0 steps", "--config.checkpoint.every=0 steps"]
    put = Log.put

    def rested(*given):
        put(*given)
        time.sleep(0.02)  # leaves the processors to other tests

    monkeypatch.setattr(Log, "put", rested)
    started = time.monotonic()
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    assert time.monotonic() - started < 19
    found, logged = results(tmp_path / "run"), rows(tmp_path / "run", "train")
    assert found["steps"] == found["checkpoint"] and found["train_seconds"] > 3
    assert found["wall_seconds"] < found["total_seconds"] < 18
    assert found["train_flops"] == pytest.approx(found["steps"] * 32 * found["train_flops_per_image"])
    rates = [row["learning_rate"] for row in logged]
    assert max(rates) > 0.9e-3 and rates[-1] < 0.15 * max(rates)
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [found["steps"]]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_a_time_that_starting_up_takes_is_too_short(command, tmp_path):
    code, printed = command(*CLOCKED, "--config.train.length=0.1 s", f"--workdir={tmp_path / 'run'}")
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
