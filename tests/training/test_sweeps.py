"""Several seeds, and sweeps."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from promises.harness import RUN, rows

from scripts import sweep
from vit_jax.training.seeds import spread


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


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
def test_a_sweep_goes_on_and_leaves_the_test_split_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    command = [sys.executable, "scripts/sweep.py", *RUN, f"--workdir={tmp_path}", "--seeds=0,1"]
    command += ["--grid=optim.learning_rate=-1;1e-3"]
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
def test_a_sweep_that_is_stopped_lets_its_run_save(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    command = [sys.executable, "scripts/sweep.py", *RUN, f"--workdir={tmp_path}"]
    command += ["--config.train.length=100000 steps"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        workdir, until = tmp_path / "as_it_is" / "seed_0", time.monotonic() + 60
        while not (workdir / "metrics.jsonl").exists() or len(rows(workdir, "train")) < 12:
            assert time.monotonic() < until
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 1 and "the same command goes on from there" in said
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) >= 10
