"""Runs whose images stay encoded: exact after a stop. Batches are the resident ones: see data/test_streaming.py."""

import signal

import numpy as np
import pytest
from PIL import Image
from promises.harness import RUN, require_same, stopping_after

pytestmark = [pytest.mark.slow]


@pytest.fixture
def pictures(tmp_path):
    """120 of three classes and two sizes, PNG and JPEG."""
    pytest.importorskip("tensorflow")
    rng = np.random.RandomState(0)
    for i in range(120):
        folder = tmp_path / "pictures" / "train" / ("ant", "bee", "cow")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.randint(256, size=((48, 40), (36, 64))[i % 2] + (3,)) // 2 + 40 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.{('png', 'jpg')[i // 2 % 2]}")
    return tmp_path / "pictures"


def args_of(pictures, pipeline, *more):
    data = ("--config.data.name=image_folder", f"--config.data.dir={pictures}", f"--config.data.pipeline={pipeline}")
    splits = ("train=train[:80%]", "validation=train[80%:90%]", "test=train[90%:]")
    return [*RUN, *data, *(f"--config.data.{split}" for split in splits), "--config.model.image_size=16", *more]


def test_a_stop_in_mid_epoch_leaves_the_straight_run(pictures, command, tmp_path):
    crops = ("--config.augment.crop_scale=(0.2, 1.0)", "--config.data.crop_pct=0.875")
    args = args_of(pictures, "auto", *crops)
    code, printed = command(*args, f"--workdir={tmp_path / 'straight'}")
    assert code == 0 and "Train images: decoded; random crops are cut out of whole images" in printed
    with stopping_after({13}, signal.SIGTERM):  # of an epoch of 3 steps
        assert command(*args, f"--workdir={tmp_path / 'stopped'}")[0] == 143
    assert command(*args, f"--workdir={tmp_path / 'stopped'}")[0] == 0
    require_same(tmp_path / "stopped", tmp_path / "straight")
