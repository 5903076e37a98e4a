"""Augmentation against NumPy, TensorFlow and Keras. B batch, H/W pixels."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.config import AugmentConfig
from vit_jax.data.augment import augment, preprocess
from vit_jax.data.geometry import crop_and_flip, rotate_and_zoom, sample_bilinear

IMAGES = np.random.RandomState(0).randint(256, size=(64, 12, 12, 3)).astype(np.uint8)
LABELS, PARITY = jnp.arange(64, dtype=jnp.int32), jnp.zeros(64, bool)
PLAIN = AugmentConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
KERAS = np.load(Path(__file__).parents[1] / "fixtures" / "keras_preproc_32to72.npz")


def test_preprocessing_is_keras():
    """Normalization, then Resizing from 32 to 72 pixels."""
    mean, std = KERAS["norm_mean"] / 255, np.sqrt(KERAS["norm_var"]) / 255
    cfg = AugmentConfig(mean=tuple(mean.ravel().tolist()), std=tuple(std.ravel().tolist()))
    found = jax.jit(lambda images: preprocess(images, cfg, (72, 72)))(KERAS["x32"])
    np.testing.assert_allclose(found, KERAS["normalized_then_resized"], atol=2e-5)


def test_normalising_makes_mean_0_and_deviation_1():
    x = IMAGES / 255
    cfg = AugmentConfig(mean=tuple(x.mean((0, 1, 2)).tolist()), std=tuple(x.std((0, 1, 2)).tolist()))
    y = np.asarray(preprocess(IMAGES, cfg, (12, 12)))
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-5)


def test_crop_and_flip_are_padding_cropping_and_mirroring():
    """Each output is one of the shifts and mirrorings that numpy.pad makes, and all kinds occur."""
    out = np.asarray(jax.jit(lambda key: crop_and_flip(key, IMAGES, 2, True))(jax.random.key(0)))
    assert out.dtype == np.uint8
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    found = []
    for i in range(len(IMAGES)):
        kinds = {
            (y, x, flip): window[:, ::-1] if flip else window
            for y in range(5)
            for x in range(5)
            for flip in (0, 1)
            for window in [padded[i, y : y + 12, x : x + 12]]
        }
        found.append(next(kind for kind, window in kinds.items() if (window == out[i]).all()))
    ys, xs, flips = zip(*found, strict=True)
    assert set(ys) == set(xs) == set(range(5)) and 20 < sum(flips) < 44


@pytest.mark.slow
def test_sampling_is_tensorflows_projective_transform():
    """The operation under Keras' RandomRotation and RandomZoom, borders reflected."""
    tf = pytest.importorskip("tensorflow")
    x = np.random.RandomState(1).rand(4, 9, 11, 3).astype(np.float32)
    rng = np.random.RandomState(2)
    matrices = np.tile([1.0, 0, 0, 0, 1.0, 0], (4, 1)) + rng.uniform(-0.4, 0.4, (4, 6)) * [1, 1, 9, 1, 1, 9]
    expected = tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=np.concatenate([matrices, np.zeros((4, 2))], axis=1).astype(np.float32),
        output_shape=[9, 11],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    rows, cols = np.mgrid[:9, :11]
    m = matrices.astype(np.float32)[:, :, None, None]
    ys, xs = m[:, 3] * cols + m[:, 4] * rows + m[:, 5], m[:, 0] * cols + m[:, 1] * rows + m[:, 2]
    np.testing.assert_allclose(jax.jit(sample_bilinear)(x, ys, xs), expected, atol=1e-4)


def test_rotation_turns_about_the_centre():
    x = np.zeros((200, 21, 21, 1), np.float32)
    x[:, 10, 16] = 1.0  # a point 6 to the right of the centre
    out = np.asarray(jax.jit(lambda key: rotate_and_zoom(key, x, 0.1, 0.0))(jax.random.key(0)))[..., 0]
    ys, xs = np.mgrid[:21, :21] - 10.0
    weights = out / out.sum((1, 2), keepdims=True)
    angles = np.arctan2((weights * ys).sum((1, 2)), (weights * xs).sum((1, 2))) / (2 * np.pi)
    assert np.abs(angles).max() < 0.105 and angles.max() > 0.08 and angles.min() < -0.08
    radius = np.hypot((weights * ys).sum((1, 2)), (weights * xs).sum((1, 2)))
    np.testing.assert_allclose(radius, 6, atol=0.1)


def test_zoom_scales_height_and_width_apart_within_its_range():
    x = np.zeros((200, 41, 41, 1), np.float32)
    x[:, 30, 30] = 1.0  # 10 below and right of the centre
    out = np.asarray(jax.jit(lambda key: rotate_and_zoom(key, x, 0.0, 0.2))(jax.random.key(1)))[..., 0]
    weights = out / out.sum((1, 2), keepdims=True)
    ys, xs = np.mgrid[:41, :41] - 20.0
    dy, dx = 10 / (weights * ys).sum((1, 2)), 10 / (weights * xs).sum((1, 2))  # the zoom drawn
    for drawn in (dy, dx):
        assert 0.76 < drawn.min() < 0.86 and 1.14 < drawn.max() < 1.24
    assert abs(np.corrcoef(dy, dx)[0, 1]) < 0.25


def test_a_key_gives_one_result_and_another_key_another():
    cfg = AugmentConfig(PLAIN.mean, PLAIN.std, crop_padding=2, flip=True, rotate=0.02, zoom=0.2)
    apply = jax.jit(lambda key: augment(key, IMAGES, LABELS, PARITY, cfg, (18, 18))[0])
    one, again, other = (np.asarray(apply(jax.random.key(k))) for k in (0, 0, 1))
    assert one.shape == (64, 18, 18, 3)
    assert (one == again).all() and (one != other).any()


def test_without_augmentation_training_sees_what_evaluation_sees():
    images, targets = augment(jax.random.key(0), IMAGES, LABELS, PARITY, PLAIN, (18, 18))
    np.testing.assert_array_equal(images, preprocess(IMAGES, PLAIN, (18, 18)))
    np.testing.assert_array_equal(targets.label, LABELS)


ALL = AugmentConfig(
    PLAIN.mean, PLAIN.std, crop_padding=2, flip=True, policy="randaugment", rotate=0.1, zoom=0.1, cutout=2, erase=0.5,
    mixup=0.8, cutmix=1.0,
)  # fmt: skip


@pytest.mark.slow
def test_devices_augment_their_images_by_themselves():
    """Nothing but mixing, which takes its partners from the whole batch, has devices exchange anything."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def compiled(cfg):
        apply = jax.jit(
            lambda key, *batch: augment(key, *batch, cfg, (12, 12))[0], in_shardings=(everywhere, *[split] * 3)
        )
        return apply.lower(jax.random.key(0), IMAGES, LABELS, PARITY).compile()

    exchanges = r"all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute"
    cfg = dataclasses.replace(ALL, mixup=0.0, cutmix=0.0)
    program = compiled(cfg)
    assert not re.search(exchanges, program.as_text())
    assert re.search(exchanges, compiled(dataclasses.replace(PLAIN, mixup=1.0)).as_text())
    placed = [jax.device_put(x, split) for x in (IMAGES, LABELS, PARITY)]
    found = program(jax.device_put(jax.random.key(0), everywhere), *placed)
    alone = jax.jit(lambda key, *batch: augment(key, *batch, cfg, (12, 12))[0])
    np.testing.assert_allclose(found, alone(jax.random.key(0), IMAGES, LABELS, PARITY), atol=1e-5)
