"""Trains, resumes and evaluates from cached arrays where TensorFlow, TFDS, tensorboard and clu's writers are absent."""

import json
import sys

import numpy as np
import pytest

from vit_jax.config import AugmentConfig, Config, DataConfig, ModelConfig
from vit_jax.data import cache, sources
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError
from vit_jax.models.backend import Target
from vit_jax.training.checks import check_config
from vit_jax.training.resolve import with_data

# Runs commands with the imports blocked; says at the end whether any heavy module was loaded all the same.
BLOCKED = """
import json, sys

NAMES = ("tensorflow", "tensorflow_datasets", "tensorboard", "clu.metric_writers", "matplotlib")
sys.modules.update(dict.fromkeys(NAMES))  # None: not to be found
sys.path.insert(0, "tests")
from promises.harness import stopping_after
from vit_jax.main import main
with stopping_after({4}):
    codes = [main(["vit-jax", *arguments]) for arguments in json.loads(sys.argv[1])]
print("codes:", codes, "loaded:", [n for n in (*NAMES, "sklearn") if sys.modules.get(n)])
"""


@pytest.mark.slow
def test_the_whole_way(process, tmp_path):
    rng = np.random.RandomState(0)
    examples = Examples(
        rng.randint(256, size=(100, 32, 32, 3)).astype(np.uint8), (np.arange(100) % 10).astype(np.int32)
    )
    dataset = DataSet("cifar10", tuple("abcdefghij"), {"train": examples, "test": examples})
    cache.write(tmp_path / "cache" / "cifar10-0123", dataset)
    args = ["--config=configs/debug.py", "--config.model.depth=1", "--config.data.name=cifar10"]
    args += ["--config.log.tensorboard=true"]
    args += ["--config.checkpoint.every=3 steps", "--config.log.every=1 steps", f"--workdir={tmp_path / 'run'}"]

    child = process(json.dumps([args, args, ["--mode=evaluate", args[-1]]]), code=BLOCKED)
    printed = child.communicate()[0]
    assert "codes: [138, 0, 0] loaded: []" in printed, printed
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row["split"] == "train"] == list(range(1, 21))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["num_examples"] == 100


def test_without_arrays_or_tensorflow_the_remedies_are_named(process, tmp_path):
    args = ["--config=configs/article.py", f"--workdir={tmp_path / 'run'}"]
    printed = process(json.dumps([args]), code=BLOCKED).communicate()[0]
    assert "codes: [2]" in printed
    assert "TensorFlow" in printed and "cache" in printed and "Traceback" not in printed


def test_the_remedy_for_random_crops_can_be_followed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    model = ModelConfig(image_size=16, patch_size=4, width=24, depth=1, heads=3, mlp_dim=40)
    config = Config(data=DataConfig(name="fake"), model=model, augment=AugmentConfig(crop_scale=(0.5, 1.0)))
    with pytest.raises(UserError, match=r"set --config.data.pipeline=resident --config.augment.crop_scale='\(\)'"):
        with_data(config, sources.load(config), Target("cpu"))
    followed = Config(data=DataConfig(name="fake", pipeline="resident"), model=model)
    check_config(followed, Target("cpu"))
    assert len(with_data(followed, sources.load(followed), Target("cpu"))[1].train.labels)
