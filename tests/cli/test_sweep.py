"""Sweeps: every arm is checked before any starts, runs go on where they were stopped, the test split is left alone."""

import signal
import subprocess
import sys
import time

import pytest
from promises.harness import RUN, rows

from vit_jax.cli.sweep import arms_of
from vit_jax.errors import UserError
from vit_jax.main import main

PROGRAM = [sys.executable, "-m", "vit_jax.main", "sweep", *RUN]


def test_arms_are_all_combinations():
    arms = arms_of(["a=1;2", "b=x;y"], ["", "c=0 d='(1, 2)'"])
    assert len(arms) == 8
    assert arms[0].overrides == ("a=1", "b=x") and arms[-1].overrides == ("c=0", "d=(1, 2)", "a=2", "b=y")
    assert len({arm.folder() for arm in arms}) == 8
    for grids, together in ((["a"], []), (["a="], []), ([], ["x"])):
        with pytest.raises(UserError, match="write KEY=VALUE"):
            arms_of(grids, together)
    with pytest.raises(UserError, match="no closing quotation"):
        arms_of([], ["a='b"])
    for together in (["a=1", "a=1"], ["a=(1,2)", "a=[1,2]"]):
        with pytest.raises(UserError, match="can't be told apart"):
            arms_of([], together)


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ("optim.lr=1e-3;3e-3", "did you mean config.optim.learning_rate?"),
        ("optim.learning_rate=1e-3;fast", "optim.learning_rate=fast: config.optim.learning_rate must be a number"),
        ("optim.learning_rate=1e-3;-1", "optim.learning_rate=-1: config.optim.learning_rate must be above 0"),
    ],
)
def test_an_arm_that_can_not_be_is_told_before_any_starts(command, tmp_path, grid, told):
    code, printed = command("sweep", "--config=debug", f"--workdir={tmp_path / 'sweep'}", f"--grid={grid}")
    assert code == 2 and told in printed and printed.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--seeds=0,1,0"], "--seeds=0,1,0 names a seed twice"),
        (["--split=validation_ema"], "as it is: --split=validation_ema needs config.train.ema"),
        (["--grid=data.validation=train[90%:];"], "data.validation=: its runs aren't validated"),
    ],
)
def test_a_sweep_without_a_score_is_told_before_any_starts(command, tmp_path, args, told):
    code, printed = command("sweep", "--config=debug", f"--workdir={tmp_path / 'sweep'}", *args)
    assert code == 2 and told in printed and printed.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_the_model_of_weights_to_start_from_is_filled_in_for_the_check(command, tmp_path):
    weights = "--config.init_from=tests/fixtures/pretrained/google_vit_token.npz"
    args = ["--config=linear_probe_cifar10", weights, "--grid=optim.learning_rate=1e-3;-1"]
    code, printed = command("sweep", f"--workdir={tmp_path / 'sweep'}", *args)
    assert code == 2 and "optim.learning_rate=-1: config.optim.learning_rate must be above 0" in printed


@pytest.mark.slow
def test_a_sweep_goes_on_and_leaves_the_test_split_alone(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    short = [f"--config.{key}=8 steps" for key in ("train.length", "checkpoint.every", "eval.every")]
    program = ["vit-jax", "sweep", *RUN, *short, f"--workdir={tmp_path}", "--grid"]
    assert main([*program, "optim.learning_rate=1e35;1e-3", "--seeds=0"]) == 1
    assert "some runs failed" in capfd.readouterr().err  # the large rate diverges
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2].startswith("| optim.learning_rate=1e-3 | ") and table[2].endswith("| 1 | 0 |")
    assert table[3] == "| optim.learning_rate=1e35 | - | - | 0 | 1 |"
    monkeypatch.setenv("HOME", str(tmp_path.parent))  # as a shell leaves it in --workdir=~/sweep
    program[program.index(f"--workdir={tmp_path}")] = f"--workdir=~/{tmp_path.name}"
    assert main([*program, "optim.learning_rate=1e-3", "--seeds=0,1"]) == 0  # one seed more
    assert capfd.readouterr().out.count("already complete") == 1
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2].startswith("| optim.learning_rate=1e-3 | ") and table[2].endswith("| 2 | 0 |") and len(table) == 3
    done = tmp_path / "optim.learning_rate=1e-3" / "seed_1"
    assert not (done / "results.json").exists() and not (done / "confusion.csv").exists()


@pytest.mark.slow
def test_a_sweep_that_is_stopped_lets_its_run_save(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    command = [*PROGRAM, f"--workdir={tmp_path}", "--config.train.length=100000 steps"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        workdir, until = tmp_path / "as_it_is" / "seed_0", time.monotonic() + 60
        while not (workdir / "metrics.jsonl").exists() or len(rows(workdir, "train")) < 3:
            assert time.monotonic() < until
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=60)
    assert child.returncode == 130 and "the same command goes on from there" in said
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved == rows(workdir, "train")[-1]["step"] >= 3
