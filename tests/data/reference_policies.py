"""RandAugment's and TrivialAugment's operations one by one, on one image in NumPy: what the batched ones must equal.

An image is float64 (H, W, 3) of whole numbers, 0 to 255, in and out. Blends and pixels between pixels are cut off, as
Pillow's are.
"""

import functools

import numpy as np


def blend(degenerate, image, factor):
    return np.floor(np.clip(degenerate + factor * (image - degenerate), 0, 255))


def grey(image):
    return np.floor((image @ [19595.0, 38470.0, 7471.0] + 32768) / 65536)[..., None]  # (H, W, 1)


def brightness(image, factor):
    return blend(0.0, image, factor)


def contrast(image, factor):
    return blend(np.floor(grey(image).mean() + 0.5), image, factor)


def colour(image, factor):
    return blend(grey(image), image, factor)


def sharpness(image, factor):
    h, w, _ = image.shape
    around = sum(image[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
    smooth = image.copy()
    smooth[1:-1, 1:-1] = np.round((around + 4 * image[1:-1, 1:-1]) / 13)
    return blend(smooth, image, factor)


def posterize(image, bits):
    step = 2.0 ** (8 - bits)
    return np.floor(image / step) * step


def solarize(image, threshold):
    return np.where(image < threshold, image, 255 - image)


def solarize_add(image, amount):
    return np.where(image < 128, np.minimum(image + amount, 255), image)


def invert(image):
    return 255 - image


def autocontrast(image):
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))  # (3,)
    wide = np.floor((image - low) * 255 / np.maximum(high - low, 1) + 1e-3)
    return np.where(high > low, wide, image)


def equalize(image):
    out = image.copy()
    for channel in range(3):
        values = image[..., channel].astype(int)
        histogram = np.bincount(values.ravel(), minlength=256)
        step = (values.size - histogram[values.max()]) // 255
        if step:
            table = (step // 2 + np.cumsum(histogram) - histogram) // step
            out[..., channel] = np.minimum(table, 255)[values]
    return out


def transform(image, matrix, shift, about, fill, bilinear):
    """Each pixel from `matrix` @ its place (row, column), counted from `about`, plus `shift`.

    Where the nearest pixel is taken, that is in 65536ths.
    """
    h, w, _ = image.shape
    offset = np.add(shift, about) + matrix @ (0.5 - np.array(about))  # of the first pixel
    if not bilinear:
        matrix, offset = (np.floor(x * 65536 + 0.5) / 65536 for x in (matrix, offset))
    y, x = np.einsum("ij,jhw->ihw", matrix, np.mgrid[:h, :w]) + offset[:, None, None]
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    if bilinear:
        y, x = np.clip(y - 0.5, 0, h - 1), np.clip(x - 0.5, 0, w - 1)
    top, left = (np.floor(np.clip(v, 0, n - 1)).astype(int) for v, n in ((y, h), (x, w)))
    found = image[top, left]
    if bilinear:
        below, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
        fy, fx = (y - top)[..., None], (x - left)[..., None]
        upper = found + (image[top, right] - found) * fx
        lower = image[below, left] + (image[below, right] - image[below, left]) * fx
        found = np.floor(upper + (lower - upper) * fy)
    return np.where(inside[..., None], found, np.round(fill))


def rotate(image, degrees, **sampling):
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return transform(image, matrix, (0, 0), (image.shape[0] / 2, image.shape[1] / 2), **sampling)


def shear(image, factor, axis, **sampling):
    matrix = np.eye(2)
    matrix[axis, 1 - axis] = factor
    return transform(image, matrix, (0, 0), (0, 0), **sampling)


def translate(image, pixels, axis, **sampling):
    return transform(image, np.eye(2), (pixels, 0) if axis == 0 else (0, pixels), (0, 0), **sampling)


def trivial(image, number, magnitude, sign):
    """TrivialAugment's operation of this number."""
    moving = {"fill": (0, 0, 0), "bilinear": False}
    m, signed = magnitude, sign * magnitude
    return (
        lambda: image,
        lambda: shear(image, 0.99 * signed, 1, **moving),
        lambda: shear(image, 0.99 * signed, 0, **moving),
        lambda: translate(image, sign * np.trunc(32 * m), 1, **moving),
        lambda: translate(image, sign * np.trunc(32 * m), 0, **moving),
        lambda: rotate(image, 135 * signed, **moving),
        lambda: brightness(image, 1 + 0.99 * signed),
        lambda: colour(image, 1 + 0.99 * signed),
        lambda: contrast(image, 1 + 0.99 * signed),
        lambda: sharpness(image, 1 + 0.99 * signed),
        lambda: posterize(image, 8 - np.round(6 * m)),
        lambda: solarize(image, 255 * (1 - m)),
        lambda: autocontrast(image),
        lambda: equalize(image),
    )[number]()


def random(image, number, magnitude, sign, fill):
    """RandAugment's operation of this number."""
    moving = {"fill": fill, "bilinear": True}
    m, signed = magnitude, sign * magnitude
    return (
        lambda: autocontrast(image),
        lambda: equalize(image),
        lambda: invert(image),
        lambda: rotate(image, 30 * signed, **moving),
        lambda: posterize(image, 4 - np.floor(4 * m)),
        lambda: solarize(image, 256 - np.floor(256 * m)),
        lambda: solarize_add(image, np.floor(110 * m)),
        lambda: colour(image, 1 + 0.9 * signed),
        lambda: contrast(image, 1 + 0.9 * signed),
        lambda: brightness(image, 1 + 0.9 * signed),
        lambda: sharpness(image, 1 + 0.9 * signed),
        lambda: shear(image, 0.3 * signed, 1, **moving),
        lambda: shear(image, 0.3 * signed, 0, **moving),
        lambda: translate(image, 0.45 * signed * image.shape[1], 1, **moving),
        lambda: translate(image, 0.45 * signed * image.shape[0], 0, **moving),
    )[number]()


NAMED = {"trivialaugment": trivial, "randaugment": functools.partial(random, fill=(120.0, 121.0, 122.0))}
