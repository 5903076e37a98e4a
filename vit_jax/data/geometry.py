"""Images moved: crops, flips, rotations, and sampling between pixels. B batch, H/W pixels."""

import jax
import jax.numpy as jnp

from vit_jax.data.lookup import lookup
from vit_jax.data.operations import Change


def crop_and_flip(
    key: jax.Array, images: jax.Array, padding: int, flip: bool, mirrored: jax.Array | None = None
) -> jax.Array:
    """Shifts each image by up to `padding` pixels, borders reflected, and mirrors half of them; uint8 (B, H, W, 3).

    The same as padding, cropping and flipping in turn, at once. `mirrored` (B,) bool says which, instead of
    chance.
    """
    b, h, w, c = images.shape
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

    index = (reflect(rows, h)[:, :, None] * w + reflect(cols, w)[:, None, :]).reshape(b, h * w)
    return from_planes(lookup(to_planes(images), index)[0], w)


def to_planes(images: jax.Array) -> jax.Array:
    """(B, H, W, 3) -> (B, 3, H*W)."""
    b, h, w, c = images.shape
    return images.reshape(b, h * w, c).swapaxes(1, 2)


def from_planes(planes: jax.Array, width: int) -> jax.Array:
    """(B, 3, H*W) -> (B, H, W, 3)."""
    b, c, n = planes.shape
    return planes.swapaxes(1, 2).reshape(b, n // width, width, c)


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


def moved(
    planes: jax.Array, change: Change, width: int, fill: tuple[float, ...], bilinear: bool, halo: int
) -> jax.Array:
    """uint8 (B, 3, N) -> uint8 (B, 3, halo + N + halo), each image by its own map, as Pillow's Image.transform.

    `change`'s fields are (B,). `fill` (3,) stands where nothing came from. Between pixels are, unless `bilinear`, the
    nearest ones. What is in the halo has no meaning.
    """
    b, c, n = planes.shape
    height = n // width
    # A pixel that comes from nowhere is looked up behind the image, as are those right of it and below.
    behind = jnp.round(jnp.asarray(fill)).astype(jnp.uint8)[:, None]
    behind = jnp.broadcast_to(behind, (b, c, width + 2))
    planes = jnp.concatenate([planes, behind], axis=-1)

    place = jnp.arange(-halo, n + halo)
    places = jnp.stack([place // width + 0.5, place % width + 0.5, jnp.ones_like(place)])  # (3, N)
    middle_y, middle_x = change.centred * (height / 2), change.centred * (width / 2)
    dy = middle_y - change.yy * middle_y - change.yx * middle_x + change.dy
    dx = middle_x - change.xy * middle_y - change.xx * middle_x + change.dx
    affine = jnp.stack([change.yy, change.yx, dy, change.xy, change.xx, dx], axis=-1).reshape(b, 2, 3)
    sources = jnp.einsum("bij,jn->bin", affine, places, precision="highest")
    y, x = sources[:, 0], sources[:, 1]  # (B, N) each
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    if bilinear:
        y, x = jnp.clip(y - 0.5, 0, height - 1), jnp.clip(x - 0.5, 0, width - 1)
    top, left = jnp.floor(y), jnp.floor(x)
    index = jnp.where(inside, top * width + left, n).astype(jnp.int32)  # (B, N)
    if not bilinear:
        return lookup(planes, index)[0]
    taps = [tap.astype(jnp.float32) for tap in lookup(planes, index, (0, 1, width, width + 1))]
    right, down = (x - left)[:, None, :], (y - top)[:, None, :]
    upper, lower = taps[0] + (taps[1] - taps[0]) * right, taps[2] + (taps[3] - taps[2]) * right
    return (upper + (lower - upper) * down).astype(jnp.uint8)
