"""The encoder's blocks, each with parameters of its own: written out one after the other, or as a loop over them.

Both compute the same from the same parameters. The loop is a program that doesn't grow with depth; it stacks the
parameters of all blocks first, in every step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models.layers import Block
from vit_jax.system.sharding import gathered


def of_block(split: Sequence[tuple[str, int]], i: int) -> dict[str, int]:
    """Of (path, axis) of parameters that are split those of one block, by their paths within it."""
    name = f"block_{i:02d}/"
    return {path.removeprefix(name): axis for path, axis in split if path.startswith(name)}


def written_out(remat: bool, split: Mapping[str, int]) -> type[nn.Module]:
    """The class of one block. It is recomputed in the backward pass, its parameters gathered anew, with `remat`."""
    block = Block
    if split:
        block = nn.map_variables(block, "params", trans_in_fn=lambda held: {"params": gathered(held["params"], split)})
    return nn.remat(block) if remat else block


def looped(
    block: Block,
    params: Sequence[Any],
    x: jax.Array,
    angles: np.ndarray | None,
    drop_path_share: float | jax.Array,
    key: jax.Array | None,
    remat: bool,
    split: Mapping[str, int],
) -> jax.Array:
    """x (B, N, D) -> (B, N, D) through a block with each of `params` in turn; `key` is of all dropout.

    The rate of stochastic depth grows linearly from 0 to the block's. Dropout's masks are others than where the blocks
    are written out.
    """
    depth = len(params)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *params)  # (L, ...) each

    def one(x: jax.Array, each: Any) -> tuple[jax.Array, None]:
        held, place, key = each
        rngs = None if key is None else {"dropout": key}
        whole = {"params": gathered(held, split)}
        return block.apply(whole, x, angles, drop_path_share * place, rngs=rngs)[0], None

    # What a loop computes is in no other place, so that nothing needs to be kept apart.
    one = jax.checkpoint(one, prevent_cse=False) if remat else one
    keys = None if key is None else jax.random.split(key, depth)
    return jax.lax.scan(one, x, (stacked, jnp.arange(depth) / max(depth - 1, 1), keys))[0]
