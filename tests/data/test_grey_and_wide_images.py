"""Augmentation of images that are grey (Pillow's mode "L") or not square. B batch, H/W pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.config import AugmentConfig
from vit_jax.data import colour, geometry, mix, policies
from vit_jax.data.augment import augment, preprocess
from vit_jax.data.erase import cutout, random_erasing
from vit_jax.data.operations import Change

RANDOM = np.random.RandomState(0)
H, W = 20, 28
# Smooth, so that neighbours matter, and of low contrast.
PICTURE = np.clip(np.kron(RANDOM.randint(40, 200, (5, 7)), np.ones((4, 4))) + RANDOM.normal(0, 9, (H, W)), 0, 255)
PICTURE = PICTURE.astype(np.uint8)
GREY = np.stack([PICTURE, PICTURE[::-1], RANDOM.randint(256, size=(H, W)).astype(np.uint8)])[..., None]  # (3, H, W, 1)
COUNTS = {"trivialaugment": 14, "randaugment": 15}


moved = jax.jit(geometry.moved, static_argnums=(2, 3, 4, 5))


def ours(bilinear=False, fill=(0.0,), **fields):
    """PICTURE changed by these fields of Change."""
    change = jax.tree.map(lambda value: np.full(1, value, np.float32), Change(**fields))
    planes = geometry.to_planes(jnp.asarray(PICTURE)[None, ..., None])
    # Compiled as a whole, colours would be rounded otherwise than Pillow rounds them.
    mapped = colour.mapped(moved(planes, change, W, fill, bilinear, W + 1), colour.value_table(planes, change))
    return np.asarray(geometry.from_planes(colour.enhanced(mapped, change, W), W)[0, ..., 0]).astype(int)


def pillows(function):
    image = Image.fromarray(PICTURE)
    assert image.mode == "L"
    return np.asarray(function(image)).astype(int)


@pytest.mark.parametrize("factor", [0.01, 1.7])
def test_enhancements_of_grey_images_are_pillows(factor):
    for enhancer, field, more in (
        (ImageEnhance.Brightness, "gain", {}),
        (ImageEnhance.Contrast, "gain", {"about_mean": 1.0}),
        (ImageEnhance.Color, "factor", {}),  # leaves a grey image as it is
        (ImageEnhance.Sharpness, "factor", {"from_smooth": 1.0}),
    ):
        off = np.abs(ours(**{field: factor}, **more) - pillows(lambda image, e=enhancer: e(image).enhance(factor)))
        assert off.max() <= 1 and (off > 0).mean() < 0.005, enhancer
    np.testing.assert_array_equal(ours(factor=factor), PICTURE)


def test_tables_of_grey_images_are_pillows():
    np.testing.assert_array_equal(ours(equalized=1.0), pillows(ImageOps.equalize))
    np.testing.assert_allclose(ours(stretched=1.0), pillows(ImageOps.autocontrast), atol=1)
    np.testing.assert_array_equal(ours(threshold=0.0), pillows(ImageOps.invert))
    np.testing.assert_array_equal(ours(step=16.0), pillows(lambda image: ImageOps.posterize(image, 4)))
    np.testing.assert_array_equal(ours(threshold=100.0), pillows(lambda image: ImageOps.solarize(image, 100)))


@pytest.mark.parametrize("bilinear", [False, True])
def test_moves_of_grey_images_that_are_not_square_are_pillows(bilinear):
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    cos, sin = np.cos(0.4), np.sin(0.4)
    found = ours(bilinear, (7.0,), yy=cos, yx=sin, xy=-sin, xx=cos, centred=1.0)
    expected = pillows(lambda image: image.rotate(np.rad2deg(0.4), resample, fillcolor=7))
    np.testing.assert_allclose(found, expected, atol=1)
    for matrix, fields in (
        ((1, 0.3, 0, 0, 1, 0), {"xy": 0.3}),
        ((1, 0, 0, 0.3, 1, 0), {"yx": 0.3}),
        ((1, 0, 4.3, 0, 1, -2.6), {"dx": 4.3, "dy": -2.6}),
    ):
        expected = pillows(lambda image, m=matrix: image.transform(image.size, Image.Transform.AFFINE, m, resample))
        np.testing.assert_allclose(ours(bilinear, **fields), expected, atol=1)


@pytest.mark.parametrize("name", COUNTS)
def test_every_operation_makes_of_a_grey_image_what_it_makes_of_three_equal_channels(name):
    count = COUNTS[name]
    cfg = AugmentConfig(policy=name, mean=(0.4,))
    drawn = policies.Drawn(*(jnp.asarray(x) for x in (np.tile(np.arange(-1, count), 3), 0.523, -1.0)))
    drawn = drawn._replace(magnitude=jnp.full(drawn.number.shape, 0.523), sign=jnp.full(drawn.number.shape, -1.0))
    images = np.repeat(GREY, count + 1, axis=0)

    def operated(images, mean):
        there = dataclasses.replace(cfg, mean=mean)

        def changed(images):
            return geometry.from_planes(policies.operated(geometry.to_planes(images), drawn, there, H, W), W)

        return jax.jit(changed)(images)

    found, three = operated(images, (0.4,)), operated(np.repeat(images, 3, axis=-1), (0.4,) * 3)
    np.testing.assert_array_equal(np.repeat(found, 3, axis=-1), three)
    assert len({image.tobytes() for image in np.asarray(found)}) > 2 * count


@pytest.mark.slow
def test_a_whole_augmentation_treats_a_grey_image_as_three_equal_channels():
    """But for erasing, whose noise is drawn for each channel."""
    cfg = AugmentConfig(
        (0.4,), (0.2,), crop_padding=3, flip=True, policy="trivialaugment", rotate=0.1, zoom=0.1, cutout=5, mixup=0.8,
        cutmix=1.0,
    )  # fmt: skip
    three = dataclasses.replace(cfg, mean=cfg.mean * 3, std=cfg.std * 3)
    images, labels = np.repeat(GREY, 4, axis=0), jnp.arange(12, dtype=jnp.int32)
    key, parity = jax.random.key(1), jnp.zeros(12, bool)
    found, _ = jax.jit(lambda images: augment(key, images, labels, parity, cfg, (24, 40)))(images)
    colours, _ = jax.jit(lambda images: augment(key, images, labels, parity, three, (24, 40)))(
        np.repeat(images, 3, axis=-1)
    )
    assert found.shape == (12, 24, 40, 1)
    off = np.abs(np.repeat(found, 3, axis=-1) - colours)
    assert off.max() < 0.02 and (off > 1e-5).mean() < 0.02  # places to sample at are rounded in another order


def test_evaluation_sees_height_and_width():
    cfg = AugmentConfig((0.5,), (0.25,))
    wide = np.asarray(preprocess(GREY, cfg, (H, 2 * W)))
    assert wide.shape == (3, H, 2 * W, 1)
    # Along the width alone: each pixel's two halves lie about it, so that their mean is nearly the pixel's.
    plain = (GREY / 255 - 0.5) / 0.25
    inner = wide.reshape(3, H, W, 2).mean(axis=-1)[:, :, 1:-1, None]
    smoothed = (plain[:, :, :-2] + 6 * plain[:, :, 1:-1] + plain[:, :, 2:]) / 8
    np.testing.assert_allclose(inner, smoothed, atol=1e-4)


def test_crops_and_flips_of_a_rectangle_are_windows_of_the_padded_image():
    images = np.repeat(GREY, 20, axis=0)
    out = np.asarray(jax.jit(lambda images: geometry.crop_and_flip(jax.random.key(0), images, 2, True))(images))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    found = set()
    for i, image in enumerate(out):
        windows = {(y, x): padded[i, y : y + H, x : x + W] for y in range(5) for x in range(5)}
        found.add(next((y, x, f) for (y, x), w in windows.items() for f in (1, -1) if (w[:, ::f] == image).all()))
    assert {y for y, _, _ in found} == {x for _, x, _ in found} == set(range(5)) and {f for *_, f in found} == {1, -1}


def test_turning_keeps_lengths_where_height_and_width_differ():
    x = np.zeros((100, 21, 61, 1), np.float32)
    x[:, 10, 36] = 1.0  # 6 to the right of the centre
    out = np.asarray(jax.jit(lambda x: geometry.rotate_and_zoom(jax.random.key(0), x, 0.2, 0.0))(x))[..., 0]
    ys, xs = np.mgrid[:21, :61] - np.array([10.0, 30.0])[:, None, None]
    out = out * (np.hypot(ys, xs) < 9.5)  # beyond, mirrored copies may lie
    share = out / out.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(np.hypot((share * ys).sum((1, 2)), (share * xs).sum((1, 2))), 6, atol=0.15)


def test_holes_lie_everywhere_in_a_rectangle():
    x = np.ones((800, 16, 40, 1), np.float32)
    holes = np.asarray(jax.jit(lambda x: cutout(jax.random.key(0), x, 6))(x))[..., 0] == 0
    areas = holes.sum(axis=(1, 2))
    assert areas.max() == 36 and areas.min() >= 9
    np.testing.assert_allclose(holes.mean(axis=0)[3:-3, 3:-3], 36 / (16 * 40), atol=0.045)
    erased = (np.asarray(jax.jit(lambda x: random_erasing(jax.random.key(0), x, 1.0))(x)) != 1)[..., 0]
    shares = erased.mean(axis=(1, 2))
    assert 0.01 < shares.min() < 0.03 and 0.28 < shares.max() < 0.37
    places = erased.mean(axis=0)
    np.testing.assert_allclose(places, places[::-1, ::-1], atol=0.08)
    for image in erased:  # one rectangle each
        assert image.sum() == image.any(axis=1).sum() * image.any(axis=0).sum()


def test_cutmix_cuts_a_box_of_the_images_own_shape():
    # Sides half of the image's.
    inside, outside = jax.jit(lambda centre: mix.box(jnp.float32(0.75), centre, 16, 40))(np.array([8, 30]))
    expected = np.zeros((16, 40), bool)
    expected[4:12, 20:40] = True
    np.testing.assert_array_equal(inside, expected)
    assert float(outside) == 0.75
