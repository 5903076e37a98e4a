"""RandAugment's and TrivialAugment's operations against Pillow's and one by one in NumPy, and the policies' draws."""

import functools
import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_policies as reference
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.config import AugmentConfig
from vit_jax.data import colour, geometry, lookup, policies
from vit_jax.data.erase import cutout, random_erasing
from vit_jax.data.operations import Change

RANDOM = np.random.RandomState(0)
# Smooth, so that neighbours matter, of low contrast in one channel.
PICTURE = np.clip(
    np.kron(RANDOM.randint(256, size=(8, 8, 3)), np.ones((4, 4, 1))) + RANDOM.normal(0, 9, (32, 32, 3)), 0, 255
).astype(np.uint8)
PICTURE[..., 1] = PICTURE[..., 1] // 4 + 60
FLAT = np.full((32, 32, 3), 77, np.uint8)
NOISE = RANDOM.randint(256, size=(32, 32, 3)).astype(np.uint8)
FILL = (120.0, 121.0, 122.0)


def ours(picture=PICTURE, bilinear=False, fill=(0.0, 0.0, 0.0), **fields):
    """A picture changed by these fields of Change."""
    change = jax.tree.map(lambda value: jnp.full(1, value, jnp.float32), Change(**fields))
    planes, width = geometry.to_planes(jnp.asarray(picture)[None]), picture.shape[1]
    moved = geometry.moved(planes, change, width, fill, bilinear, halo=width + 1)
    mapped = colour.mapped(moved, colour.value_table(planes, change))
    return np.asarray(geometry.from_planes(colour.enhanced(mapped, change, width), width)[0]).astype(int)


def pillows(function, picture=PICTURE):
    return np.asarray(function(Image.fromarray(picture))).astype(int)


@pytest.mark.parametrize("factor", [0.01, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("enhancer", "field", "more"),
    [
        (ImageEnhance.Brightness, "gain", {}),
        (ImageEnhance.Contrast, "gain", {"about_mean": 1.0}),
        (ImageEnhance.Color, "factor", {}),
        (ImageEnhance.Sharpness, "factor", {"from_smooth": 1.0}),
    ],
)
def test_enhancements_are_pillows(enhancer, field, more, factor):
    expected = pillows(lambda image: enhancer(image).enhance(factor))
    off = np.abs(ours(**{field: factor}, **more) - expected)
    # Float32 as there, but of another order: a blend that is almost whole may be cut off to either side.
    assert off.max() <= 1 and (off > 0).mean() < 0.005


@pytest.mark.parametrize("picture", [PICTURE, FLAT, NOISE], ids=["picture", "flat", "noise"])
def test_tables_are_pillows(picture):
    def same(theirs, atol=0, **fields):
        np.testing.assert_allclose(ours(picture, **fields), pillows(theirs, picture), atol=atol)

    same(ImageOps.equalize, equalized=1.0)
    same(ImageOps.autocontrast, atol=1, stretched=1.0)  # where a quotient is whole, Pillow's may be just below it
    same(ImageOps.invert, threshold=0.0)
    for bits in (2, 4, 8):
        same(lambda image, bits=bits: ImageOps.posterize(image, bits), step=2 ** (8 - bits))
    for threshold in (0, 100, 255):
        same(lambda image, threshold=threshold: ImageOps.solarize(image, threshold), threshold=threshold)


def test_solarize_add_raises_the_dark_half_only():
    expected = np.where(PICTURE < 128, np.minimum(PICTURE + 60.0, 255), PICTURE)
    np.testing.assert_array_equal(ours(added=60.0), expected)


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("factor", [0.3, -0.3, 0.99])
@pytest.mark.parametrize("axis", [0, 1])
def test_shearing_is_pillows(factor, axis, bilinear):
    matrix = (1, factor, 0, 0, 1, 0) if axis else (1, 0, 0, factor, 1, 0)
    found = ours(bilinear=bilinear, **{"xy" if axis else "yx": factor})
    np.testing.assert_allclose(found, _pillows_transform(matrix, bilinear), atol=1)


@pytest.mark.parametrize("bilinear", [False, True])
def test_turning_and_shifting_are_pillows(bilinear):
    cos, sin = np.cos(0.4), np.sin(0.4)
    found = ours(bilinear=bilinear, yy=cos, yx=sin, xy=-sin, xx=cos, centred=1.0)
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    expected = pillows(lambda image: image.rotate(np.rad2deg(0.4), resample))
    np.testing.assert_allclose(found, expected, atol=1)
    matrix = (1, 0, 4.3, 0, 1, -2.6)
    np.testing.assert_allclose(ours(bilinear=bilinear, dx=4.3, dy=-2.6), _pillows_transform(matrix, bilinear), atol=1)


def _pillows_transform(matrix, bilinear):
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    return pillows(lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, resample))


def test_what_was_moved_away_from_is_filled():
    found = ours(bilinear=True, fill=(7.0, 8.4, 8.6), dx=4.0)
    np.testing.assert_array_equal(found[:, :28], PICTURE[:, 4:])
    assert (found[:, 28:] == [7, 8, 9]).all()


def config(name, probability=0.5):
    return AugmentConfig(policy=name, mean=tuple(value / 255 for value in FILL), policy_probability=probability)


COUNTS = {"trivialaugment": 14, "randaugment": 15}


@pytest.mark.parametrize("shape", [(32, 32), pytest.param((20, 28), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COUNTS)
def test_each_operation_is_that_of_a_single_image(name, shape):
    """All in one batch, at several magnitudes and both signs, against NumPy."""
    h, w = shape
    pictures = [picture[:h, :w] for picture in (PICTURE, FLAT, NOISE)]
    # No magnitude at which blends are whole numbers, whose float32 may be just below.
    magnitudes = (0.0, 0.237, 0.523, 0.918)
    cases = list(itertools.product(range(3), range(COUNTS[name]), magnitudes, (-1, 1)))
    which, *drawn = (jnp.asarray(column) for column in zip(*cases, strict=True))
    planes = geometry.to_planes(jnp.asarray(np.stack(pictures))[which])
    apply = jax.jit(lambda planes, *drawn: policies.operated(planes, policies.Drawn(*drawn), config(name), h, w))
    found = np.asarray(geometry.from_planes(apply(planes, *drawn), w)).astype(int)
    off = defaultdict(list)
    for image, (p, k, m, s) in zip(found, cases, strict=True):
        off[k].append(np.abs(image - reference.NAMED[name](pictures[p].astype(float), k, m, s)))
    tables = {"trivialaugment": (0, 3, 4, 10, 11, 12, 13), "randaugment": (0, 1, 2, 4, 5, 6)}[name]
    for k, differences in off.items():
        assert np.max(differences) <= (0 if k in tables else 1), k
        assert np.mean(np.array(differences) > 0) < 0.001, k


@pytest.mark.parametrize("name", COUNTS)
def test_draws_are_distributed_as_the_policies_say(name):
    drawn = jax.jit(lambda key: policies.draw(key, (10_000, 32, 32, 3), config(name, 0.8), 0.5))(jax.random.key(0))
    number, magnitude, sign = (np.asarray(x) for x in drawn)
    assert number.shape == ((1 if name == "trivialaugment" else 2), 10_000)
    chances = np.bincount(number.ravel() + 1, minlength=COUNTS[name] + 1) / number.size
    probability = 0.5 if name == "trivialaugment" else 0.4
    np.testing.assert_allclose(chances, [1 - probability] + [probability / COUNTS[name]] * COUNTS[name], atol=0.02)
    assert (np.abs(sign) == 1).all() and abs(sign.mean()) < 0.04
    if name == "trivialaugment":
        values, counts = np.unique(np.round(magnitude / 0.5 * 30, 4), return_counts=True)
        np.testing.assert_array_equal(values, np.arange(31))
        np.testing.assert_allclose(counts / 10_000, 1 / 31, atol=0.008)
    else:
        magnitude = magnitude / 0.5 * 10
        assert abs(np.median(magnitude) - 9) < 0.03 and abs(np.std(magnitude[magnitude < 9] - 9) - 0.30) < 0.02
        assert abs((magnitude == 10).mean() - 0.0228) < 0.005  # two deviations away and more
    assert abs(np.corrcoef(number[0][number[0] >= 0], sign[0][number[0] >= 0])[0, 1]) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_a_policy_is_its_operations_one_after_the_other(name):
    images = np.stack([PICTURE, FLAT, NOISE] * 20)
    key = jax.random.key(3)
    drawn = policies.draw(key, images.shape, config(name), 1.0)
    expected = images.astype(float)
    for number, magnitude, sign in zip(*(np.asarray(x) for x in drawn), strict=True):
        for i in np.flatnonzero(number >= 0):
            expected[i] = reference.NAMED[name](expected[i], number[i], float(magnitude[i]), sign[i])
    found = np.asarray(jax.jit(lambda key: policies.apply_policy(key, images, config(name)))(key))
    off = np.abs(found - expected)
    assert (drawn.number >= 0).mean() > 0.3
    # One grey level of the first operation may become more in the second, and a pixel on an edge another pixel.
    assert (off > 0).mean() < 0.002 and (off > 1).mean() < 0.001


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
@pytest.mark.parametrize("offsets", [(0,), (0, 1, 5, 6)])
def test_both_forms_of_looking_up_give_the_same(offsets, dtype):
    planes = jnp.asarray(RANDOM.uniform(0, 256, size=(4, 3, 50)), dtype)
    index = jnp.asarray(RANDOM.randint(44, size=(4, 70)), jnp.int32)
    expected = [np.take_along_axis(np.asarray(planes), np.asarray(index)[:, None] + k, axis=2) for k in offsets]
    for form in (lookup.gathered, lookup.compared):
        form = jax.jit(form, static_argnames="offsets")
        np.testing.assert_array_equal(form(planes, index, offsets=offsets), expected)


def test_both_forms_of_counting_give_the_same():
    values = jnp.asarray(RANDOM.randint(256, size=(4, 3000)), jnp.uint8)
    expected = [np.bincount(row, minlength=256) for row in np.asarray(values)]
    for form in (lookup.scattered_counts, lookup.compared_counts):
        np.testing.assert_array_equal(jax.jit(form)(values), expected)


@functools.cache
def policy(name):
    """A policy on 200 pictures, compiled once for all keys, strengths and probabilities."""

    compiled = jax.jit(
        lambda key, images, strength, probability: policies.apply_policy(
            key, images, config(name, probability), strength
        )
    )
    images = jnp.asarray([PICTURE] * 200)
    return lambda key, strength, probability=0.5: compiled(jax.random.key(key), images, strength, probability)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_images_of_a_batch_are_changed_each_in_its_own_way(name):
    out = np.asarray(policy(name)(0, 1.0))
    assert out.dtype == np.uint8
    assert len({image.tobytes() for image in out}) > 60
    np.testing.assert_array_equal(policy(name)(0, 1.0), out)


@pytest.mark.slow
def test_randaugment_draws_as_often_as_it_is_told():
    share = {
        probability: float((policy("randaugment")(1, 1.0, probability) != PICTURE).any(axis=(1, 2, 3)).mean())
        for probability in (0.0, 0.5, 1.0)
    }
    assert share[0.0] == 0 and share[1.0] > 0.95
    assert 0.6 < share[0.5] < 0.85  # at least one of two: 3/4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_strength_grows_from_nothing(name):
    apply = policy(name)
    assert (apply(0, 0.0) == PICTURE).all()
    changes = [float(np.abs(np.asarray(apply(0, strength)) - PICTURE.astype(float)).mean()) for strength in (0.3, 1.0)]
    assert 0 < changes[0] < 0.6 * changes[1]


X = np.ones((500, 32, 32, 3), np.float32)


def test_cutout_sets_a_square_to_the_mean():
    holes = np.asarray(jax.jit(lambda key: cutout(key, X, 8))(jax.random.key(0)))[..., 0] == 0
    areas = holes.sum(axis=(1, 2))
    assert areas.max() == 64 and areas.min() >= 16 and (areas == 64).mean() > 0.4
    middle = holes[:, 8:24, 8:24].mean(axis=0)
    np.testing.assert_allclose(middle, 64 / 1024, atol=0.045)  # everywhere alike


def test_random_erasing_fills_some_images_with_noise():
    out = np.asarray(jax.jit(lambda key: random_erasing(key, X, 0.25))(jax.random.key(0)))
    erased = (out != 1).all(axis=-1)
    areas = erased.sum(axis=(1, 2))
    assert 0.17 < (areas > 0).mean() < 0.33
    shares = areas[areas > 0] / 1024
    assert 0.01 < shares.min() < 0.06 and 0.25 < shares.max() < 0.38
    noise = out[np.broadcast_to(erased[..., None], out.shape)]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    for image in erased[areas > 0]:  # one rectangle each
        assert image.sum() == image.any(axis=1).sum() * image.any(axis=0).sum()
