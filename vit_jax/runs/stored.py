"""A state on the disk, in Orbax's format: written by one process or by all, each its own shards; read onto any mesh."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from vit_jax.errors import UserError
from vit_jax.models import encoder
from vit_jax.steps.rules import path_of
from vit_jax.system.sharding import put, replicated


def is_spread(state: Any) -> bool:
    """Whether it lies in parts on devices of several processes, so that each has to write its own."""
    return not all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(state))


def not_finite(state: Any) -> str | None:
    """The path of an array, or of one of which a part is here, with NaN or infinite numbers; None if there is none."""
    for path, x in jax.tree_util.tree_flatten_with_path(state)[0]:
        parts = [shard.data for shard in x.addressable_shards] if isinstance(x, jax.Array) else [x]
        if np.issubdtype(x.dtype, np.floating) and not all(np.isfinite(part).all() for part in parts):
            return path_of(path)
    return None


def write(folder: Path, state: Any) -> None:
    """Writes a state of host arrays, this process alone; or one that `is_spread`, with all processes, all of it."""
    together = any(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    with _checkpointer(together) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(state))


def read(folder: Path, target: Any, mesh: Mesh, name: str) -> Any:
    """The whole state, or the part of it that `target` (arrays or shapes) names; of others' shards nothing is read.

    It lies as the arrays of `target` do; shapes' are on every device of the mesh. Where the blocks' parameters are
    stacked in one of the two alone (models/encoder.py), the host reads all and gives it the target's form. Raises
    UserError, with every difference in paths, shapes and dtypes, for one ("checkpoint 7") of another model, before
    anything is read.
    """

    def split(x: Any) -> bool:
        return isinstance(x, jax.Array) and not x.is_fully_replicated

    restore_args = jax.tree.map(
        lambda x: (
            ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype)
            if split(x)
            else ocp.RestoreArgs(restore_type=np.ndarray)
        ),
        target,
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), target)
    with _checkpointer(together=False) as checkpointer:
        metadata = checkpointer.metadata(folder).item_metadata.tree
        wanted = encoder.is_stacked(shapes)
        converts = wanted != encoder.is_stacked(metadata)
        if converts:
            shapes = encoder.unstacked(shapes) if wanted else encoder.stacked(shapes)
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        _check_fits(name, shapes, metadata)
        restore = ocp.args.PyTreeRestore(item=shapes, restore_args=restore_args, partial_restore=True)
        found = checkpointer.restore(folder, args=restore)
    if converts:
        found = encoder.stacked(found) if wanted else encoder.unstacked(found)

    def lying(x: Any, like: Any) -> jax.Array:
        if isinstance(x, jax.Array):
            return x
        return put(x, like.sharding if split(like) else replicated(mesh))

    return jax.tree.map(lying, found, target)


def _check_fits(name: str, target: Any, metadata: Any) -> None:
    def flat(tree: Any) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
        return {path_of(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}

    ours, theirs = flat(target), flat(metadata)
    tops = {path.split("/")[0] for path in ours}
    theirs = {path: value for path, value in theirs.items() if path.split("/")[0] in tops}
    lines = [
        f"  {path}: {theirs.get(path, 'absent')} in the checkpoint, {ours.get(path, 'absent')} in the model"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]
    if lines:
        more = [f"  and {len(lines) - 20} more"] if len(lines) > 20 else []
        raise UserError("\n".join([f"{name} does not fit the model:", *lines[:20], *more]))


def _checkpointer(together: bool) -> ocp.Checkpointer:
    """Orbax for all processes `together`, which wait for each other, or for this one alone."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process-{jax.process_index()}",
    )
    options = ocp.options.MultiprocessingOptions() if together else options
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
