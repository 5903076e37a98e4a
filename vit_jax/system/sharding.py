"""One mesh of all devices: batches are split over it, state is on each device or split over neighbours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

FSDP = "fsdp"  # the mesh's axis over which a state is split


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh of these devices, which needn't be at hand; of all that are, unless given.

    So many neighbours as `fsdp` says share one state: of GPUs and CPUs those of a process, where it has as many. A TPU
    slice's are neighbours in its grid.
    """
    count = jax.device_count() if devices is None else len(devices)
    shape, names = ((count,), ("data",)) if fsdp == 1 else ((count // fsdp, fsdp), ("data", FSDP))
    # JAX's default axis type, Explicit, asks for shardings of intermediates that linen modules don't give.
    types = (AxisType.Auto,) * len(names)
    return jax.make_mesh(shape, names, axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def of_each_device(function: Callable[..., Any], mesh: Mesh, takes: Sequence[Any], gives: Any = False) -> Any:
    """`function` computed by each device for itself, on its own part of what it takes.

    For each argument, and for what it gives: True where the leading axis is split over all devices, False where it is
    the same on all (by `jax.lax.psum`, say), or a tree of PartitionSpecs, or a tuple of these.
    """

    def specs(one: Any) -> Any:
        if isinstance(one, bool):
            return P(mesh.axis_names) if one else P()
        return tuple(map(specs, one)) if type(one) is tuple else one

    in_specs, out_specs = tuple(map(specs, takes)), specs(gives)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def first_of(count: int) -> jax.Array | int:
    """The number, among all devices' examples, of the first of this one's `count`.

    0 where arrays are whole; within `of_each_device` they are each device's own.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.manual_axes:
        return 0
    return jax.lax.axis_index(mesh.axis_names) * count


def gathered(tree: Any, axes: Mapping[str, int]) -> Any:
    """Within `of_each_device`: the arrays of a tree, whole, where each device holds its part of them.

    `axes` says which are split and along which axis, by path. A gradient goes back to each device for its part alone,
    summed over those that share the arrays: an all-gather forward is a reduce-scatter backward.
    """

    def whole(path: Any, x: jax.Array) -> jax.Array:
        axis = axes.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        return x if axis is None else jax.lax.all_gather(x, FSDP, axis=axis, tiled=True)

    return jax.tree_util.tree_map_with_path(whole, tree)


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array, the same in every process, as a global array; each device gets its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))


def on_host(array: jax.Array) -> np.ndarray:
    """A copy of a global array, whole, of which this process' devices hold all parts."""
    if array.is_fully_replicated:
        return np.array(array.addressable_data(0))
    host = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        host[shard.index] = shard.data
    return host


def shapes_of(tree: Any, sharding: NamedSharding) -> Any:
    """The shapes and dtypes of a tree's arrays, as they would lie in this sharding: for tracing without them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def put_local(batch: Any, sharding: NamedSharding) -> Any:
    """A tree of host arrays of which each process holds its own part of the leading axis, as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
