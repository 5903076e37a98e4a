"""Pictures of a run. Matplotlib is imported only here, and only when something is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.runs.fonts import font_for

_NAME = 30  # characters of a class' name that are drawn; of a longer one the beginning
# From black over violet and orange to a light yellow, evenly in lightness: some colours of matplotlib's "inferno".
_RAMP = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]], float)


def _figure(width: float, height: float, fitted: bool = False) -> Any:
    """An empty figure in inches, which draws to files alone: the caller's own backend and figures stay as they are.

    `fitted` to labels whose length isn't known: everything is drawn twice more for that.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained" if fitted else None)


def curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy above loss, train and validation, by epoch, from the rows of metrics.jsonl."""
    figure = _figure(8, 8)
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.07, top=0.95, hspace=0.12)
    axes = figure.subplots(2, 1, sharex=True)
    for split, label in (
        ("train_epoch", "train"),
        ("validation", "validation"),
        ("validation_ema", "validation, averaged parameters"),
    ):
        if split == "validation_ema" and not any(row["split"] == split for row in rows):
            continue
        points = [row for row in rows if row["split"] == split]
        epochs = [row["epoch"] for row in points]
        marker = "o" if len(points) < 30 else None
        axes[0].plot(epochs, [100 * row["top1"] for row in points], marker=marker, label=label)
        axes[1].plot(epochs, [row["loss"] for row in points], marker=marker, label=label)
    axes[0].set(ylabel="top-1 accuracy (%)", title="Training and validation accuracy")
    axes[1].set(ylabel="loss (nats)", xlabel="epoch", title="Training and validation loss")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="y", useOffset=False)  # of nearly equal values, too, the numbers themselves
        axis.legend()
    figure.savefig(path, dpi=120)


def rgb(images: np.ndarray) -> np.ndarray:
    """(..., C) -> (..., 3): grey images, of one channel, as they are shown and as Pillow takes them."""
    return np.repeat(images, 3 // images.shape[-1], axis=-1)


def patches(image: np.ndarray, size: tuple[int, int], grid: tuple[int, int], path: Path) -> list[str]:
    """One image (h, w, C) uint8 as the model sees it and, beside, the grid of its patches; gives the four lines.

    `size` (H, W) is the model's in pixels, `grid` its patches: rows and columns, of which H and W are multiples.
    """
    from PIL import Image

    (rows, columns), (high, wide) = grid, (side // count for side, count in zip(size, grid, strict=True))
    resized = Image.fromarray(rgb(np.asarray(image))).resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    lines = [
        f"Image size: {size[0]} X {size[1]}",
        f"Patch size: {high} X {wide}",
        f"Patches per image: {rows * columns}",
        f"Elements per patch: {high * wide * image.shape[-1]}",
    ]
    # One picture with white gaps: a subplot for each patch would take seconds.
    gap = max(high // 6, 1)
    cells = pixels.reshape(rows, high, columns, wide, 3).swapaxes(1, 2)  # (rows, columns, high, wide, 3)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    apart = cells.swapaxes(1, 2).reshape(rows * (high + gap), columns * (wide + gap), 3)[:-gap, :-gap]
    figure = _figure(9, 5.5)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.88, wspace=0.04)
    axes = figure.subplots(1, 2)
    for axis, picture, title in zip(axes, (pixels, apart), (lines[:2], lines[2:]), strict=True):
        axis.imshow(picture)
        axis.set_title("\n".join(title))
        axis.axis("off")
    figure.savefig(path, dpi=120)
    return lines


def confusion(matrix: np.ndarray, classes: list[str], path: Path, fonts: Sequence[str] | None = None) -> list[str]:
    """The confusion matrix (C, C), rows true, columns predicted: shares of each row in colour, counts as text.

    Where none of the `fonts` (files; by default all installed) has the letters of all classes, they are numbers, and
    what it gives is a line that says so; else it gives none.
    """
    from matplotlib.font_manager import FontProperties

    names = [name if len(name) <= _NAME else f"{name[: _NAME - 3]}..." for name in classes]
    lines, font = [], font_for(names, fonts)
    if font is None:
        order = f"{path.name} has their numbers, from 0, in the order of confusion.csv"
        lines = [f"No installed font has the letters of all classes: {order}."]
        names = [str(label) for label in range(len(classes))]
    size = 3 + 0.6 * len(classes)
    figure = _figure(size, size, fitted=True)
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            colour = "white" if shares[row, column] > 0.5 else "black"
            cell = axis.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=8)
            cell.set_in_layout(False)  # it lies within the axis
    written = {"fontproperties": FontProperties(fname=font), "parse_math": False}  # a "$" is a "$"
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", **written)
    axis.set_yticks(range(len(names)), names, **written)
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axis.set(xlabel="predicted", ylabel="true", title=f"{100 * accuracy:.2f} % of {matrix.sum():,} images correct")
    figure.savefig(path, dpi=120)
    return lines


def coloured(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] (...) -> colours (..., 3) uint8, dark for the least and light for the greatest."""
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, places, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overlay(image: np.ndarray, weights: np.ndarray, side: int = 128, opacity: float = 0.6) -> np.ndarray:
    """Weights (H, W), enlarged, over an image (h, w, C) uint8 in grey: (side, side * w / h, 3) uint8.

    The colours go from the least weight to the greatest.
    """
    from PIL import Image

    size = round(side * image.shape[1] / image.shape[0]), side
    grey = Image.fromarray(rgb(np.asarray(image))).resize(size, Image.Resampling.BICUBIC).convert("L")
    spread = (weights - weights.min()) / max(weights.max() - weights.min(), 1e-12)
    fine = Image.fromarray(spread.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    mixed = (1 - opacity) * np.asarray(grey, float)[..., None] + opacity * coloured(np.asarray(fine))
    return mixed.round().astype(np.uint8)


def tiles(pictures: np.ndarray, columns: int, scale: int = 1, gap: int = 2) -> np.ndarray:
    """Pictures (n, h, w, 3) uint8 in a grid, pixels `scale` wide: (rows, columns, 4) uint8, with transparent gaps."""
    n, h, w, _ = pictures.shape
    rows = -(-n // columns)
    large = pictures.repeat(scale, axis=1).repeat(scale, axis=2)  # (n, h * scale, w * scale, 3)
    grid = np.zeros((rows * columns, h * scale + gap, w * scale + gap, 4), np.uint8)
    grid[:n, : h * scale, : w * scale] = np.concatenate([large, np.full((*large.shape[:3], 1), 255, np.uint8)], axis=-1)
    grid = grid.reshape(rows, columns, *grid.shape[1:]).swapaxes(1, 2)  # (rows, height, columns, width, 4)
    return grid.reshape(rows * grid.shape[1], columns * grid.shape[3], 4)[:-gap, :-gap]
