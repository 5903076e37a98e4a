"""RandAugment and TrivialAugment: random operations for each image, in the compiled step. B batch, H/W pixels.

An operation is a branch of `jax.lax.switch` over its number; an image's magnitude is drawn beside it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.config import AugmentConfig
from vit_jax.data import colour

# (image, magnitude from 0 to 1, sign 1 or -1) -> image; float (H, W, 3), 0 to 255.
Operation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

_FILL = 128.0  # where an image is moved away from


def _affine(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Each pixel from `matrix` (2, 2) @ its place (row, column) about the centre + `shift` (2,), the nearest there."""
    h, w, _ = image.shape
    centre = jnp.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
    places = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")) - centre  # (2, H, W)
    y, x = jnp.round(jnp.einsum("ij,jhw->ihw", matrix, places) + shift[:, None, None] + centre).astype(jnp.int32)
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    return jnp.where(inside[..., None], image[jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)], _FILL)


def _rotate(degrees: float) -> Operation:
    def operation(image: jax.Array, magnitude: jax.Array, sign: jax.Array) -> jax.Array:
        angle = sign * magnitude * degrees * jnp.pi / 180
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return _affine(image, jnp.array([[cos, sin], [-sin, cos]]), jnp.zeros(2))

    return operation


def _shear(most: float, axis: int) -> Operation:
    def operation(image: jax.Array, magnitude: jax.Array, sign: jax.Array) -> jax.Array:
        return _affine(image, jnp.eye(2).at[axis, 1 - axis].set(sign * magnitude * most), jnp.zeros(2))

    return operation


def _translate(pixels: float, share: float, axis: int) -> Operation:
    """By up to `pixels` and `share` of the side, together."""

    def operation(image: jax.Array, magnitude: jax.Array, sign: jax.Array) -> jax.Array:
        most = pixels + share * image.shape[axis]
        return _affine(image, jnp.eye(2), jnp.zeros(2).at[axis].set(sign * magnitude * most))

    return operation


def _enhance(function: Callable[[jax.Array, jax.Array], jax.Array], most: float) -> Operation:
    return lambda image, magnitude, sign: function(image, 1 + sign * magnitude * most)


def _plain(function: Callable[[jax.Array], jax.Array]) -> Operation:
    return lambda image, magnitude, sign: function(image)


# TrivialAugmentWide (Müller and Hutter 2021, table 7), ranges as in torchvision.
TRIVIAL: tuple[Operation, ...] = (
    _plain(lambda image: image),
    _shear(0.99, 1),
    _shear(0.99, 0),
    _translate(32, 0, 1),
    _translate(32, 0, 0),
    _rotate(135),
    _enhance(colour.brightness, 0.99),
    _enhance(colour.colour, 0.99),
    _enhance(colour.contrast, 0.99),
    _enhance(colour.sharpness, 0.99),
    lambda image, magnitude, _: colour.posterize(image, 8 - jnp.round(6 * magnitude)),
    lambda image, magnitude, _: colour.solarize(image, 255 * (1 - magnitude)),
    _plain(colour.autocontrast),
    _plain(colour.equalize),
)

# RandAugment (Cubuk et al. 2020) with magnitudes that all grow in effect, as timm's "rand-...-inc1".
RANDOM: tuple[Operation, ...] = (
    _plain(colour.autocontrast),
    _plain(colour.equalize),
    _plain(colour.invert),
    _rotate(30),
    lambda image, magnitude, _: colour.posterize(image, 4 - jnp.floor(4 * magnitude)),
    lambda image, magnitude, _: colour.solarize(image, 256 - jnp.floor(256 * magnitude)),
    lambda image, magnitude, _: colour.solarize_add(image, jnp.floor(110 * magnitude)),
    _enhance(colour.colour, 0.9),
    _enhance(colour.contrast, 0.9),
    _enhance(colour.brightness, 0.9),
    _enhance(colour.sharpness, 0.9),
    _shear(0.3, 1),
    _shear(0.3, 0),
    _translate(0, 0.45, 1),
    _translate(0, 0.45, 0),
)


def apply_policy(key: jax.Array, images: jax.Array, cfg: AugmentConfig, strength: jax.Array | float = 1.0) -> jax.Array:
    """uint8 (B, H, W, 3) -> float32 (B, H, W, 3), 0 to 255: `cfg.policy` of each image, magnitudes times `strength`.

    trivialaugment: one operation, its magnitude one of 31 evenly spaced. randaugment: `policy_operations` in turn, each
    with `policy_probability`, magnitudes normal about `policy_magnitude`.
    """
    x = images.astype(jnp.float32)
    if cfg.policy == "trivialaugment":
        draw = functools.partial(jax.random.randint, minval=0, maxval=31)
        return _one_of(TRIVIAL, key, x, lambda key: draw(key, ()) / 30 * strength, 1.0)

    def magnitude(key: jax.Array) -> jax.Array:
        return jnp.clip(cfg.policy_magnitude + cfg.policy_std * jax.random.normal(key), 0, 10) / 10 * strength

    for operation_key in jax.random.split(key, cfg.policy_operations):
        x = _one_of(RANDOM, operation_key, x, magnitude, cfg.policy_probability)
    return x


def _one_of(
    operations: tuple[Operation, ...],
    key: jax.Array,
    images: jax.Array,
    magnitude: Callable[[jax.Array], jax.Array],
    probability: float,
) -> jax.Array:
    """Each image (B, H, W, 3) by an operation of its own with this probability; values rounded, as Pillow's are."""

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        which, how_much, side, chance = jax.random.split(key, 4)
        sign = jax.random.rademacher(side, (), jnp.float32)
        index = jax.random.randint(which, (), 0, len(operations))
        changed = jax.lax.switch(index, operations, image, magnitude(how_much), sign)
        return jnp.where(jax.random.bernoulli(chance, probability), jnp.round(changed), image)

    return jax.vmap(one)(jax.random.split(key, len(images)), images)
