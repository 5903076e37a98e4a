"""Dropout with masks that cost nearly nothing: a hash of each entry's index, computed where the mask is used.

A counter-based generator's bits would be written out and read back and cost more than a whole block. The hash is two
rounds of a 32-bit finalizer, and fuses into the loop that uses it. The masks' balance and their independence between
entries, keys and layers are tested (tests/models/test_layers.py); they are meant for dropout, not for statistics.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.system.hashing import fmix32
from vit_jax.system.sharding import first_of


def words_of(key: jax.Array) -> jax.Array:
    """Two random words (2,) uint32, all that a mask depends on besides each entry's index."""
    return jax.random.bits(key, (2,), jnp.uint32)


def index_of(shape: Sequence[int], steps: Sequence[int] | None = None) -> jax.Array:
    """The number of each entry of an array of `shape`, uint32, modulo 2**32; steps between neighbours on each axis.

    Without `steps`, entries are numbered in order. Those of a device that computes for itself are numbered as its part
    of the whole batch's (axis 0): a mask doesn't depend on where it is computed.
    """
    steps = steps or [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    index = jnp.full(shape, first_of(shape[0]), jnp.uint32) * np.uint32(steps[0] % 2**32)
    for axis, step in enumerate(steps):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(step % 2**32)
    return index


def keep(words: jax.Array, rate: float | jax.Array, index: jax.Array) -> jax.Array:
    """A boolean mask of the shape of `index`, each entry True with probability 1 - rate; 0 <= rate < 1."""
    threshold = jnp.uint32(rate * 2.0**32) if isinstance(rate, jax.Array) else np.uint32(rate * 2**32)
    return fmix32(fmix32(index ^ words[0]) ^ words[1]) >= threshold


class Dropout(nn.Module):
    """Sets entries to 0 with probability `rate` and scales the others up (Srivastava et al. 2014).

    `broadcast_axes` share one decision: all but the batch axis for stochastic depth (Huang et al. 2016).
    """

    rate: float
    train: bool
    broadcast_axes: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, share: float | jax.Array = 1.0) -> jax.Array:
        """`share` of the rate is in force; a traced one may change from step to step."""
        if not self.train or self.rate == 0:
            return x
        rate = self.rate * share
        shape = tuple(1 if axis in self.broadcast_axes else size for axis, size in enumerate(x.shape))
        mask = keep(words_of(self.make_rng("dropout")), rate, index_of(shape))
        return jnp.where(mask, (x / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))
