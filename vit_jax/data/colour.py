"""Values of images changed, each image in its own way (`operations.Change`), equal to Pillow's.

Images are planes, uint8 (B, C, N): B batch, C channels, 3 or 1 (Pillow's modes "RGB" and "L"), N = H*W pixels.
"""

import jax
import jax.numpy as jnp

from vit_jax.data.lookup import histogram, lookup
from vit_jax.data.operations import Change

_LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in 65536ths, Pillow's "L"


def mapped(planes: jax.Array, table: jax.Array) -> jax.Array:
    """uint8 (B, C, N), and what each value of each channel becomes, uint8 (B, C, 256) -> uint8 (B, C, N)."""
    b, c, n = planes.shape
    return lookup(table.reshape(b * c, 1, 256), planes.reshape(b * c, n))[0].reshape(b, c, n)


def enhanced(padded: jax.Array, change: Change, width: int) -> jax.Array:
    """uint8 (B, C, N + 2 * width + 2), in which a row and a pixel precede and follow the image -> uint8 (B, C, N)."""
    planes = padded[..., width + 1 : -width - 1]
    smooth = (change.from_smooth > 0)[:, None, None]
    degenerate = jnp.where(smooth, smoothed(padded, width), grey(planes)[:, None, :])  # (B, C, N)
    return blended(degenerate, planes, change.factor[:, None, None]).astype(jnp.uint8)


def value_table(planes: jax.Array, change: Change) -> jax.Array:
    """What each value becomes where that depends on the image's values alone: uint8 (B, C, 256)."""
    b, c, n = planes.shape

    def each(field: jax.Array) -> jax.Array:  # (B, 1, 1)
        return field[:, None, None]

    x = jnp.arange(256.0)
    x = jnp.floor(x / each(change.step)) * each(change.step)
    x = jnp.where(x < each(change.threshold), x, 255 - x)
    x = jnp.where(x < 128, jnp.minimum(x + each(change.added), 255), x)  # as in AutoAugment's code
    mean = (2 * grey(planes).sum(axis=1) + n) // (2 * n) * change.about_mean  # (B,), to the nearest whole number
    # Not `blended`, with which RandAugment takes 3 % longer on a CPU (XLA of JAX 0.12). Where product and sum are one
    # instruction, contrasts by factors like 0.7 are 1 below Pillow's in a value of 1,000; from black the sum is exact.
    x = jnp.floor(jnp.clip(each(mean) + each(change.gain) * (x - each(mean)), 0, 255))
    counts = histogram(planes.reshape(b * c, n)).reshape(b, c, 256)
    below = jnp.cumsum(counts, axis=-1) - counts  # pixels of a lower value
    numerator, denominator = x, jnp.float32(1)
    for chosen, quotient in ((change.stretched, stretched(below, n)), (change.equalized, equalized(below, n))):
        use = (each(chosen) > 0) & (quotient[1] > 0)
        numerator, denominator = jnp.where(use, quotient[0], numerator), jnp.where(use, quotient[1], denominator)
    # Whole numbers both: a half more takes the quotient away from where it would be rounded down. On a CPU it is also
    # what XLA won't work out anew for each pixel that is looked up.
    return jnp.minimum((numerator + 0.5) / denominator, 255).astype(jnp.uint8)  # (B, C, 256)


def stretched(below: jax.Array, pixels: int) -> tuple[jax.Array, jax.Array]:
    """Numerators (..., 256) and denominators (..., 1) of values that take the whole range; 0 where there is one only.

    `below` (..., 256) of so many pixels are under each value. Pillow's float64 is now and then just below a quotient
    that is whole, and its value 1 less: of all ranges' values 0.4 %.
    """
    low = (below == 0).sum(axis=-1, keepdims=True) - 1  # the last under which there are none
    high = (below < pixels).sum(axis=-1, keepdims=True) - 1
    return jnp.maximum(jnp.arange(256) - low, 0) * 255, high - low


def equalized(below: jax.Array, pixels: int) -> tuple[jax.Array, jax.Array]:
    """As `stretched`, of a flat histogram, by Pillow's integer rule."""
    step = jnp.where(below < pixels, below, 0).max(axis=-1, keepdims=True) // 255
    return step // 2 + below, step


def blended(degenerate: jax.Array, x: jax.Array, factor: jax.Array) -> jax.Array:
    """float32: `degenerate` at factor 0, `x` at 1, and beyond; cast to uint8 it is Pillow's Image.blend to the level.

    For that, the product and the difference are rounded one after the other. What keeps the latter from being negative
    lies between them: a compiler would make bare ones a single instruction, which rounds once.
    """
    degenerate, x = degenerate.astype(jnp.float32), x.astype(jnp.float32)
    return jnp.minimum(degenerate - jnp.minimum(factor * (degenerate - x), degenerate), 255)


def grey(planes: jax.Array) -> jax.Array:
    """uint8 (B, C, N) -> int32 (B, N): of one channel itself."""
    if planes.shape[1] == 1:
        return planes[:, 0].astype(jnp.int32)
    red, green, blue = (planes[:, i].astype(jnp.int32) * weight for i, weight in enumerate(_LUMA))
    return (red + green + blue + 32768) >> 16


def smoothed(padded: jax.Array, width: int) -> jax.Array:
    """As `enhanced`'s -> each pixel averaged with its neighbours, it 5 times as heavy; the border stays. float32."""
    n = padded.shape[-1] - 2 * width - 2
    shifts = [row * width + column for row in range(3) for column in range(3)]
    shifted = [padded[..., shift : shift + n].astype(jnp.float32) for shift in shifts]  # (B, C, N) each
    row, column = jnp.arange(n) // width, jnp.arange(n) % width
    inside = (row > 0) & (row < n // width - 1) & (column > 0) & (column < width - 1)  # (N,)
    return jnp.where(inside, jnp.round((sum(shifted) + 4 * shifted[4]) / 13), shifted[4])
