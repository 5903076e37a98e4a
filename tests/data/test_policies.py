"""RandAugment's and TrivialAugment's operations against Pillow's, and the draws of the policies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.config import AugmentConfig
from vit_jax.data import colour, policies
from vit_jax.data.erase import cutout, random_erasing

RANDOM = np.random.RandomState(0)
# Smooth, so that neighbours matter, of low contrast in one channel, and with a constant one.
PICTURE = np.clip(
    np.kron(RANDOM.randint(256, size=(8, 8, 3)), np.ones((4, 4, 1))) + RANDOM.normal(0, 9, (32, 32, 3)), 0, 255
).astype(np.uint8)
PICTURE[..., 1] = PICTURE[..., 1] // 4 + 60
FLAT = np.full((32, 32, 3), 77, np.uint8)


def ours(function, *args, picture=PICTURE):
    return np.round(np.asarray(jax.jit(function)(jnp.asarray(picture, jnp.float32), *args)))


def pillows(function, picture=PICTURE):
    return np.asarray(function(Image.fromarray(picture))).astype(float)


@pytest.mark.parametrize("factor", [0.01, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("function", "enhancer"),
    [
        (colour.brightness, ImageEnhance.Brightness),
        (colour.contrast, ImageEnhance.Contrast),
        (colour.colour, ImageEnhance.Color),
        (colour.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_are_pillows(function, enhancer, factor):
    expected = pillows(lambda image: enhancer(image).enhance(factor))
    np.testing.assert_allclose(ours(function, factor), expected, atol=1.01)  # Pillow cuts off, this rounds


@pytest.mark.parametrize("picture", [PICTURE, FLAT], ids=["picture", "flat"])
def test_tables_are_pillows(picture):
    def same(function, theirs, atol=0.0):
        np.testing.assert_allclose(ours(function, picture=picture), pillows(theirs, picture), atol=atol)

    same(colour.equalize, ImageOps.equalize)
    same(colour.autocontrast, ImageOps.autocontrast, atol=1.0)
    same(colour.invert, ImageOps.invert)
    for bits in (2, 4, 8):
        same(lambda x, bits=bits: colour.posterize(x, bits), lambda image, bits=bits: ImageOps.posterize(image, bits))
    for threshold in (0, 100, 255):
        same(
            lambda x, threshold=threshold: colour.solarize(x, threshold),
            lambda image, threshold=threshold: ImageOps.solarize(image, threshold),
        )


def test_solarize_add_raises_the_dark_half_only():
    out = ours(colour.solarize_add, 60)
    np.testing.assert_array_equal(out, np.where(PICTURE < 128, np.minimum(PICTURE + 60.0, 255), PICTURE))


def test_geometry_moves_pixels_where_it_says():
    picture = jnp.asarray(PICTURE, jnp.float32)
    one = jnp.float32(1.0)
    for bilinear in (False, True):
        sampling = policies.Sampling((7.0, 8.0, 9.0), bilinear)
        moved = sampling.translate(1, pixels=4)(picture, one, one)
        np.testing.assert_array_equal(moved[:, :28], picture[:, 4:])
        assert (moved[:, 28:] == jnp.array([7.0, 8.0, 9.0])).all()
        np.testing.assert_array_equal(sampling.translate(0, share=0.25)(picture, one, -one)[8:], picture[:24])
        np.testing.assert_allclose(sampling.rotate(90)(picture, one, one), jnp.rot90(picture, 1), atol=1e-2)


@pytest.mark.parametrize("factor", [0.3, -0.3, 0.99])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bilinear", [False, True])
def test_shearing_is_pillows(factor, axis, bilinear):
    matrix = (1, factor, 0, 0, 1, 0) if axis else (1, 0, 0, factor, 1, 0)
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    expected = pillows(lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, resample))
    operation = policies.Sampling((0.0, 0.0, 0.0), bilinear).shear(abs(factor), axis)
    found = ours(lambda x: operation(x, jnp.float32(1.0), jnp.sign(jnp.float32(factor))))
    assert (abs(found - expected) <= 1).mean() > 0.98  # but for pixels that fall on an edge


TRIVIAL, RANDOM_OPERATIONS = policies.trivial_operations(), policies.random_operations((120.0, 121.0, 122.0))


@pytest.mark.slow
@pytest.mark.parametrize("operations", [TRIVIAL, RANDOM_OPERATIONS], ids=["trivial", "random"])
def test_every_operation_does_something(operations):
    picture = jnp.asarray(PICTURE, jnp.float32)
    still = [
        i
        for i, operation in enumerate(operations)
        if (jnp.round(operation(picture, jnp.float32(0.9), jnp.float32(1.0))) == picture).all()
    ]
    assert still == ([0] if operations is TRIVIAL else [])


@functools.cache
def policy(name):
    """A policy on 200 pictures, compiled once for all keys, strengths and probabilities."""

    def apply(key, strength, probability):
        cfg = AugmentConfig(policy=name, mean=(0.5, 0.5, 0.5), policy_probability=probability)
        return policies.apply_policy(key, jnp.asarray([PICTURE] * 200), cfg, strength)

    compiled = jax.jit(apply)
    return lambda key, strength, probability=0.5: compiled(jax.random.key(key), strength, probability)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_images_of_a_batch_are_changed_each_in_its_own_way(name):
    out = np.asarray(policy(name)(0, 1.0))
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 255 and (out == np.round(out)).all()
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
    changes = [float(jnp.abs(apply(0, strength) - PICTURE).mean()) for strength in (0.3, 1.0)]
    assert 0 < changes[0] < 0.6 * changes[1]


X = jnp.ones((500, 32, 32, 3))


def test_cutout_sets_a_square_to_the_mean():
    holes = np.asarray(cutout(jax.random.key(0), X, 8))[..., 0] == 0
    areas = holes.sum(axis=(1, 2))
    assert areas.max() == 64 and areas.min() >= 16 and (areas == 64).mean() > 0.4
    middle = holes[:, 8:24, 8:24].mean(axis=0)
    np.testing.assert_allclose(middle, 64 / 1024, atol=0.045)  # everywhere alike


def test_random_erasing_fills_some_images_with_noise():
    out = np.asarray(random_erasing(jax.random.key(0), X, 0.25))
    erased = (out != 1).all(axis=-1)
    areas = erased.sum(axis=(1, 2))
    assert 0.17 < (areas > 0).mean() < 0.33
    shares = areas[areas > 0] / 1024
    assert 0.01 < shares.min() < 0.06 and 0.25 < shares.max() < 0.38
    noise = out[np.broadcast_to(erased[..., None], out.shape)]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    for image in erased[areas > 0]:  # one rectangle each
        assert image.sum() == image.any(axis=1).sum() * image.any(axis=0).sum()
