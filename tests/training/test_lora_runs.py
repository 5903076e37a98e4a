"""Runs that train low-rank products beside weights: what moves, what stays, and what goes out."""

import json
import shutil

import numpy as np
import pytest
from promises.harness import arrays, rows

from vit_jax.pretrained import load
from vit_jax.runs import trained

LORA = (
    *("--config=debug", "--config.model.depth=1", "--config.optim.lora_rank=2"),
    *("--config.train.length=6 steps", "--config.eval.every=6 steps"),
    *("--config.checkpoint.every=3 steps", "--config.log.every=1 steps", "--config.optim.learning_rate=0.01"),
)


@pytest.mark.slow
def test_products_and_head_are_trained_merged_and_go_on(straight, command, tmp_path):
    run = tmp_path / "run"
    options = (*LORA, f"--config.init_from={straight}")
    code, printed = command(*options, f"--workdir={run}")
    assert code == 0, printed
    # Of one block: 3 (32 + 32) 2 of queries, keys and values, 2 (32 + 64) 2 of the MLP; and the head's 32 x 10 + 10.
    assert "1,098 of them are trained" in printed
    start, before, after = arrays(straight), arrays(run, 3), arrays(run, 6)
    for path, x in after.items():
        if path.startswith("['params']"):
            moves = "lora" in path or "['head']" in path
            assert (x != before[path]).any() == moves and (moves or (x == start[path]).all()), path
    merged = trained.load(str(run))
    weights = merged.params["block_00"]["mlp"]["dense_0"]
    assert weights.keys() == {"kernel", "bias"}
    at = "['params']['block_00']['mlp']['dense_0']"
    expected = after[f"{at}['kernel']"] + after[f"{at}['lora_a']"][0] @ after[f"{at}['lora_b']"][0]
    np.testing.assert_allclose(weights["kernel"], expected, atol=1e-6)

    # The export is of the merged kernels, and another run can start from them.
    code, printed = command("export", f"--workdir={run}", f"--output={tmp_path / 'out'}")
    assert code == 0, printed
    _, params = load(tmp_path / "out")
    np.testing.assert_array_equal(params["block_00"]["mlp"]["dense_0"]["kernel"], weights["kernel"])
    results = json.loads((run / "results.json").read_text())
    code, printed = command("evaluate", f"--workdir={run}")
    assert code == 0 and results["params"] == sum(x.size for x in _leaves(params))

    shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    (tmp_path / "again" / "results.json").unlink()
    code, printed = command(*options, f"--workdir={tmp_path / 'again'}")
    assert code == 0 and "Resuming after step 3" in printed, printed
    again = arrays(tmp_path / "again", 6)
    assert all((again[path] == x).all() for path, x in after.items()) and rows(tmp_path / "again") == rows(run)


def _leaves(tree):
    return [leaf for x in tree.values() for leaf in (_leaves(x) if isinstance(x, dict) else [x])]


def test_what_low_rank_products_can_not_be_is_told(straight, command, tmp_path):
    start = f"--config.init_from={straight}"
    for options, said in (
        ((), "LoRA needs weights to start from"),
        ((start, "--config.optim.name=muon"), "can't train LoRA's factors"),
        ((start, "--config.optim.lora_rank=0"), "config.optim.lora_rank must be above 0"),
        (
            (start, "--config.optim.lora_rank=33"),
            "qkv/kernel is 32 x 32; give a rank that is at most both",
        ),
    ):
        code, printed = command(*LORA, *options, f"--workdir={tmp_path / 'run'}")
        assert code == 2 and said in printed and "Traceback" not in printed, printed
