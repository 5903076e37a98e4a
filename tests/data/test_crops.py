"""Crops are torchvision's and timm's: the middle of an image, and a random part of it."""

import math
import random

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vit_jax.data.crops import central, random_resized
from vit_jax.data.images import pixels
from vit_jax.data.view import View


def two_steps(image, view):
    """timm's evaluation, literally: resize (torchvision's for squares, timm's ResizeKeepRatio else), then cut."""
    (h, w), (height, width) = view.size, image.size[::-1]
    target = math.floor(h / view.crop_pct), math.floor(w / view.crop_pct)
    if h == w:
        short, long = sorted((height, width))
        long = int(target[0] * long / short)
        scaled = (target[0], long) if height <= width else (long, target[0])
    else:
        ratio = min(height / target[0], width / target[1])
        scaled = round(height / ratio), round(width / ratio)
    image = image.resize(scaled[::-1], Image.Resampling[view.interpolation.upper()])
    top, left = round((scaled[0] - h) / 2), round((scaled[1] - w) / 2)
    return np.asarray(image.crop((left, top, left + w, top + h)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "crop_pct"),
    [((32, 32), 1.0), ((32, 32), 0.875), ((33, 33), 0.95), ((90, 90), 0.9), ((24, 40), 1.0), ((41, 24), 0.875)],
)
def test_the_middle_is_what_resizing_and_then_cutting_gives(size, crop_pct, interpolation):
    rng = np.random.RandomState(0)
    view = View(size, 3, crop_pct, interpolation)
    sizes = np.array([(37, 53), (64, 64), (101, 47), (256, 256), (33, 200), (20, 21), (5, 90), (1, 7)])
    for (h, w), window, box in zip(sizes, *central(sizes, view), strict=True):
        image = Image.fromarray(rng.randint(256, size=(h, w, 3)).astype(np.uint8))
        found = pixels(image, window, box, size, interpolation).astype(int)
        far = np.abs(found - two_steps(image, view))
        assert far.max() <= (2 if interpolation == "bilinear" else 0) and (far > 1).mean() < 1e-3


def test_a_strip_is_not_resized_as_a_whole(monkeypatch):
    """Of 4 x 40,000 pixels that would be 224 x 2,240,000."""
    image, view = Image.new("RGB", (40_000, 4), (9, 8, 7)), View((224, 224), 3, 1.0, "bicubic")
    (window,), (box,) = central(np.array([[4, 40_000]]), view)
    resize = Image.Image.resize

    def small(self, size, *rest):
        assert size == (224, 224)
        return resize(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", small)
    assert (pixels(image, window, box, view.size, "bicubic") == (9, 8, 7)).all()


def test_an_image_of_the_right_scale_is_cut_without_resizing():
    view = View((224, 224), 3, 0.875, "lanczos")
    array = np.random.RandomState(0).randint(256, size=(256, 300, 3)).astype(np.uint8)
    (window,), (box,) = central(np.array([[256, 300]]), view)
    assert box.tolist() == [16, 38, 240, 262]
    found = pixels(Image.fromarray(array), window, box, view.size, view.interpolation)
    np.testing.assert_array_equal(found, array[16:240, 38:262])


def torchvisions(rng, height, width, scale, ratio):
    """RandomResizedCrop.get_params of torchvision, in plain Python: top, left, height, width."""
    area, log_ratio = height * width, (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        target_area = area * rng.uniform(*scale)
        aspect_ratio = math.exp(rng.uniform(*log_ratio))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w, h = width, round(width / min(ratio))
    elif in_ratio > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(64, 64), (40, 120), (300, 200), (20, 400)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0)])
def test_random_parts_are_distributed_as_torchvisions(size, scale):
    rng, count = random.Random(0), 4_000
    expected = np.array([torchvisions(rng, *size, scale, (3 / 4, 4 / 3)) for _ in range(count)], float)
    window, box = random_resized(7, 3, np.tile(size, (count, 1)), scale, (3 / 4, 4 / 3))
    np.testing.assert_array_equal(box, np.concatenate([np.zeros((count, 2)), window[:, 2:]], 1))
    for measure in (
        lambda w: w[:, 2] * w[:, 3],
        lambda w: w[:, 3] / w[:, 2],
        lambda w: w[:, 0] + w[:, 2] / 2,
        lambda w: w[:, 1],
        lambda w: w[:, 0] * w[:, 1] + w[:, 2],
    ):
        assert stats.ks_2samp(measure(window), measure(expected)).pvalue > 0.01


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0), (0.2, 0.3)])
def test_random_parts_lie_in_the_image_however_thin_it_is(ratio):
    sizes = np.array([(1, 1), (1, 5_000), (5_000, 1), (2, 3), (7_000, 7_000), (3, 400)] * 50)
    for step in range(3):
        window = random_resized(0, step, sizes, (0.01, 1.0), ratio).window
        assert (window[:, :2] >= 0).all() and (window[:, 2:] >= 1).all()
        assert (window[:, :2] + window[:, 2:] <= sizes).all()


def test_the_largest_part_is_taken_where_none_of_the_tries_fits():
    sizes = np.array([(10, 1_000), (1_000, 10), (30, 40)])
    window = random_resized(0, 0, sizes, (1.0, 1.0), (3 / 4, 4 / 3)).window
    assert window[:2].tolist() == [[0, 493, 10, 13], [493, 0, 13, 10]]


def test_random_parts_depend_on_seed_step_and_place_alone():
    sizes = np.tile([64, 48], (8, 1))

    def windows(seed, step, count=8):
        return random_resized(seed, step, sizes[:count], (0.08, 1.0), (3 / 4, 4 / 3)).window.tolist()

    assert windows(1, 10**9) == windows(1, 10**9)
    assert windows(1, 5)[:3] == windows(1, 5, 3)
    assert len({str(windows(seed, step)) for seed in range(3) for step in range(3)}) == 9
    assert len({str(window) for window in windows(1, 5)}) == 8
    # Whatever the platform: a run that moves to another machine goes on with the same crops.
    assert windows(1, 5, 2) == [[5, 1, 55, 47], [7, 0, 53, 44]]
