"""RandAugment's and TrivialAugment's operations against Pillow's, and the draws of the policies."""

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
    moved = policies._translate(4, 0, 1)(picture, one, one)
    np.testing.assert_array_equal(moved[:, :28], picture[:, 4:])
    assert (moved[:, 28:] == policies._FILL).all()
    np.testing.assert_array_equal(policies._translate(0, 0.25, 0)(picture, one, -one)[8:], picture[:24])
    np.testing.assert_array_equal(policies._rotate(90)(picture, one, one), jnp.rot90(picture, 1))
    sheared = policies._shear(1.0, 1)(picture, jnp.float32(0.5), one)
    np.testing.assert_array_equal(sheared[16, :24], picture[16, :24])  # near the centre, next to nothing
    assert (sheared[0, 16:24] == picture[0, 8:16]).all()  # 15.5 rows above it, 7.75 pixels


@pytest.mark.parametrize("operations", [policies.TRIVIAL, policies.RANDOM], ids=["trivial", "random"])
def test_every_operation_does_something(operations):
    picture = jnp.asarray(PICTURE, jnp.float32)
    still = [
        i
        for i, operation in enumerate(operations)
        if (jnp.round(operation(picture, jnp.float32(0.9), jnp.float32(1.0))) == picture).all()
    ]
    assert still == ([0] if operations is policies.TRIVIAL else [])


def policy(name, **options):
    cfg = AugmentConfig(policy=name, **options)
    return jax.jit(lambda key, strength: policies.apply_policy(key, jnp.asarray([PICTURE] * 200), cfg, strength))


@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_images_of_a_batch_are_changed_each_in_its_own_way(name):
    out = np.asarray(policy(name)(jax.random.key(0), 1.0))
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 255 and (out == np.round(out)).all()
    assert len({image.tobytes() for image in out}) > 60
    again = policy(name)(jax.random.key(0), 1.0)
    np.testing.assert_array_equal(again, out)


def test_randaugment_draws_as_often_as_it_is_told():
    share = {
        probability: float(
            (policy("randaugment", policy_probability=probability)(jax.random.key(1), 1.0) != PICTURE)
            .any(axis=(1, 2, 3))
            .mean()
        )
        for probability in (0.0, 0.5, 1.0)
    }
    assert share[0.0] == 0 and share[1.0] > 0.95
    assert 0.6 < share[0.5] < 0.85  # at least one of two: 3/4


def test_without_strength_trivialaugment_only_stretches_contrast():
    """What has a magnitude does nothing at 0; AutoContrast and Equalize have none."""
    out = np.asarray(policy("trivialaugment")(jax.random.key(0), 0.0))
    kinds = {image.tobytes() for image in out}
    known = [PICTURE, pillows(ImageOps.equalize)]
    assert len(kinds) <= 4 and all(np.asarray(image, np.float32).tobytes() in kinds for image in known)


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
    areas = areas[areas > 0] / 1024
    assert 0.01 < areas.min() < 0.06 and 0.25 < areas.max() < 0.38
    noise = out[np.broadcast_to(erased[..., None], out.shape)]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    for image in erased[areas.argmax() : areas.argmax() + 1]:  # one rectangle
        rows, columns = image.any(axis=1), image.any(axis=0)
        assert image.sum() in (0, rows.sum() * columns.sum())
