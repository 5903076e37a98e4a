"""Images moved: crops, flips, rotations, and sampling between pixels. B batch, H/W pixels, C channels."""

import jax
import jax.numpy as jnp

from vit_jax.data.lookup import lookup
from vit_jax.data.operations import Change


def crop_and_flip(
    key: jax.Array, images: jax.Array, padding: int, flip: bool, mirrored: jax.Array | None = None
) -> jax.Array:
    """Shifts each image by up to `padding` pixels, borders reflected, and mirrors half of them; uint8 (B, H, W, C).

    The same as padding, cropping and flipping in turn, at once. `mirrored` (B,) bool says which, instead of chance.
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

    index = (reflect(rows, h)[:, :, None] * w + reflect(cols, w)[:, None, :]).reshape(b, h * w)
    return from_planes(lookup(to_planes(images), index)[0], w)


def to_planes(images: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, C, H*W)."""
    b, h, w, c = images.shape
    return images.reshape(b, h * w, c).swapaxes(1, 2)


def from_planes(planes: jax.Array, width: int) -> jax.Array:
    """(B, C, H*W) -> (B, H, W, C)."""
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
    angle = jax.random.uniform(angle_key, (b,), minval=-rotate, maxval=rotate) * 2 * jnp.pi
    tall, wide = 1 + jax.random.uniform(zoom_key, (2, b), minval=-zoom, maxval=zoom)
    # From each output pixel back to where it comes from: undo the zoom, then the rotation.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([cos * tall, sin * wide, -sin * tall, cos * wide], axis=-1).reshape(b, 2, 2)
    ys, xs = _sources(_affine(matrix, jnp.array([[h / 2, w / 2]]), jnp.zeros((1, 2))), w, jnp.arange(h * w))
    return sample_bilinear(x, (ys - 0.5).reshape(b, h, w), (xs - 0.5).reshape(b, h, w))


def sample_bilinear(x: jax.Array, ys: jax.Array, xs: jax.Array) -> jax.Array:
    """float32 x (B, H, W, C) at the real-valued places ys, xs (B, H', W'), mirrored beyond the borders."""
    b, h, w, _ = x.shape

    def mirrored(place: jax.Array, size: int) -> jax.Array:  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
        period = 2 * size
        place = place + 0.5 - period * jnp.floor((place + 0.5) / period)
        return jnp.clip(jnp.minimum(place, period - place) - 0.5, 0, size - 1).reshape(b, -1)

    return from_planes(_between(to_planes(x), mirrored(ys, h), mirrored(xs, w), w), ys.shape[2])


def moved(
    planes: jax.Array, change: Change, width: int, fill: tuple[float, ...], bilinear: bool, halo: int
) -> jax.Array:
    """uint8 (B, C, N) -> uint8 (B, C, halo + N + halo), each image by its own map, as Pillow's Image.transform.

    `change`'s fields are (B,). `fill` (C,) stands where nothing came from. Between pixels are, unless `bilinear`, the
    nearest ones. What is in the halo has no meaning.

    The nearest are Pillow's, whose map is in 65536ths; of rotations, whose sine is float32 here, all but 1 pixel in
    30,000. What is bilinear is cut off as there, where it is float64: of the values, fewer than 1 in 1,000, almost
    whole ones, are 1 off, to either side.
    """
    b, c, n = planes.shape
    height = n // width
    matrix = jnp.stack([change.yy, change.yx, change.xy, change.xx], axis=-1).reshape(b, 2, 2)
    middle = change.centred[:, None] * jnp.array([height / 2, width / 2])  # (B, 2)
    shift = jnp.stack([change.dy, change.dx], axis=-1)
    affine = _affine(matrix, middle, shift)  # (B, 2, 3)
    if not bilinear:
        affine = jnp.floor(affine * 65536 + 0.5) / 65536
    y, x = _sources(affine, width, jnp.arange(-halo, n + halo))  # (B, N) each, the halo with them
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    # A pixel that comes from nowhere is looked up behind the image's last one, where `fill` is.
    behind = jnp.round(jnp.asarray(fill)).astype(planes.dtype)[:, None]
    planes = jnp.concatenate([planes, jnp.broadcast_to(behind, (b, c, 1))], axis=-1)
    if not bilinear:
        index = jnp.where(inside, jnp.floor(y) * width + jnp.floor(x), n)
        return lookup(planes, index.astype(jnp.int32))[0]
    y = jnp.where(inside, jnp.clip(y - 0.5, 0, height - 1), height)
    return _between(planes, y, jnp.where(inside, jnp.clip(x - 0.5, 0, width - 1), 0), width).astype(jnp.uint8)


def _affine(matrix: jax.Array, middle: jax.Array, shift: jax.Array) -> jax.Array:
    """(B, 2, 3): from the number of a row and a column and 1 to the place where that pixel comes from; corner (0, 0).

    `matrix` (B, 2, 2) @ (row, column) of the pixel's centre from the `middle` (B, 2), plus `shift` (B, 2).
    """
    middle = jnp.broadcast_to(middle, matrix.shape[:2])
    offset = middle + shift + jnp.einsum("bij,bj->bi", matrix, 0.5 - middle, precision="highest")
    return jnp.concatenate([matrix, offset[..., None]], axis=-1)


def _sources(affine: jax.Array, width: int, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows and columns, (B, N) each, from which the pixels `place` (N,), counted row by row, come by `_affine`.

    As one product: XLA would otherwise work them out anew for each use.
    """
    places = jnp.stack([place // width, place % width, jnp.ones_like(place)]).astype(jnp.float32)  # (3, N)
    found = jnp.einsum("bij,jn->bin", affine, places, precision="highest")
    return found[:, 0], found[:, 1]


def _between(planes: jax.Array, y: jax.Array, x: jax.Array, width: int) -> jax.Array:
    """(B, C, N) at rows y and columns x (B, N'), both at least 0, where 0 is a pixel's centre -> float32 (B, C, N').

    Between the four pixels around; what is right of the last column or below the last row counts nothing.
    """
    top, left = jnp.floor(y), jnp.floor(x)
    index = (top * width + left).astype(jnp.int32)
    taps = [tap.astype(jnp.float32) for tap in lookup(planes, index, (0, 1, width, width + 1))]
    right, down = (x - left)[:, None, :], (y - top)[:, None, :]
    # Of this form, so that between equal pixels nothing is rounded.
    upper, lower = taps[0] + (taps[1] - taps[0]) * right, taps[2] + (taps[3] - taps[2]) * right
    return upper + (lower - upper) * down


def enlarged(images: jax.Array, extent: jax.Array) -> jax.Array:
    """The top left corner of each image, of height and width `extent` (B, 2) int32, enlarged to all of it.

    uint8 (B, H, W, C) -> the same, between pixels and rounded as Pillow's bilinear filter does, within one level.
    """
    return jax.lax.platform_dependent(images, extent, tpu=_enlarged_by_products, default=_enlarged_by_lookup)


def _enlarged_by_lookup(images: jax.Array, extent: jax.Array) -> jax.Array:
    b, h, w, _ = images.shape
    y, x = (_magnified(extent[:, axis], size) for axis, size in enumerate((h, w)))  # (B, H), (B, W)
    y, x = (jnp.broadcast_to(place, (b, h, w)).reshape(b, h * w) for place in (y[:, :, None], x[:, None, :]))
    return jnp.floor(from_planes(_between(to_planes(images), y, x, w), w) + 0.5).astype(images.dtype)


def _enlarged_by_products(images: jax.Array, extent: jax.Array) -> jax.Array:
    """The same for a TPU, which would look so many pixels up one by one."""
    x = images.astype(jnp.float32)
    for axis, equation in enumerate(("bij,bjwc->biwc", "bij,bhjc->bhic")):
        size = images.shape[1 + axis]
        away = jnp.abs(_magnified(extent[:, axis], size)[..., None] - jnp.arange(size))  # (B, size, size)
        x = jnp.einsum(equation, jnp.maximum(1 - away, 0), x, precision="highest")  # (B, H, W, C)
    return jnp.floor(x + 0.5).astype(images.dtype)


def _magnified(extent: jax.Array, size: int) -> jax.Array:
    """Where among the first `extent` (B,) places of an axis the `size` come from that are made of them, (B, size)."""
    extent = extent[:, None].astype(jnp.float32)
    return jnp.clip((jnp.arange(size) + 0.5) * (extent / size) - 0.5, 0, extent - 1)
