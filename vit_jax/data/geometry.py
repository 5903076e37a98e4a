"""Images moved: crops, flips, rotations, and sampling between pixels. B batch, H/W pixels."""

import jax
import jax.numpy as jnp


def crop_and_flip(
    key: jax.Array, images: jax.Array, padding: int, flip: bool, mirrored: jax.Array | None = None
) -> jax.Array:
    """Shifts each image by up to `padding` pixels, borders reflected, and mirrors half of them; any dtype.

    The same as padding, cropping and flipping in turn, in one gather. `mirrored` (B,) bool says which, instead of
    chance.
    """
    b, h, w, _ = images.shape
    shift_key, flip_key = jax.random.split(key)
    shifts = jax.random.randint(shift_key, (b, 2), -padding, padding + 1)
    rows = jnp.arange(h)[None, :] + shifts[:, :1]  # (B, H)
    cols = jnp.arange(w)[None, :]
    if flip:
        which = jax.random.bernoulli(flip_key, 0.5, (b, 1)) if mirrored is None else mirrored[:, None]
        cols = jnp.where(which, w - 1 - cols, cols)
    cols = cols + shifts[:, 1:]  # (B, W)

    def reflect(i: jax.Array, n: int) -> jax.Array:  # edge pixel not repeated, as numpy.pad's "reflect"
        return (n - 1) - jnp.abs((n - 1) - jnp.abs(i))

    batch = jnp.arange(b)[:, None, None]
    return images[batch, reflect(rows, h)[:, :, None], reflect(cols, w)[:, None, :]]  # (B, H, W, 3)


def rotate_and_zoom(key: jax.Array, x: jax.Array, rotate: float | jax.Array, zoom: float | jax.Array) -> jax.Array:
    """Rotates by up to `rotate` of a full turn and rescales height and width, each by up to `zoom`.

    float (B, H, W, C) -> the same. Like Keras' RandomRotation(rotate) followed by RandomZoom(zoom, zoom) with their
    defaults (uniform draws, bilinear, about the centre, borders mirrored with the edge pixel repeated), but sampled
    once instead of twice.
    """
    b, h, w, _ = x.shape
    angle_key, zoom_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, (b, 1, 1), minval=-rotate, maxval=rotate) * 2 * jnp.pi
    scale = 1 + jax.random.uniform(zoom_key, (2, b, 1, 1), minval=-zoom, maxval=zoom)
    # From each output pixel back to where it comes from: undo the zoom, then the rotation.
    dy = scale[0] * (jnp.arange(h)[:, None] - (h - 1) / 2)  # (B, H, 1)
    dx = scale[1] * (jnp.arange(w)[None, :] - (w - 1) / 2)  # (B, 1, W)
    ys = jnp.cos(angle) * dy + jnp.sin(angle) * dx + (h - 1) / 2  # (B, H, W)
    xs = jnp.cos(angle) * dx - jnp.sin(angle) * dy + (w - 1) / 2
    return sample_bilinear(x, ys, xs)


def sample_bilinear(x: jax.Array, ys: jax.Array, xs: jax.Array) -> jax.Array:
    """x (B, H, W, C) at the real-valued places ys, xs (B, H', W'), mirrored beyond the borders."""
    b, h, w, c = x.shape
    flat = x.reshape(b, h * w, c)
    y0, x0 = jnp.floor(ys), jnp.floor(xs)

    def tap(yi: jax.Array, xi: jax.Array) -> jax.Array:
        def mirror(i: jax.Array, n: int) -> jax.Array:  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
            i = i.astype(jnp.int32) % (2 * n)
            return jnp.where(i < n, i, 2 * n - 1 - i)

        index = (mirror(yi, h) * w + mirror(xi, w)).reshape(b, -1, 1)  # (B, H'*W', 1)
        return jnp.take_along_axis(flat, index, axis=1).reshape(*ys.shape, c)  # (B, H', W', C)

    fy, fx = (ys - y0)[..., None], (xs - x0)[..., None]
    top = tap(y0, x0) * (1 - fx) + tap(y0, x0 + 1) * fx
    bottom = tap(y0 + 1, x0) * (1 - fx) + tap(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy
