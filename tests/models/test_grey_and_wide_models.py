"""Models of images that are grey or not square: nothing in them takes height for width, or colours for granted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import ModelConfig, StemConfig
from vit_jax.errors import UserError
from vit_jax.models import posembs
from vit_jax.models.stems import grid_shape, whitening_kernel
from vit_jax.steps import state as states

WIDE = ModelConfig(
    num_classes=3, image_size=16, image_width=24, channels=1, patch_size=4, width=16, depth=1, heads=2, mlp_dim=16,
    posemb="none", attention="xla",
)  # fmt: skip
STEMS = {
    "patch": {},
    "conv": {"stem": StemConfig(kind="conv", widths=(8, 16), strides=(2, 2), bias=False), "patch_size": 1},
    "whitened": {"stem": StemConfig(kind="conv", widths=(8,), whiten=2, pools=(2,), bias=False), "patch_size": 1},
    "resnet": {"stem": StemConfig(kind="resnet", widths=(32,)), "patch_size": 1},
}


@pytest.mark.parametrize(
    "name", ["patch", *(pytest.param(name, marks=pytest.mark.slow) for name in STEMS if name != "patch")]
)
def test_a_token_stands_for_its_place_in_a_rectangle(name):
    """A light in the middle of a place tells its token from the others: rows of tokens are rows of the image."""
    module = models.create(dataclasses.replace(WIDE, **STEMS[name]))
    assert grid_shape(module.cfg) == (4, 6)
    places = np.array([(1, 4), (2, 1)])
    images = np.zeros((2, 16, 24, 1), np.float32)
    for image, (row, column) in zip(images, places, strict=True):
        image[4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3] = 1
    params = jax.jit(states.init_params, static_argnums=0)(module, 0)
    tokens = np.asarray(jax.jit(lambda p, x: module.apply({"params": p}, x)[1]["stem"])(params, images))  # (2, 24, D)
    change = np.abs(tokens - np.median(tokens, axis=1, keepdims=True)).sum(axis=-1).reshape(2, 4, 6)
    change = change / change.sum(axis=(1, 2), keepdims=True)
    middle = np.stack([(change * axis).sum(axis=(1, 2)) for axis in np.mgrid[:4, :6]], axis=-1)
    np.testing.assert_allclose(middle, places, atol=0.75)


def test_fixed_positions_of_a_rectangle_have_rows_and_columns():
    table = posembs.sincos2d((2, 3), 8).reshape(2, 3, 8)
    columns, rows = table[..., :4], table[..., 4:]
    assert (columns[0] == columns[1]).all() and (rows[:, :1] == rows).all()
    assert len(np.unique(columns[0], axis=0)) == 3 and len(np.unique(rows[:, 0], axis=0)) == 2
    angles = posembs.rope2d_angles((2, 3), 8, 1)
    assert angles.shape == (7, 4) and not angles[0].any()
    rows, columns = np.split(angles[1:].reshape(2, 3, 4), 2, axis=-1)
    assert (columns[0] == columns[1]).all() and (rows[:, :1] == rows).all()
    assert len(np.unique(columns[0], axis=0)) == 3 and len(np.unique(rows[:, 0], axis=0)) == 2


def test_whitening_of_grey_rectangles_makes_their_patches_white():
    images = np.random.RandomState(0).normal(size=(50, 6, 10, 1)).cumsum(axis=2).astype(np.float32)
    kernel = whitening_kernel(images, 2, epsilon=1e-9)
    assert kernel.shape == (4, 8)
    patches = images.reshape(50, 3, 2, 5, 2).swapaxes(2, 3).reshape(-1, 4) @ kernel[:, :4]
    np.testing.assert_allclose(patches.T @ patches / len(patches), np.eye(4), atol=1e-3)


def test_other_images_than_the_models_are_refused():
    module = models.create(WIDE)
    for shape in ((1, 16, 24, 3), (1, 24, 16, 1), (1, 16, 16, 1)):
        with pytest.raises(ValueError, match=r"images must be \(B, 16, 24, 1\)"):
            module.init(jax.random.key(0), jnp.zeros(shape))


def test_channels_are_three_or_one():
    with pytest.raises(UserError, match="config.model.channels is 3, or 1 for grey images; found 2"):
        models.create(dataclasses.replace(WIDE, channels=2))
