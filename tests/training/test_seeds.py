"""Several seeds of a run, one after the other."""

import json

import numpy as np
import pytest
from promises.harness import RUN

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
