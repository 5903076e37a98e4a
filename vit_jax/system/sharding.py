"""One mesh of all devices: batches are split over it, state is on each device."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh() -> Mesh:
    # JAX's default axis type, Explicit, asks for shardings of intermediates that linen modules don't give.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, P("data"))


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array, the same in every process, as a global array; each device gets its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))


def put_local(batch: Any, sharding: NamedSharding) -> Any:
    """A tree of host arrays of which each process holds its own part of the leading axis, as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
