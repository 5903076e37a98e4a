"""Pictures are drawn from what a run knows; the patches are the model's."""

import numpy as np
import pytest
from PIL import Image

from vit_jax import viz


def test_the_four_lines_are_the_articles(tmp_path):
    image = np.random.RandomState(0).randint(256, size=(32, 32, 3)).astype(np.uint8)
    assert viz.patches(image, 72, 6, tmp_path / "patches.png") == [
        "Image size: 72 X 72",
        "Patch size: 6 X 6",
        "Patches per image: 144",
        "Elements per patch: 108",
    ]
    drawn = np.asarray(Image.open(tmp_path / "patches.png").convert("RGB"))
    assert drawn.std() > 20 and drawn.shape[1] > drawn.shape[0]


@pytest.mark.parametrize("validation", [True, False])
def test_curves_need_no_validation(tmp_path, validation):
    rows = [{"split": "train_epoch", "epoch": e, "top1": 0.1 * e, "loss": 2 - 0.1 * e} for e in range(5)]
    rows += [row | {"split": "validation"} for row in rows] if validation else []
    viz.curves(rows, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (960, 960)


def test_confusion_shows_every_class(tmp_path):
    matrix = np.array([[8, 2, 0], [0, 10, 0], [1, 0, 0]])
    viz.confusion(matrix, ["cat", "dog", "frog"], tmp_path / "confusion.png")
    assert np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).std() > 20
