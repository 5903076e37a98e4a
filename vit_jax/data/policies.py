"""RandAugment and TrivialAugment: random operations for each image, in the compiled step. B batch, H/W pixels."""

import jax
import jax.numpy as jnp

from vit_jax.config import AugmentConfig
from vit_jax.data import operations
from vit_jax.data.colour import enhanced, mapped, value_table
from vit_jax.data.geometry import from_planes, moved, to_planes


def apply_policy(key: jax.Array, images: jax.Array, cfg: AugmentConfig, strength: jax.Array | float = 1.0) -> jax.Array:
    """uint8 (B, H, W, 3) -> the same: `cfg.policy` of each image.

    trivialaugment: one operation, its magnitude one of 31 evenly spaced; moved images stand on black, by whole pixels.
    randaugment: `policy_operations` in turn, each with `policy_probability`, magnitudes normal about
    `policy_magnitude`; moved images stand on the data's mean, as timm's, between pixels bilinear. `strength`
    multiplies magnitudes and probabilities.
    """
    b, h, w, _ = images.shape
    trivial = cfg.policy == "trivialaugment"
    known = operations.TRIVIAL if trivial else operations.random(h, w)
    fill = (0.0, 0.0, 0.0) if trivial else tuple(255 * mean for mean in cfg.mean)
    keys = key[None] if trivial else jax.random.split(key, cfg.policy_operations)
    probability = 1.0 if trivial else cfg.policy_probability

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        which, how_much, side, chance = jax.random.split(key, 4)
        if trivial:
            magnitude = jax.random.randint(how_much, (), 0, 31) / 30
        else:
            drawn = cfg.policy_magnitude + cfg.policy_std * jax.random.normal(how_much)
            magnitude = jnp.clip(drawn, 0, 10) / 10
        number = jax.random.randint(which, (), 0, len(known))
        number = jnp.where(jax.random.bernoulli(chance, probability * strength), number, -1)
        return number, magnitude * strength, jax.random.rademacher(side, (), jnp.float32)

    image_keys = jax.vmap(lambda key: jax.random.split(key, b))(keys)  # (operations, B)
    drawn = jax.vmap(jax.vmap(draw))(image_keys)

    def operation(planes: jax.Array, drawn: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        number, magnitude, sign = drawn
        change = operations.change(number, known, magnitude, sign)
        table = value_table(planes, change)
        planes = mapped(moved(planes, change, w, fill, not trivial, halo=w + 1), table)
        return enhanced(planes, change, w), None

    planes, _ = jax.lax.scan(operation, to_planes(images), drawn)
    return from_planes(planes, w)
