"""From published weights and a folder of pictures to a run, its predictions and features, all by the program."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax import pretrained
from vit_jax.config import Config, DataConfig
from vit_jax.data import sources
from vit_jax.runs import trained

WEIGHTS = Path(__file__).parents[1] / "fixtures/pretrained/hf_vit"
STEPS = ["--config.train.length=4 steps", "--config.train.batch_size=16", "--config.log.tensorboard=false"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Some of the digits, as a folder for each class."""
    root = tmp_path_factory.mktemp("digits")
    for split, examples in sources.load(Config(data=DataConfig(name="digits"))).splits.items():
        for i in range(80):
            folder = root / split / str(examples.labels[i])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(examples.images[i])).save(folder / f"{i}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", ":probe"])
def test_weights_are_fine_tuned_or_probed_on_a_folder(variant, pictures, command, tmp_path):
    run = tmp_path / "run"
    started = [f"--config=finetune_folder{variant}", f"--config.init_from={WEIGHTS}", f"--config.data.dir={pictures}"]
    code, printed = command(*started, f"--workdir={run}", *STEPS)
    assert code == 0 and "normalised as for those" in printed, printed
    config = json.loads((run / "config.json").read_text())
    assert (config["data"]["crop_pct"], config["data"]["interpolation"]) == (1.0, "bilinear")  # ViT's processor
    assert config["augment"]["mean"] == [0.5] * 3 and config["model"]["norm_eps"] == 1e-12
    assert json.loads((run / "results.json").read_text())["num_examples"] == 80

    before, after = pretrained.load(WEIGHTS)[1], trained.load(str(run)).params
    same = jax.tree.map(
        lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), before["block_00"], after["block_00"]
    )
    assert all(jax.tree.leaves(same)) == (variant == ":probe")
    assert np.abs(after["head"]["logits"]["kernel"]).max() > 0

    picture = next(pictures.glob("test/*/*.png"))
    code, printed = command("predict", f"--workdir={run}", f"--images={picture}", "--format=json")
    assert code == 0 and str(picture) in printed
    code, printed = command("features", f"--workdir={run}", f"--images={pictures / 'test'}", f"--output={run}/f.npz")
    assert code == 0 and np.load(run / "f.npz")["features"].shape == (80, 48)


@pytest.mark.slow
def test_features_of_weights_are_probed_without_a_run(pictures, command, tmp_path):
    data = ("--config.data.name=image_folder", f"--config.data.dir={pictures}")
    options = (f"--weights={WEIGHTS}", *data, "--shots=1,2", "--knn=3", f"--output={tmp_path / 'found.json'}")
    splits = ("--config.data.train=train[:80%]", "--config.data.validation=train[80%:]")
    code, printed = command("fewshot", *options, *splits)
    assert code == 0 and "3 nearest" in printed, printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["weights"] == str(WEIGHTS) and [r["shots"] for r in found["results"]] == [1, 2]
    for wrong, said in (
        (("--config.data.validation=",), "has no validation images"),
        (("--config.data.test=train[95%:]",), "shares images with config.data.validation"),
        ((*splits, "--config.model.heads=3"), "is of a model with heads=4"),
        (("--output=nowhere/found.json",), "there is no folder"),
    ):
        code, printed = command("fewshot", *options, *wrong)
        assert code == 2 and said in printed, printed
