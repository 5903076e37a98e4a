"""RandAugment and TrivialAugment: random operations for each image, in the compiled step.

B batch, C channels, N = H*W pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vit_jax.config import AugmentConfig
from vit_jax.data import operations
from vit_jax.data.colour import enhanced, mapped, value_table
from vit_jax.data.geometry import from_planes, moved, to_planes


class Drawn(NamedTuple):
    """An operation for each image, (B,) each."""

    number: jax.Array  # among the policy's; -1: none
    magnitude: jax.Array  # 0 to 1
    sign: jax.Array  # 1 or -1


def apply_policy(key: jax.Array, images: jax.Array, cfg: AugmentConfig, strength: jax.Array | float = 1.0) -> jax.Array:
    """uint8 (B, H, W, C) -> the same: `cfg.policy` of each image.

    trivialaugment: one operation, its magnitude one of 31 evenly spaced. randaugment: `policy_operations` in turn, each
    with `policy_probability`, magnitudes normal about `policy_magnitude`. `strength` multiplies magnitudes and
    probabilities.
    """
    _, height, width, _ = images.shape
    drawn = draw(key, images.shape, cfg, strength)

    def operation(planes: jax.Array, drawn: Drawn) -> tuple[jax.Array, None]:
        return operated(planes, drawn, cfg, height, width), None

    planes, _ = jax.lax.scan(operation, to_planes(images), drawn)
    return from_planes(planes, width)


def draw(key: jax.Array, shape: tuple[int, ...], cfg: AugmentConfig, strength: jax.Array | float) -> Drawn:
    """The operations of images of this shape, first to last: (operations, B) each."""
    trivial = cfg.policy == "trivialaugment"
    known, drawn = len(_operations(cfg, *shape[1:3])), (1 if trivial else cfg.policy_operations, shape[0])
    # One call for all: each compiles for a quarter of a second on a CPU.
    which, side, chance, how_much = jax.random.uniform(key, (4, *drawn))
    if trivial:
        magnitude = jnp.floor(31 * how_much) / 30
    else:
        # As jax.random.normal has it; 0 would give minus infinity.
        normal = jnp.sqrt(2) * jax.lax.erf_inv(jnp.maximum(2 * how_much - 1, jnp.nextafter(-1.0, 0.0)))
        magnitude = jnp.clip(cfg.policy_magnitude + cfg.policy_std * normal, 0, 10) / 10
    probability = (1.0 if trivial else cfg.policy_probability) * strength
    number = jnp.where(chance < probability, jnp.floor(known * which).astype(jnp.int32), -1)
    return Drawn(number, magnitude * strength, jnp.where(side < 0.5, -1.0, 1.0))


def operated(planes: jax.Array, drawn: Drawn, cfg: AugmentConfig, height: int, width: int) -> jax.Array:
    """uint8 (B, C, N) in and out: each image by the operation that was drawn for it.

    Moved images stand on black, by whole pixels, in trivialaugment, as torchvision's; in randaugment on the data's
    mean, as timm's, always bilinear.
    """
    trivial = cfg.policy == "trivialaugment"
    fill = (0.0,) * planes.shape[1] if trivial else tuple(255 * mean for mean in cfg.mean)
    change = operations.change(drawn.number, _operations(cfg, height, width), drawn.magnitude, drawn.sign)
    # The order is free, as an image is changed by one of these at most. On a CPU the look-up, which XLA fuses with what
    # comes before but not with the neighbours' sums after it, keeps each pixel from being moved nine times.
    table = value_table(planes, change)
    planes = mapped(moved(planes, change, width, fill, bilinear=not trivial, halo=width + 1), table)
    return enhanced(planes, change, width)


def _operations(cfg: AugmentConfig, height: int, width: int) -> tuple[operations.Operation, ...]:
    return operations.TRIVIAL if cfg.policy == "trivialaugment" else operations.random(height, width)
