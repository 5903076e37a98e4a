"""The encoder's blocks, each with parameters of its own: written out one after the other, or as a loop over them.

Both compute the same from the same parameters. Of a tree of parameters each block's are an entry, "block_00" and so
on, or those of all blocks are one, "blocks", stacked: (depth, ...) each. The loop takes the latter, a program that
doesn't grow with depth, and neither does the optimizer's for them; it is also given the former, and stacks them first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.layers import Block
from vit_jax.system.sharding import gathered

STACKED = "blocks/"  # how the paths of stacked parameters begin


def is_of_blocks(path: str) -> bool:
    """Whether a parameter is a block's, or stacked of all."""
    return path.startswith(("block_", STACKED))


def paths_in_blocks(path: str, shape: Sequence[int]) -> list[str]:
    """A parameter's path; of one that is stacked those of its parts, "block_00/..." and so on."""
    if not path.startswith(STACKED):
        return [path]
    return [f"{_name(i)}/{path.removeprefix(STACKED)}" for i in range(shape[0])]


def stacked(tree: Any) -> Any:
    """A tree of arrays or shapes with parameters (a state, say) in which the blocks' become one entry, stacked.

    Host arrays stay on the host.
    """

    def entry(node: Any) -> Any:
        if not _has(node, _name(0)):
            return node
        depth = sum(name.startswith("block_") for name in node)
        blocks = jax.tree.map(lambda *each: _stack(each), *(node[_name(i)] for i in range(depth)))
        return {name: x for name, x in node.items() if not name.startswith("block_")} | {"blocks": blocks}

    return jax.tree.map(entry, tree, is_leaf=lambda node: _has(node, _name(0)))


def unstacked(tree: Any) -> Any:
    """The reverse of `stacked`."""

    # Of parameters that aren't trained an optimizer's state has no arrays.
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: _has(node, "blocks"))
    depth = max(
        (x.shape[0] for node in nodes if _has(node, "blocks") for x in jax.tree.leaves(node["blocks"])), default=0
    )

    def entry(node: Any) -> Any:
        if not _has(node, "blocks"):
            return node
        rest = {name: x for name, x in node.items() if name != "blocks"}
        return rest | {_name(i): jax.tree.map(lambda x, i=i: _part(x, i), node["blocks"]) for i in range(depth)}

    return jax.tree.map(entry, tree, is_leaf=lambda node: _has(node, "blocks"))


def is_stacked(tree: Any) -> bool:
    """Whether there are stacked parameters in a tree."""
    return any(_has(node, "blocks") for node in jax.tree.leaves(tree, is_leaf=lambda node: _has(node, "blocks")))


def _has(node: Any, name: str) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(node, Mapping) and name in node


def _name(i: int) -> str:
    return f"block_{i:02d}"


def _stack(each: Sequence[Any]) -> Any:
    if isinstance(each[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(each), *each[0].shape), each[0].dtype)
    return np.stack(each) if isinstance(each[0], np.ndarray) else jnp.stack(each)


def _part(x: Any, i: int) -> Any:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x[i]


def of_block(split: Sequence[tuple[str, int]], i: int) -> dict[str, int]:
    """Of (path, axis) of parameters that are split those of one block, by their paths within it."""
    name = f"{_name(i)}/"
    return {path.removeprefix(name): axis for path, axis in split if path.startswith(name)}


def of_loop(split: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Likewise of one turn of the loop: of stacked parameters the first axis is the blocks'."""
    return {path.removeprefix(STACKED): axis - 1 for path, axis in split if path.startswith(STACKED)}


def written_out(remat: bool, split: Mapping[str, int]) -> type[nn.Module]:
    """The class of one block. It is recomputed in the backward pass, its parameters gathered anew, with `remat`."""
    block = Block
    if split:
        block = nn.map_variables(block, "params", trans_in_fn=lambda held: {"params": gathered(held["params"], split)})
    return nn.remat(block) if remat else block


def looped(
    block: Block,
    params: Any,
    x: jax.Array,
    angles: np.ndarray | None,
    drop_path_share: float | jax.Array,
    key: jax.Array | None,
    remat: bool,
    split: Mapping[str, int],
) -> jax.Array:
    """x (B, N, D) -> (B, N, D) through a block with each of the stacked `params` in turn; `key` is of all dropout.

    The rate of stochastic depth grows linearly from 0 to the block's. Dropout's masks are others than where the blocks
    are written out.
    """
    depth = jax.tree.leaves(params)[0].shape[0]

    def one(x: jax.Array, each: Any) -> tuple[jax.Array, None]:
        held, place, key = each
        rngs = None if key is None else {"dropout": key}
        whole = {"params": gathered(held, split)}
        return block.apply(whole, x, angles, drop_path_share * place, rngs=rngs)[0], None

    # What a loop computes is in no other place, so that nothing needs to be kept apart.
    one = jax.checkpoint(one, prevent_cse=False) if remat else one
    keys = None if key is None else jax.random.split(key, depth)
    return jax.lax.scan(one, x, (params, jnp.arange(depth) / max(depth - 1, 1), keys))[0]
