"""Tables of learned positions that come from elsewhere: which grid they are of, and each source's way to resize them.

A table (rows, D) has a row for each patch of a grid (H, W) and perhaps some before, of the class token and registers.
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from vit_jax.errors import UserError

Grid = tuple[int, int]
Resize = Callable[[np.ndarray, Grid], np.ndarray]  # (H, W, D), new grid -> (H', W', D)


def grid_of(rows: int, before: Sequence[int], stored: Grid | None, asked: Grid | None) -> tuple[int, Grid]:
    """How many of a table's rows are of no patch, one of `before`, and the grid of the others.

    The grid is `stored`, where that is known, else a square; raises UserError where that fits no or several ways. One
    that isn't square may be that which is `asked` for, but as well its transpose.
    """
    fits = set()
    for extra in before:
        patches = rows - extra
        side = math.isqrt(max(patches, 0))
        grids = [stored] if stored else [(side, side), *([asked, asked[::-1]] if asked else [])]
        fits |= {(extra, grid) for grid in grids if math.prod(grid) == patches and min(grid) > 0}
    if len(fits) != 1:
        ways = " or ".join(f"{h} x {w} after {extra}" for extra, (h, w) in sorted(fits)) or "no square grid"
        known = f" (it is said to be for a grid of {stored[0]} x {stored[1]})" if stored else ""
        raise UserError(
            f"the file's {rows} positions may be of {ways}{known}; say the size in pixels of the images that they are "
            "for, like vit_jax.load(..., stored_image_size=(224, 160))"
        )
    return fits.pop()


def bilinear_aligned(table: np.ndarray, grid: Grid) -> np.ndarray:
    """Google's way: linear, the corners stay where they are (scipy.ndimage.zoom of order 1)."""
    for axis, size in enumerate(grid):
        old = table.shape[axis]
        places = np.linspace(0, old - 1, size) if size > 1 else np.zeros(1)
        hats = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))  # (new, old)
        table = np.moveaxis(np.tensordot(hats, table, axes=(1, axis)), 0, axis)
    return table.astype(np.float32)


def bicubic(table: np.ndarray, grid: Grid) -> np.ndarray:
    """Hugging Face's way: PyTorch's bicubic interpolation (Keys 1981, a = -0.75), borders repeated, no antialiasing."""
    return _cubic(table, grid, lambda size, old: (np.arange(size) + 0.5) * (old / size) - 0.5)


def bicubic_aligned(table: np.ndarray, grid: Grid) -> np.ndarray:
    """torchvision's way: the same with the corners where they are (align_corners=True)."""
    return _cubic(table, grid, lambda size, old: np.arange(size) * ((old - 1) / max(size - 1, 1)))


def _cubic(table: np.ndarray, grid: Grid, places_of: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Cubic convolution along both axes; `places_of` a new size and an old one, in units of the old table."""
    for axis, size in enumerate(grid):
        old = table.shape[axis]
        places = places_of(size, old)
        first = np.floor(places).astype(int)
        weights = np.zeros((size, old))
        for tap in range(-1, 3):
            share = _keys(places - (first + tap), -0.75)
            np.add.at(weights, (np.arange(size), np.clip(first + tap, 0, old - 1)), share)
        table = np.moveaxis(np.tensordot(weights, table, axes=(1, axis)), 0, axis)
    return table.astype(np.float32)


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def bicubic_antialiased(table: np.ndarray, grid: Grid) -> np.ndarray:
    """timm's way: bicubic with a = -0.5, widened where the grid shrinks; PyTorch's antialias=True and JAX's "cubic"."""
    return np.asarray(jax.image.resize(table, (*grid, table.shape[-1]), "cubic"))


def bilinear(table: np.ndarray, grid: Grid) -> np.ndarray:
    """Our own way, as models/posembs.py has it."""
    return np.asarray(jax.image.resize(table, (*grid, table.shape[-1]), "bilinear"))
