"""Several seeds of a run, one after the other."""

import json

import numpy as np
import pytest
from promises.harness import RUN

from vit_jax.config import Config, ModelConfig
from vit_jax.errors import UserError
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import to_dict
from vit_jax.training.seeds import spread, train_each


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


def test_the_run_of_one_seed_is_left_alone(command, tmp_path):
    RunFolder(tmp_path).write("config.json", to_dict(Config()))
    before = (tmp_path / "config.json").read_bytes()
    code, printed = command(*RUN, "--config.seeds=2", f"--workdir={tmp_path}")
    assert code == 2 and "holds the run of one seed; choose another --workdir" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_start_that_fails_leaves_the_config_of_seeds_alone(tmp_path):
    sizes = {"patch_size": 4, "width": 8, "depth": 1, "heads": 1, "head_dim": 8, "mlp_dim": 8}
    config = Config(seeds=2, model=ModelConfig(image_size=8, **sizes))

    def fails(*args):
        raise UserError("the data are away")

    for is_there in (False, True):
        if is_there:
            RunFolder(tmp_path).write("config.json", to_dict(config))
        with pytest.raises(UserError, match="away"):
            train_each(config, str(tmp_path), "auto", 0.0, fails)
        assert (tmp_path / "config.json").exists() == is_there  # a new one may be corrected


def test_the_interval_is_students():
    found = spread([0.5, 0.6, 0.7])
    assert found["mean"] == pytest.approx(0.6) and found["sd"] == pytest.approx(0.1)
    assert found["high"] - found["mean"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # t(0.975, 2)
    assert spread([0.5])["sd"] == 0 and spread([0.5])["low"] == 0.5
