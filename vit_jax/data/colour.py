"""Operations on the colours of an image: float (H, W, 3), 0 to 255, in and out, equal to Pillow's up to rounding.

Those that take a factor blend with what a factor of 0 gives, as Pillow's ImageEnhance; 1 changes nothing.
"""

import jax
import jax.numpy as jnp

_LUMA = (19595.0, 38470.0, 7471.0)  # ITU-R 601-2 in 65536ths, Pillow's "L"; sums stay exact in float32


def _blend(degenerate: jax.Array, image: jax.Array, factor: jax.Array | float) -> jax.Array:
    return jnp.clip(degenerate + factor * (image - degenerate), 0, 255)


def grey(image: jax.Array) -> jax.Array:
    """(H, W, 3) -> (H, W, 1)."""
    return jnp.floor(((image * jnp.asarray(_LUMA)).sum(axis=-1, keepdims=True) + 32768) / 65536)


def brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    return _blend(jnp.zeros_like(image), image, factor)


def contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    return _blend(jnp.floor(grey(image).mean() + 0.5), image, factor)


def colour(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    return _blend(grey(image), image, factor)


def sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    h, w, _ = image.shape
    shifted = [image[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)]  # (H-2, W-2, 3) each
    smooth = (sum(shifted) + 4 * shifted[4]) / 13
    return _blend(image.at[1:-1, 1:-1].set(jnp.round(smooth)), image, factor)  # the border has no neighbours


def posterize(image: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keeps the highest `bits` of each value."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(image / step) * step


def solarize(image: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Inverts what is not below the threshold."""
    return jnp.where(image < threshold, image, 255 - image)


def solarize_add(image: jax.Array, amount: jax.Array | float) -> jax.Array:
    """Adds to what is below 128, as in AutoAugment's code."""
    return jnp.where(image < 128, jnp.clip(image + amount, 0, 255), image)


def invert(image: jax.Array) -> jax.Array:
    return 255 - image


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to the whole range."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))  # (3,)
    scale = 255 / jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(jnp.floor((image - low) * scale + 1e-3), 0, 255), image)


def equalize(image: jax.Array) -> jax.Array:
    """Flattens each channel's histogram, by Pillow's integer rule."""

    def channel(x: jax.Array) -> jax.Array:  # (H, W)
        values = x.astype(jnp.int32)
        histogram = jnp.zeros(256, jnp.int32).at[values.ravel()].add(1)
        step = (values.size - histogram[values.max()]) // 255
        before = jnp.cumsum(histogram) - histogram
        table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[values].astype(x.dtype), x)

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)
