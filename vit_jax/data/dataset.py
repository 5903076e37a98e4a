"""What every source gives: labelled images, split by name, and slices of them."""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vit_jax.config import DataConfig
from vit_jax.data.encoded import EncodedImages
from vit_jax.data.view import View
from vit_jax.errors import UserError

# What splits of validation images are called; ours is the first.
_VALIDATION = ("validation", "valid", "val", "dev")


class Examples(NamedTuple):
    """Labelled images: arrays, possibly memory-mapped, or encoded ones that are decoded when they are asked for."""

    images: np.ndarray | EncodedImages  # (N, H, W, C) uint8
    labels: np.ndarray  # (N,) int32


@dataclass(frozen=True)
class DataSet:
    name: str
    classes: tuple[str, ...]  # a label is an index into these
    splits: dict[str, Examples]  # whole, by name: train, test
    sha256: str = ""  # of all images and labels, where they come from the cache
    notes: tuple[str, ...] = ()  # what a user should know of it before training: a sentence each
    view: View | None = None  # by which encoded images became these pixels; None: they keep their own size


@dataclass(frozen=True)
class Splits:
    """The splits of a data set that a run uses: slices of its own; validation and test may be absent."""

    train: Examples
    validation: Examples | None
    test: Examples | None
    sha256: str = ""  # of the data set


def with_default_splits(data: DataConfig, names: Collection[str]) -> DataConfig:
    """`data` with the splits that it leaves open chosen among those that the data set has, by `names`.

    A data set's own validation images are taken where there are any; else a tenth of its train images.
    """
    own = next((name for name in _VALIDATION if name in names), None)
    validation = data.validation if data.validation is not None else own or "train[90%:]"
    apart = own is not None and not validation.startswith("train[")
    train = data.train if data.train is not None else "train" if apart else "train[:90%]"
    test = data.test if data.test is not None else "test" if "test" in names else ""
    return dataclasses.replace(data, train=train, validation=validation, test=test)


_SPLIT = re.compile(r"(\w+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def in_both(one: tuple[str, range], other: tuple[str, range]) -> int:
    """How many examples two slices, as `split_range` gives them, share."""
    (name, a), (other_name, b) = one, other
    return max(min(a.stop, b.stop) - max(a.start, b.start), 0) if name == other_name else 0


def split_range(spec: str, key: str, sizes: dict[str, int]) -> tuple[str, range]:
    """("train[:90%]", key, {"train": 50000}) -> ("train", range(0, 45000)).

    Slices are those of TFDS: counts or percents, from the end where negative, percents rounded to the nearest
    example. Raises UserError for text that is no split, a name the data set doesn't have, and an empty slice.
    """
    match = _SPLIT.fullmatch(spec)
    if not match:
        raise UserError(f'{key}={spec!r} is no split; write a name or a slice, like "train" or "train[:90%]"')
    name = match[1]
    if name not in sizes:
        raise UserError(f"{key}={spec!r}: there is no split {name!r}; found {', '.join(sizes)}")
    size = sizes[name]

    def place(text: str | None) -> int | None:
        if text is None:
            return None
        return round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)

    chosen = range(size)[place(match["start"]) : place(match["stop"])]
    if not chosen:
        raise UserError(f"{key}={spec!r} is empty; {name} has {size} examples")
    return name, chosen


def take(dataset: DataSet, spec: str, key: str) -> Examples:
    """The examples of a split or a slice of one, without a copy."""
    name, chosen = split_range(spec, key, {k: len(v.labels) for k, v in dataset.splits.items()})
    images, labels = dataset.splits[name]
    part = images.part if isinstance(images, EncodedImages) else lambda start, stop: images[start:stop]
    return Examples(part(chosen.start, chosen.stop), labels[chosen.start : chosen.stop])
