"""One mesh of all devices: batches are split over it, state is on each device."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of these devices, which needn't be at hand; of all that are, unless given."""
    # JAX's default axis type, Explicit, asks for shardings of intermediates that linen modules don't give.
    if devices is None:
        return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, P("data"))


def of_each_device(
    function: Callable[..., Any], mesh: Mesh, split: Sequence[bool], gives_split: bool = False
) -> Callable[..., Any]:
    """`function` computed by each device for itself, on its own part of the arguments that are `split`, whole others.

    What it gives is split likewise, or is the same on all devices (by `jax.lax.psum` over "data", say).
    """
    specs = [P("data") if one else P() for one in (*split, gives_split)]
    return jax.shard_map(function, mesh=mesh, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False)


def first_of(count: int) -> jax.Array | int:
    """The number, among all devices' examples, of the first of this one's `count`.

    0 where arrays are whole; within `of_each_device` they are each device's own.
    """
    if "data" not in jax.sharding.get_abstract_mesh().manual_axes:
        return 0
    return jax.lax.axis_index("data") * count


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array, the same in every process, as a global array; each device gets its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))


def shapes_of(tree: Any, sharding: NamedSharding) -> Any:
    """The shapes and dtypes of a tree's arrays, as they would lie in this sharding: for tracing without them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def put_local(batch: Any, sharding: NamedSharding) -> Any:
    """A tree of host arrays of which each process holds its own part of the leading axis, as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
