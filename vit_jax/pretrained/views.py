"""Other views of weights: without what stands before all names, one tower of two, stacked blocks one by one."""

import dataclasses
import functools
import re
from collections.abc import Callable

import numpy as np

from vit_jax.pretrained.files import Weights
from vit_jax.system.progress import say

# What trainers put before all names: PyTorch's DataParallel and torch.compile, timm, Lightning, Flax.
_WRAPPERS = ("module", "_orig_mod", "model", "model_ema", "state_dict", "state_dict_ema", "params")
_IMAGES = "img/"  # in big_vision's files of two towers
_MOST_BLOCKS = 1000  # more are no model's, but a strange file's
_STACKED = "Transformer/encoderblock/"  # of big_vision's blocks in a loop; else "Transformer/encoderblock_0/"


def known_by(weights: Weights, recognises: Callable[[Weights], bool]) -> Weights | None:
    """The view of weights that is recognised, and what was done for it said; None if none is."""
    taken, view = "", weights
    while True:
        view = _blocks_apart(_image_tower(view))
        known, beginning = recognises(view), _common_beginning(view)
        if not beginning or (known and beginning[:-1] not in _WRAPPERS):
            break
        taken, view = taken + beginning, _within(view, beginning)
    if known and taken:
        say(f"All names in {weights.path} begin with {taken!r}, which is taken off.")
    return view if known else None


def _common_beginning(weights: Weights) -> str:
    """The part of all names up to the first dot or slash; "" where they differ in it."""
    found = {first[0] if (first := re.match(r"[^./]+[./]", name)) else "" for name in weights.shapes}
    return found.pop() if len(found) == 1 else ""


def _within(weights: Weights, beginning: str) -> Weights:
    """The arrays whose names begin so, by the rest of their names."""
    shapes = {name.removeprefix(beginning): x for name, x in weights.shapes.items() if name.startswith(beginning)}
    return dataclasses.replace(weights, shapes=shapes, read=lambda name: weights.read(beginning + name))


def _image_tower(weights: Weights) -> Weights:
    if not any(name.startswith(f"{_IMAGES}Transformer/") for name in weights.shapes):
        return weights
    say(f"Of {weights.path}, which holds several models, the one of images ({_IMAGES}) is taken.")
    return _within(weights, _IMAGES)


def _blocks_apart(weights: Weights) -> Weights:
    """Of blocks whose arrays are stacked, (depth, ...), each one's own."""
    stacked = {shape[:1] for name, shape in weights.shapes.items() if name.startswith(_STACKED)}
    if len(stacked) != 1 or not all(0 < depth < _MOST_BLOCKS for depth in stacked.pop()):
        return weights
    whole = functools.cache(weights.read)  # of each array all blocks take their parts
    shapes, parts = {}, {}
    for name, shape in weights.shapes.items():
        if not name.startswith(_STACKED):
            shapes[name] = shape
            continue
        for i in range(shape[0]):
            part = f"{_STACKED[:-1]}_{i}/{name.removeprefix(_STACKED)}"
            shapes[part], parts[part] = shape[1:], (name, i)

    def read(name: str) -> np.ndarray:
        if name not in parts:
            return weights.read(name)
        stacked, i = parts[name]
        return whole(stacked)[i]

    return dataclasses.replace(weights, shapes=shapes, read=read)
