"""What each project whose weights are read has to say of them."""

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


class Source(NamedTuple):
    name: str
    recognises: Callable[[Weights], bool]
    # The keys of a ModelConfig that the weights say, but for the image's size; what is given by hand may decide.
    fields: Callable[[Weights, Mapping[str, Any]], dict[str, Any]]
    layout: Callable[[Weights, Mapping[str, Any], Mapping[str, Any]], Layout]  # of weights, model's keys, given
    pieces: Callable[[ModelConfig, dict[str, Shape], int, Grid | None], list[Piece]]  # of cfg, shapes, before, grid
    resize: Resize
    ignored: Callable[[str], bool]  # whether an array's name says that a classifier doesn't use it


def nothing(name: str) -> bool:
    return False


def first_shape(pattern: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """Of the arrays whose whole name matches, the first one's: a block that is missing leaves the others."""
    return next((shape for name, shape in shapes.items() if re.fullmatch(pattern, name)), None)


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
