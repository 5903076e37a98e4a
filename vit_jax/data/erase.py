"""Parts of images taken away. Images are normalised, so that 0 is the mean: float (B, H, W, C) in and out."""

import jax
import jax.numpy as jnp


def cutout(key: jax.Array, x: jax.Array, size: int) -> jax.Array:
    """Sets a square of `size` pixels about a random one to the mean, what lies outside cut off.

    DeVries and Taylor 2017.
    """
    b, h, w, _ = x.shape
    centres = jax.random.randint(key, (2, b), 0, jnp.array([[h], [w]]))
    inside = _within(centres[0] - size // 2, jnp.full(b, size), h)[:, :, None]  # (B, H, 1)
    inside &= _within(centres[1] - size // 2, jnp.full(b, size), w)[:, None, :]  # (B, H, W)
    return jnp.where(inside[..., None], 0, x)


def random_erasing(key: jax.Array, x: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Fills a rectangle of each image with normal noise, with this probability.

    Its area is 2 % to a third of the image's and its aspect ratio 0.3 to 1/0.3, as in Zhong et al. 2020 and timm; a
    side that would be too long is cut to the image's, where those draw again.
    """
    b, h, w, _ = x.shape
    area_key, aspect_key, place_key, chance_key, noise_key = jax.random.split(key, 5)
    area = h * w * jax.random.uniform(area_key, (b,), minval=0.02, maxval=1 / 3)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (b,), minval=jnp.log(0.3), maxval=-jnp.log(0.3)))
    height = jnp.minimum(jnp.round(jnp.sqrt(area * aspect)), h).astype(jnp.int32)  # (B,)
    width = jnp.minimum(jnp.round(jnp.sqrt(area / aspect)), w).astype(jnp.int32)
    place = jax.random.uniform(place_key, (2, b))
    top, left = ((u * (n - side + 1)).astype(jnp.int32) for u, n, side in ((place[0], h, height), (place[1], w, width)))
    inside = _within(top, height, h)[:, :, None] & _within(left, width, w)[:, None, :]  # (B, H, W)
    inside &= jax.random.bernoulli(chance_key, probability, (b, 1, 1))
    return jnp.where(inside[..., None], jax.random.normal(noise_key, x.shape, x.dtype), x)


def _within(first: jax.Array, count: jax.Array, size: int) -> jax.Array:
    """(B, size) bool: which of the numbers below `size` are among the `count` (B,) from `first` (B,) on."""
    place = jnp.arange(size)[None, :] - first[:, None]
    return (place >= 0) & (place < count[:, None])
