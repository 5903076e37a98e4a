"""A run on grey images that are not square, from training to the page about it."""

import json

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import sources
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.runs import trained
from vit_jax.steps.step import eval_step

SIZES = {"train": 64, "test": 20}
RUN = [
    "--config=debug", "--config.model.channels=1", "--config.model.image_size=16", "--config.model.image_width=24",
    "--config.model.pool=token", "--config.augment.cutmix=1.0", "--config.augment.cutout=6",
    "--config.data.train=train[:48]", "--config.data.validation=train[48:]", "--config.data.test=test",
    "--config.train.length=2 steps", "--config.train.batch_size=16", "--config.eval.every=2 steps",
    "--config.checkpoint.every=2 steps", "--config.eval.batch_size=16",
]  # fmt: skip


@pytest.fixture
def grey(monkeypatch):
    """Grey images of 12 x 20 pixels in the place of any data set."""
    rng = np.random.RandomState(0)
    splits = {
        name: Examples(rng.randint(256, size=(n, 12, 20, 1)).astype(np.uint8), np.arange(n, dtype=np.int32) % 4)
        for name, n in SIZES.items()
    }
    dataset = DataSet("fake", ("a", "b", "c", "d"), splits)
    monkeypatch.setattr(sources, "load", lambda *_, **__: dataset)
    monkeypatch.setattr(sources, "SIZES", {"fake": SIZES})
    return dataset


@pytest.mark.slow
def test_grey_rectangles_are_trained_tested_exported_and_shown(grey, command, tmp_path):
    run = tmp_path / "run"
    code, printed = command(*RUN, f"--workdir={run}")
    assert code == 0, printed
    assert "grey images of 12 x 20, 4 classes" in printed and "16 x 24 pixels, float32" in printed
    lines = ["Image size: 16 X 24", "Patch size: 8 X 8", "Patches per image: 6", "Elements per patch: 64"]
    assert all(line in printed for line in lines)

    model, test = trained.load(str(run)), grey.splits["test"]
    config = json.loads((run / "config.json").read_text())
    train = grey.splits["train"].images[:48] / 255
    np.testing.assert_allclose([*config["augment"]["mean"], *config["augment"]["std"]], [train.mean(), train.std()])
    assert model.image_size == (12, 20) and model.params["stem"]["proj"]["kernel"].shape == (64, 32)
    logits = np.asarray(eval_step(model.params, test.images, module=model.module, config=model.config))
    results = json.loads((run / "results.json").read_text())
    assert results["top1"] == np.mean(logits.argmax(axis=1) == test.labels)

    code, printed = command("export", f"--workdir={run}", "--format=jax")
    assert code == 0, printed
    assert json.loads((run / "export/jax/model.json").read_text())["input"]["shape"] == ["batch", 12, 20, 1]
    code, printed = command("export", f"--workdir={run}", "--format=huggingface")
    assert code == 0, printed
    described = json.loads((run / "export/huggingface/config.json").read_text())
    assert described["image_size"] == [16, 24] and described["num_channels"] == 1
    code, printed = command("report", f"--workdir={run}", f"--output={tmp_path / 'page.html'}")
    assert code == 0, printed
    page = (tmp_path / "page.html").read_text()
    assert "for another class with the greatest probability" in page and "can't be shown" not in page
    assert Image.open(run / "patches.png").convert("L").size[0] == 1080


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.model.channels=4"], "config.model.channels is 3, or 1 for grey images; found 4"),
        (["--config.augment.mean=(0.5, 0.5, 0.5)"], "config.augment.mean needs 1 value, one a channel, or none"),
        (["--config.train.sizes=((0.0, 8), (0.5, 16))"], "config.train.sizes is of square images; found config.model"),
    ],
)
def test_what_a_grey_rectangle_can_not_have_is_told_before_data_are_touched(args, message, command, tmp_path):
    code, printed = command(*RUN, *args, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and message in printed and not (tmp_path / "run").exists()
