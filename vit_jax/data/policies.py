"""RandAugment and TrivialAugment: random operations for each image, in the compiled step. B batch, H/W pixels.

An operation is a branch of `jax.lax.switch` over its number; an image's magnitude is drawn beside it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vit_jax.config import AugmentConfig
from vit_jax.data import colour
from vit_jax.data.geometry import sample_bilinear

# (image, magnitude from 0 to 1, sign 1 or -1) -> image; float (H, W, 3), 0 to 255.
Operation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Sampling:
    """How images are moved: what stands where nothing came from, and between pixels."""

    fill: tuple[float, ...]  # (3,)
    bilinear: bool  # or the nearest pixel

    def sample(self, image: jax.Array, matrix: jax.Array, shift: jax.Array, about: tuple[float, float]) -> jax.Array:
        """Each pixel from `matrix` (2, 2) @ its place (row, column), counted from `about`, plus `shift` (2,)."""
        h, w, _ = image.shape
        origin = jnp.array(about)[:, None, None]
        places = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")) - origin  # (2, H, W)
        y, x = jnp.einsum("ij,jhw->ihw", matrix, places) + shift[:, None, None] + origin  # (H, W) each
        inside = (y > -0.5) & (y < h - 0.5) & (x > -0.5) & (x < w - 0.5)
        if self.bilinear:
            y, x = jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)
            moved = sample_bilinear(image[None], y[None], x[None])[0]
        else:
            y, x = (jnp.clip(jnp.round(v).astype(jnp.int32), 0, n - 1) for v, n in ((y, h), (x, w)))
            moved = image[y, x]
        return jnp.where(inside[..., None], moved, jnp.array(self.fill))

    def rotate(self, degrees: float) -> Operation:
        """About the centre."""

        def operation(image: jax.Array, magnitude: jax.Array, sign: jax.Array) -> jax.Array:
            angle = sign * magnitude * degrees * jnp.pi / 180
            cos, sin = jnp.cos(angle), jnp.sin(angle)
            h, w, _ = image.shape
            return self.sample(image, jnp.array([[cos, sin], [-sin, cos]]), jnp.zeros(2), ((h - 1) / 2, (w - 1) / 2))

        return operation

    def shear(self, most: float, axis: int) -> Operation:
        """Along an axis, about the upper left corner as Pillow does."""

        def operation(image: jax.Array, magnitude: jax.Array, sign: jax.Array) -> jax.Array:
            matrix = jnp.eye(2).at[axis, 1 - axis].set(sign * magnitude * most)
            return self.sample(image, matrix, jnp.zeros(2), (-0.5, -0.5))

        return operation

    def translate(self, axis: int, pixels: float = 0.0, share: float = 0.0) -> Operation:
        """By up to so many whole pixels, or such a share of the side."""

        def operation(image: jax.Array, magnitude: jax.Array, sign: jax.Array) -> jax.Array:
            distance = jnp.trunc(magnitude * pixels) + magnitude * share * image.shape[axis]
            return self.sample(image, jnp.eye(2), jnp.zeros(2).at[axis].set(sign * distance), (0.0, 0.0))

        return operation


def _enhance(function: Callable[[jax.Array, jax.Array], jax.Array], most: float) -> Operation:
    return lambda image, magnitude, sign: function(image, 1 + sign * magnitude * most)


def _plain(function: Callable[[jax.Array], jax.Array]) -> Operation:
    return lambda image, magnitude, sign: function(image)


def trivial_operations() -> tuple[Operation, ...]:
    """TrivialAugmentWide's (Müller and Hutter 2021, table 7), with torchvision's ranges, black and nearest pixels."""
    moved = Sampling((0.0, 0.0, 0.0), bilinear=False)
    return (
        _plain(lambda image: image),
        moved.shear(0.99, 1),
        moved.shear(0.99, 0),
        moved.translate(1, pixels=32),
        moved.translate(0, pixels=32),
        moved.rotate(135),
        _enhance(colour.brightness, 0.99),
        _enhance(colour.colour, 0.99),
        _enhance(colour.contrast, 0.99),
        _enhance(colour.sharpness, 0.99),
        lambda image, magnitude, _: colour.posterize(image, 8 - jnp.round(6 * magnitude)),
        lambda image, magnitude, _: colour.solarize(image, 255 * (1 - magnitude)),
        _plain(colour.autocontrast),
        _plain(colour.equalize),
    )


def random_operations(fill: tuple[float, ...]) -> tuple[Operation, ...]:
    """RandAugment's (Cubuk et al. 2020), magnitudes growing in effect, as timm's "rand-...-inc1"; bilinear always.

    `fill` (3,), 0 to 255, stands where an image was moved away from: timm takes the data's mean.
    """
    moved = Sampling(fill, bilinear=True)
    return (
        _plain(colour.autocontrast),
        _plain(colour.equalize),
        _plain(colour.invert),
        moved.rotate(30),
        lambda image, magnitude, _: colour.posterize(image, 4 - jnp.floor(4 * magnitude)),
        lambda image, magnitude, _: colour.solarize(image, 256 - jnp.floor(256 * magnitude)),
        lambda image, magnitude, _: colour.solarize_add(image, jnp.floor(110 * magnitude)),
        _enhance(colour.colour, 0.9),
        _enhance(colour.contrast, 0.9),
        _enhance(colour.brightness, 0.9),
        _enhance(colour.sharpness, 0.9),
        moved.shear(0.3, 1),
        moved.shear(0.3, 0),
        moved.translate(1, share=0.45),
        moved.translate(0, share=0.45),
    )


def apply_policy(key: jax.Array, images: jax.Array, cfg: AugmentConfig, strength: jax.Array | float = 1.0) -> jax.Array:
    """uint8 (B, H, W, 3) -> float32 (B, H, W, 3), 0 to 255: `cfg.policy` of each image.

    trivialaugment: one operation, its magnitude one of 31 evenly spaced. randaugment: `policy_operations` in turn, each
    with `policy_probability`, magnitudes normal about `policy_magnitude`. `strength` multiplies magnitudes and
    probabilities.
    """
    x = images.astype(jnp.float32)
    if cfg.policy == "trivialaugment":
        draw = functools.partial(jax.random.randint, minval=0, maxval=31)
        return _one_of(trivial_operations(), key, x, lambda key: draw(key, ()) / 30 * strength, strength)

    def magnitude(key: jax.Array) -> jax.Array:
        return jnp.clip(cfg.policy_magnitude + cfg.policy_std * jax.random.normal(key), 0, 10) / 10 * strength

    operations = random_operations(tuple(255 * mean for mean in cfg.mean))
    for operation_key in jax.random.split(key, cfg.policy_operations):
        x = _one_of(operations, operation_key, x, magnitude, cfg.policy_probability * strength)
    return x


def _one_of(
    operations: tuple[Operation, ...],
    key: jax.Array,
    images: jax.Array,
    magnitude: Callable[[jax.Array], jax.Array],
    probability: jax.Array | float,
) -> jax.Array:
    """Each image (B, H, W, 3) by an operation of its own with this probability; values rounded, as Pillow's are."""

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        which, how_much, side, chance = jax.random.split(key, 4)
        sign = jax.random.rademacher(side, (), jnp.float32)
        index = jax.random.randint(which, (), 0, len(operations))
        changed = jax.lax.switch(index, operations, image, magnitude(how_much), sign)
        return jnp.where(jax.random.bernoulli(chance, probability), jnp.round(changed), image)

    return jax.vmap(one)(jax.random.split(key, len(images)), images)
