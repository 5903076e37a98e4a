"""What a source of encoded images is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.records import Records


class Split(NamedTuple):
    """The encoded images of a split, in the order in which its slices count them, and what they show."""

    records: Records
    labels: np.ndarray  # (N,) int32


@dataclass(frozen=True)
class Source:
    """A data set whose images lie encoded on disk, as far as it is known without reading them."""

    classes: tuple[str, ...]
    counts: dict[str, int]  # images of each split, in the order of the splits
    identity: dict[str, Any]  # anything JSON that changes when the content does, wherever it lies
    size: tuple[int, int] | None  # height and width, where all images have the same; None: each its own
    nbytes: int  # of all encoded images
    where: str  # the folder or file, as messages call it
    open: Callable[[], dict[str, Split]]  # raises UserError for what can't be read
    arrays_identity: dict[str, Any] | None = None  # where its decoded arrays have always been found by another
    notes: tuple[str, ...] = ()  # what a user should know of it: a sentence each
