"""What each project whose weights are read has to say of them."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.pieces import Piece
from vit_jax.pretrained.positions import Grid, Resize


class Layout(NamedTuple):
    """Which patches a file's positions are of."""

    before: int  # rows of the table that are of no patch
    grid: Grid | None  # of the others; None: there is no table
    image_size: tuple[int, int] | None  # height and width in pixels, where they are known


class Preprocessing(NamedTuple):
    """What images are normalised with, per channel, of pixels in [0, 1], and how encoded ones get their size."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None = None  # bilinear | bicubic | lanczos; None: not told; likewise
    crop_pct: float | None = None  # share of the shorter side that the central crop has

    def of(self, channels: int) -> "Preprocessing":
        """For images of so many channels: a grey one is normalised with the average over the colours.

        Those of weights for grey images are every colour's.
        """
        if channels == 1 and len(self.mean) == len(self.std) == 3:
            return self._replace(mean=(sum(self.mean) / 3,), std=(sum(self.std) / 3,))
        if channels == 3 and len(self.mean) == len(self.std) == 1:
            return self._replace(mean=self.mean * 3, std=self.std * 3)
        return self


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TO_ONE = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # to [-1, 1]


class Source(NamedTuple):
    name: str
    recognises: Callable[[Weights], bool]
    # The keys of a ModelConfig that the weights say, but for the image's size; what is given by hand may decide.
    fields: Callable[[Weights, Mapping[str, Any]], dict[str, Any]]
    layout: Callable[[Weights, Mapping[str, Any], Mapping[str, Any]], Layout]  # of weights, model's keys, given
    pieces: Callable[[ModelConfig, Weights, int, Grid | None], list[Piece]]  # of cfg, weights, before, grid
    resize: Callable[[Weights], Resize]
    ignored: Callable[[str], bool]  # whether an array's name says that a classifier doesn't use it
    preprocessing: Callable[[Weights], Preprocessing | None]  # None: the weights don't tell


def nothing(name: str) -> bool:
    return False


def preprocessing_of(said: Any, mean: str, std: str, default: Preprocessing | None) -> Preprocessing | None:
    """The default with what a JSON object says under the two keys; raises UserError for what are no numbers."""
    if not isinstance(said, Mapping) or mean not in said or std not in said:
        return default
    values = [said[mean], said[std]]
    if not all(isinstance(v, list) and len(v) in (1, 3) and all(type(x) in (int, float) for x in v) for v in values):
        raise UserError(f"{mean} and {std} beside the weights are a number for each channel; found {values}")
    means, stds = (tuple(map(float, value)) for value in values)
    if not all(map(math.isfinite, means + stds)) or min(stds) <= 0:
        raise UserError(f"{mean} and {std} beside the weights are finite, and the latter above 0; found {values}")
    return (default or Preprocessing((), ()))._replace(mean=means, std=stds)


def interpolation_among(name: Any) -> str | None:
    """An interpolation that there is here; None for others."""
    return name if name in ("bilinear", "bicubic", "lanczos") else None


def crop_pct_among(share: Any) -> float | None:
    """A share of an image's side; None for what is none."""
    return float(share) if isinstance(share, (int, float)) and 0 < share <= 1 else None


def first_shape(pattern: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """Of the arrays whose whole name matches, the first one's: a block that is missing leaves the others."""
    return next((shape for name, shape in shapes.items() if re.fullmatch(pattern, name)), None)


def channels_of(kernel: Shape, axis: int) -> int:
    """Of the images that a first kernel of this shape is for: 1, or else 3, so that another number is a mismatch."""
    return 1 if kernel[axis : axis + 1] == (1,) else 3


def not_more_than(blocks: int, shapes: Mapping[str, Shape]) -> int:
    """`blocks`, as many as a name or a number says; raises UserError where the file has fewer arrays than that."""
    if blocks > len(shapes):
        raise UserError(f"{blocks:,} blocks in a file of {len(shapes)} arrays")
    return blocks


def pair(size: Any) -> tuple[int, int] | None:
    """Height and width of a size that may be one number for both; raises UserError for anything else."""
    if size is None:
        return None
    try:
        height, width = map(operator.index, size if isinstance(size, (list, tuple)) else (size, size))
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise UserError(f"a size of images is a number above 0, or height and width, like (224, 160); found {size!r}")
    return height, width


def pixels_of_a_patch(model: Mapping[str, Any]) -> int:
    """Pixels along a side of what a token stands for: the patch, times what a ResNet in front divides by."""
    stem = model.get("stem", {})
    root = 2 ** (1 + max(len(stem.get("units", ())), 1)) if stem.get("kind") == "resnet" else 1
    return model["patch_size"] * root


def over(size: tuple[int, int] | None, pixels: int) -> Grid | None:
    """The grid of patches of so many pixels on an image of a size."""
    return None if size is None else (size[0] // pixels, size[1] // pixels)
