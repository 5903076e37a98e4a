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
from vit_jax.data import colour, geometry, lookup, operations, policies
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


@functools.cache
def operated(bilinear, fill):
    """What the policies do, compiled, as elsewhere a product and a sum aren't one instruction."""

    @jax.jit
    def apply(images, change):
        width = images.shape[2]
        planes = geometry.to_planes(images)
        moved = geometry.moved(planes, change, width, fill, bilinear, halo=width + 1)
        mapped = colour.mapped(moved, colour.value_table(planes, change))
        return geometry.from_planes(colour.enhanced(mapped, change, width), width)

    return apply


def ours(pictures, bilinear=False, fill=(0.0, 0.0, 0.0), **fields):
    """Pictures (B, H, W, C) changed by these fields of Change, numbers or (B,) each; int."""
    change = jax.tree.map(lambda value: jnp.broadcast_to(jnp.float32(value), len(pictures)), Change(**fields))
    return np.asarray(operated(bilinear, fill)(jnp.asarray(pictures), change)).astype(int)


def pillows(function, pictures, *arguments):
    """function(image, one of each argument) of each picture."""
    images = map(Image.fromarray, pictures)
    return np.stack([np.asarray(function(*each)) for each in zip(images, *arguments, strict=True)]).astype(int)


# Random, smooth and of low contrast.
MANY = RANDOM.randint(256, size=(250, 32, 32, 3))
MANY[1::2] = np.kron(RANDOM.randint(256, size=(125, 8, 8, 3)), np.ones((1, 4, 4, 1)))
MANY[::5] = MANY[::5] // 3 + 40
MANY = MANY.astype(np.uint8)
# Hundredths, of which products are almost whole numbers, and any.
FACTORS = np.concatenate([np.arange(1, 200) / 100, RANDOM.uniform(0, 2, 51)]).astype(np.float32)


@pytest.mark.parametrize(
    ("enhancer", "field", "more"),
    [
        (ImageEnhance.Brightness, "gain", {}),
        (ImageEnhance.Contrast, "gain", {"about_mean": 1.0}),
        (ImageEnhance.Color, "factor", {}),
        (ImageEnhance.Sharpness, "factor", {"from_smooth": 1.0}),
    ],
)
def test_enhancements_are_pillows(enhancer, field, more):
    expected = pillows(lambda image, factor: enhancer(image).enhance(factor), MANY, FACTORS.tolist())
    off = np.abs(ours(MANY, **{field: FACTORS}, **more) - expected)
    if enhancer is ImageEnhance.Contrast:  # see colour.value_table
        assert off.max() <= 1 and off.mean() < 0.003
    else:
        assert off.max() == 0


def test_tables_are_pillows():
    pictures = np.concatenate([MANY, [PICTURE, FLAT, NOISE]])
    numbers = np.arange(len(pictures))

    def same(theirs, *arguments, **fields):
        np.testing.assert_array_equal(ours(pictures, **fields), pillows(theirs, pictures, *arguments))

    same(ImageOps.equalize, equalized=1.0)
    same(ImageOps.invert, threshold=0.0)
    same(ImageOps.posterize, (numbers % 8 + 1).tolist(), step=2.0 ** (7 - numbers % 8))
    same(ImageOps.solarize, (numbers + 3).tolist(), threshold=numbers + 3)
    off = ours(pictures, stretched=1.0) - pillows(ImageOps.autocontrast, pictures)
    assert off.min() >= 0 and off.max() <= 1 and off.mean() < 0.02  # a quotient that is whole may be below it there


def test_solarize_add_raises_the_dark_half_only():
    expected = np.where(PICTURE < 128, np.minimum(PICTURE + 60.0, 255), PICTURE)
    np.testing.assert_array_equal(ours(PICTURE[None], added=60.0)[0], expected)


def affine(matrix, bilinear):
    """Pillow's Image.transform by (6, B) numbers."""
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    rows = np.broadcast_arrays(np.zeros(len(MANY)), *matrix)[1:]
    return pillows(
        lambda image, *row: image.transform(image.size, Image.Transform.AFFINE, row, resample),
        MANY,
        *(row.astype(float).tolist() for row in rows),
    )


def assert_almost_the_same(found, expected):
    """Between pixels, where Pillow is float64: but for values that are almost whole."""
    off = found - expected
    assert np.abs(off).max() <= 1 and (off != 0).mean() < 0.001 and abs(off.mean()) < 0.001


# TrivialAugment's shears, to both sides, and any.
SHEARS = np.concatenate([np.arange(-30, 31) * 0.033, RANDOM.uniform(-1, 1, len(MANY) - 61)]).astype(np.float32)


@pytest.mark.parametrize("bilinear", [False, True], ids=["nearest", "bilinear"])
def test_shears_and_shifts_are_pillows(bilinear):
    shifts = np.trunc(32 * SHEARS) if not bilinear else (14 * SHEARS).astype(np.float32)
    for fields, matrix in (
        ({"xy": SHEARS}, (1, SHEARS, 0, 0, 1, 0)),
        ({"yx": SHEARS}, (1, 0, 0, SHEARS, 1, 0)),
        ({"dx": shifts}, (1, 0, shifts, 0, 1, 0)),
        ({"dy": shifts}, (1, 0, 0, 0, 1, shifts)),
    ):
        same = assert_almost_the_same if bilinear else np.testing.assert_array_equal
        same(ours(MANY, bilinear, **fields), affine(matrix, bilinear))


@pytest.mark.parametrize("bilinear", [False, True], ids=["nearest", "bilinear"])
def test_turns_are_pillows(bilinear):
    """By TrivialAugment's 31 angles, 45, 90 and 135 degrees among them, to both sides, and by any."""
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    angles = np.concatenate([np.arange(-30, 31) * 4.5, RANDOM.uniform(-180, 180, len(MANY) - 61)])
    fields = operations.rotate(180)(jnp.abs(jnp.float32(angles / 180)), jnp.sign(jnp.float32(angles)))
    expected = pillows(lambda image, angle: image.rotate(angle, resample), MANY, angles.tolist())
    found = ours(MANY, bilinear, **fields)
    if bilinear:
        assert_almost_the_same(found, expected)
    else:  # exact, but for angles whose sine in float32 is just beside a 65536th
        assert (found != expected).any(axis=-1).mean() < 5e-5
        np.testing.assert_array_equal(found[:61], expected[:61])


def test_what_was_moved_away_from_is_filled():
    found = ours(PICTURE[None], bilinear=True, fill=(7.0, 8.4, 8.6), dx=4.0)[0]
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
