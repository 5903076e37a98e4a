"""How a state lies on the devices: whole on each, or split over those that share it.

As in ZeRO (Rajbhandari et al. 2020) and PyTorch's FSDP (Zhao et al. 2023) each of `fsdp` devices keeps a part of every
large parameter, of its moments and of its average, gathers what a step needs, and takes its part of the gradients.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.config import Config, TrainConfig
from vit_jax.errors import UserError
from vit_jax.models.encoder import STACKED
from vit_jax.steps.rules import match, path_of
from vit_jax.system.sharding import FSDP, make_mesh, replicated

_WHOLE_BELOW = 4096  # numbers: to gather fewer costs more than their memory is worth
_KEY, _RULES = "config.train.mesh", "config.train.split_rules"


def sharers(text: str | None, devices: int) -> int:
    """How many of so many devices share a state, by config.train.mesh: "data=4,fsdp=2", or one of the two.

    Raises UserError for a text that doesn't fit the devices.
    """
    sizes = _sizes(text)
    if len(sizes) == 1:  # the other one has the rest
        other, (own,) = "data" if FSDP in sizes else FSDP, sizes.values()
        if devices % own:
            are = "is one" if devices == 1 else f"are {devices}"
            raise UserError(f"{_KEY}={text!r} must divide the number of devices, of which there {are}")
        sizes[other] = devices // own
    if sizes and math.prod(sizes.values()) != devices:
        are = "is one device" if devices == 1 else f"are {devices} devices"
        raise UserError(
            f"{_KEY}={text!r} needs {math.prod(sizes.values())} devices, and there {are}; change one of its axes"
        )
    return sizes.get(FSDP, 1)


def devices_named(text: str | None) -> int | None:
    """Of how many devices config.train.mesh is; None where it leaves that open. Raises UserError as `sharers` does."""
    sizes = _sizes(text)
    return math.prod(sizes.values()) if len(sizes) == 2 else None


def _sizes(text: str | None) -> dict[str, int]:
    """The sizes that a text gives the mesh's axes."""
    sizes: dict[str, int] = {}
    for part in () if text is None else text.split(","):
        name, _, size = part.partition("=")
        if name not in ("data", FSDP) or name in sizes or not size.isdecimal() or not int(size):
            raise UserError(f'{_KEY}={text!r}: write how many devices each axis has, like "data=4,fsdp=2" or "fsdp=8"')
        sizes[name] = int(size)
    return sizes


def without_mesh(config: Config) -> Config:
    """The config for devices that needn't be those of its mesh."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, mesh=None))


def mesh_for(cfg: TrainConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of config.train.mesh: of these devices, which needn't be at hand, or of all that are."""
    return make_mesh(devices, sharers(cfg.mesh, jax.device_count() if devices is None else len(devices)))


def split_axes(cfg: TrainConfig, params: Any, count: int) -> dict[str, int]:
    """The parameters that `count` devices share, by path, and the axis of each along which it is split.

    `auto` splits along the largest axis that the devices divide, the first of equals, and leaves small ones whole. Axes
    are counted, and sizes taken, of one block's parameters, also where those of all blocks are stacked. `params` may be
    shapes. Raises UserError for rules that don't fit them.
    """
    choices = match(cfg.split_rules, params, _RULES)
    axes = {}
    for (key_path, choice), x in zip(
        jax.tree_util.tree_leaves_with_path(choices), jax.tree.leaves(params), strict=True
    ):
        path = path_of(key_path)
        before = int(path.startswith(STACKED))  # the axis of the blocks, of which each turn of the loop takes one
        axis = _axis(choice, path, x.shape[before:], count)
        if axis is not None and count > 1:
            axes[path] = axis + before
    return axes


def specs_of(params: Any, axes: Mapping[str, int]) -> Any:
    """A tree like `params` of PartitionSpecs."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _spec(axes.get(path_of(path))), params)


def shardings_of(state: Any, params: Any, axes: Mapping[str, int], mesh: Mesh) -> Any:
    """A tree like `state` of where each of its arrays lies: moments and averages as their parameters, others whole.

    What belongs to a parameter has its path at the end of its own, and its shape.
    """
    shapes = {path_of(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}

    def sharding(key_path: Any, x: Any) -> NamedSharding:
        names = path_of(key_path).split("/")
        ends = ("/".join(names[i:]) for i in range(len(names)))
        owner = next((end for end in ends if shapes.get(end) == x.shape), None)
        axis = None if owner is None else axes.get(owner)
        return replicated(mesh) if axis is None else NamedSharding(mesh, _spec(axis))

    return jax.tree_util.tree_map_with_path(sharding, state)


def _spec(axis: int | None) -> P:
    return P() if axis is None else P(*[None] * axis, FSDP)


def _axis(choice: str, path: str, shape: tuple[int, ...], count: int) -> int | None:
    if choice == "whole":
        return None
    if choice == "auto":
        able = [axis for axis, n in enumerate(shape) if n % count == 0]
        return max(able, key=lambda axis: shape[axis], default=None) if math.prod(shape) >= _WHOLE_BELOW else None
    if not choice.isdecimal():
        raise UserError(f'{_RULES}: {choice!r} is neither "auto", "whole" nor the number of an axis, "0" the first')
    if int(choice) >= len(shape) or shape[int(choice)] % count:
        raise UserError(f"{_RULES}: {path} {shape} has no axis {choice} that {count} devices divide")
    return int(choice)
