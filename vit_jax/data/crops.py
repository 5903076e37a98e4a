"""Which part of an image becomes the pixels of a view. M images, B batch, H height and W width of the view."""

from typing import NamedTuple

import numpy as np

from vit_jax.data.view import View, resized_to

_TRIES = 10  # torchvision's


class Crops(NamedTuple):
    """What `images.pixels` cuts out and resizes, of each image."""

    window: np.ndarray  # (M, 4) int32: top, left, height, width; nothing outside of it is looked at
    box: np.ndarray  # (M, 4) float32: top, left, bottom, right, relative to the window


def central(sizes: np.ndarray, view: View) -> Crops:
    """The middle of images of sizes (M, 2), heights and widths, as an evaluation sees them.

    It is what torchvision and timm do in two steps, their rounding included: the image is resized so that it covers
    1 / crop_pct of the view, its shorter side just so, and the view is cut out of the middle.
    """
    sizes = np.asarray(sizes, np.int64)  # (M, 2)
    size = np.asarray(view.size)  # (2,)
    covered = resized_to(view.size, view.crop_pct)  # (2,)
    ratio = (sizes / covered).min(1, keepdims=True)  # (M, 1)
    # torchvision cuts the fraction of the longer side off; timm, which takes over where the view is no square, rounds.
    shorter = sizes.min(1, keepdims=True)
    square = view.size[0] == view.size[1]
    scaled = covered[0] * sizes // shorter if square else np.rint(sizes / ratio)  # (M, 2)
    start = np.rint((scaled - size) / 2)  # (M, 2)
    box = np.concatenate([start, start + size], 1) * np.tile(sizes / scaled, 2)  # (M, 4)
    window = np.concatenate([np.zeros_like(sizes), sizes], 1)
    return Crops(window.astype(np.int32), np.minimum(box, np.tile(sizes, 2)).astype(np.float32))


def random_resized(
    seed: int, step: int, sizes: np.ndarray, scale: tuple[float, ...], ratio: tuple[float, float]
) -> Crops:
    """A random part of each image of a batch, of sizes (B, 2): torchvision's RandomResizedCrop.

    Its area has a share of the image's that is uniform in `scale`, its width by its height is log-uniform in `ratio`;
    the first of ten that fits is taken, or the largest central part within `ratio`. A function of seed, step and the
    image's place in the batch alone.
    """
    sizes = np.asarray(sizes, np.int64)  # (B, 2)
    height, width = sizes[:, :1], sizes[:, 1:]  # (B, 1)
    bits = np.random.Philox(key=np.array([seed, step], np.uint64)).random_raw(len(sizes) * _TRIES * 4)
    uniform = (bits >> np.uint64(11)).astype(np.float64).reshape(len(sizes), _TRIES, 4) * 2.0**-53  # (B, 10, 4)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[..., 0])  # (B, 10)
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * uniform[..., 1])
    h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))  # (B, 10)
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    parts = np.stack([h, w], -1)  # (B, 10, 2)
    starts = np.floor(uniform[..., 2:] * (sizes[:, None] - parts + 1))
    chosen = np.concatenate([starts, parts], -1)[np.arange(len(sizes)), fits.argmax(1)]  # (B, 4)
    window = np.where(fits.any(1, keepdims=True), chosen, _largest(sizes, ratio)).astype(np.int32)
    zeros = np.zeros((len(sizes), 2))
    return Crops(window, np.concatenate([zeros, window[:, 2:]], 1).astype(np.float32))


def _largest(sizes: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """The largest central windows (B, 4) whose width by height lies within `ratio`."""
    height, width = sizes.T
    h = np.minimum(height, np.rint(width / ratio[0]))
    w = np.minimum(width, np.rint(height * ratio[1]))
    part = np.maximum(np.stack([h, w], 1), 1)  # (B, 2)
    return np.concatenate([(sizes - part) // 2, part], 1)
