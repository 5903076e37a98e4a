"""Values picked and counted by number. R rows, C planes, M entries, N picks.

Both have two forms, one of which the compiler gets to see: that of the platform for which a program is lowered. Gathers
and scatters are fast on CPUs and GPUs. A TPU takes its gathers entry by entry (256 times the bytes of the values), but
comparisons and matrix products with what they give, which XLA fuses, are fast there; on a CPU they take a hundred times
as long as the gather.
"""

from functools import partial

import jax
import jax.numpy as jnp

# Above this many entries a TPU, too, gathers: comparisons grow with entries times picks.
_MOST_COMPARED = 8192


def lookup(planes: jax.Array, index: jax.Array, offsets: tuple[int, ...] = (0,)) -> tuple[jax.Array, ...]:
    """uint8 (R, C, M), up to 4 planes, at index (R, N) + each offset -> uint8 (R, C, N) for each; all from 0 to M - 1."""
    gathered, compared = partial(_gathered, offsets=offsets), partial(_compared, offsets=offsets)
    if planes.shape[-1] > _MOST_COMPARED:
        return gathered(planes, index)
    return jax.lax.platform_dependent(planes, index, tpu=compared, default=gathered)


def _gathered(planes: jax.Array, index: jax.Array, offsets: tuple[int, ...]) -> tuple[jax.Array, ...]:
    shifts = 8 * jnp.arange(planes.shape[1], dtype=jnp.uint32)[:, None]
    packed = (planes.astype(jnp.uint32) << shifts).sum(axis=1, dtype=jnp.uint32)  # (R, M): a gather for all planes
    found = (jnp.take_along_axis(packed, index.astype(jnp.int32) + k, axis=1, mode="promise_in_bounds") for k in offsets)
    return tuple((pixels[:, None, :] >> shifts).astype(jnp.uint8) for pixels in found)  # (R, C, N) each


def _compared(planes: jax.Array, index: jax.Array, offsets: tuple[int, ...]) -> tuple[jax.Array, ...]:
    # One term of each sum isn't 0, and whole numbers to 255 are exact in bfloat16.
    entries = jnp.arange(planes.shape[-1], dtype=index.dtype)
    chosen = (index[:, None, :] == entries[:, None]).astype(jnp.bfloat16)  # (R, M, N), never in memory
    shifted = jnp.concatenate([jnp.roll(planes, -k, axis=-1) for k in offsets], axis=1)  # (R, K * C, M)
    values = jnp.einsum(
        "rcm,rmn->rcn", shifted.astype(jnp.bfloat16), chosen, preferred_element_type=jnp.bfloat16
    )  # (R, K * C, N)
    return tuple(jnp.split(values.astype(jnp.uint8), len(offsets), axis=1))


def histogram(values: jax.Array) -> jax.Array:
    """uint8 (R, N) -> int32 (R, 256), how many there are of each."""
    return jax.lax.platform_dependent(values, tpu=_compared_counts, default=_scattered_counts)


def _scattered_counts(values: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1, mode="promise_in_bounds"))(values)


def _compared_counts(values: jax.Array) -> jax.Array:
    return (values[:, None, :] == jnp.arange(256, dtype=jnp.uint8)[:, None]).sum(axis=-1, dtype=jnp.int32)
