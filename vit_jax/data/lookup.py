"""Values picked and counted by number. R rows, C planes, M entries, N picks, K offsets.

Both have two forms, one of which the compiler gets to see: that of the platform for which a program is lowered. Gathers
and scatters are fast on CPUs and GPUs, but a TPU takes theirs entry by entry. Comparisons, and matrix products with
what they give, are fast there, as XLA fuses them; a CPU would take tens of times as long for them.
"""

from functools import partial

import jax
import jax.numpy as jnp

# Above this many entries a TPU, too, gathers: comparisons grow with entries times picks.
_MOST_COMPARED = 8192


def lookup(planes: jax.Array, index: jax.Array, offsets: tuple[int, ...] = (0,)) -> tuple[jax.Array, ...]:
    """(R, C, M), uint8 or float32, at index (R, N) + each offset -> (R, C, N) for each.

    `index` is from 0 to M - 1. Where an offset leads beyond the last entry, any of the entries is given.
    """
    if planes.shape[-1] > _MOST_COMPARED:
        return gathered(planes, index, offsets)
    forms = {"tpu": partial(compared, offsets=offsets), "default": partial(gathered, offsets=offsets)}
    return jax.lax.platform_dependent(planes, index, **forms)


def gathered(planes: jax.Array, index: jax.Array, offsets: tuple[int, ...]) -> tuple[jax.Array, ...]:
    index = index.astype(jnp.int32)
    last = planes.shape[-1] - 1
    picks = [jnp.minimum(index + offset, last) if offset else index for offset in offsets]
    if planes.dtype != jnp.uint8:
        rows = planes.swapaxes(1, 2)  # (R, M, C)
        found = [jnp.take_along_axis(rows, pick[..., None], axis=1, mode="promise_in_bounds") for pick in picks]
        return tuple(pixels.swapaxes(1, 2) for pixels in found)
    shifts = 8 * jnp.arange(planes.shape[1], dtype=jnp.uint32)[:, None]
    packed = (planes.astype(jnp.uint32) << shifts).sum(axis=1, dtype=jnp.uint32)  # (R, M): one gather for all planes
    found = [jnp.take_along_axis(packed, pick, axis=1, mode="promise_in_bounds") for pick in picks]
    return tuple((pixels[:, None, :] >> shifts).astype(jnp.uint8) for pixels in found)


def compared(planes: jax.Array, index: jax.Array, offsets: tuple[int, ...]) -> tuple[jax.Array, ...]:
    shifted = jnp.concatenate([jnp.roll(planes, -offset, axis=-1) for offset in offsets], axis=1)  # (R, K * C, M)
    # One term of each sum isn't 0. Whole numbers to 255 are exact in bfloat16, any float32 is in three of them.
    parts = [shifted.astype(jnp.float32)]
    for _ in range(0 if planes.dtype == jnp.uint8 else 2):
        head = jax.lax.reduce_precision(parts[-1], exponent_bits=8, mantissa_bits=7)
        parts[-1:] = [head, parts[-1] - head]
    values = jnp.concatenate(parts, axis=1).astype(jnp.bfloat16)
    entries = jnp.arange(planes.shape[-1], dtype=index.dtype)
    chosen = (index[:, None, :] == entries[:, None]).astype(jnp.bfloat16)  # (R, M, N), never in memory
    found = jnp.einsum("rcm,rmn->rcn", values, chosen, preferred_element_type=jnp.bfloat16)
    whole = jnp.stack(jnp.split(found, len(parts), axis=1)).astype(jnp.float32).sum(axis=0)  # (R, K * C, N)
    return tuple(jnp.split(whole.astype(planes.dtype), len(offsets), axis=1))


def histogram(values: jax.Array) -> jax.Array:
    """uint8 (R, N) -> int32 (R, 256), how many there are of each."""
    return jax.lax.platform_dependent(values, tpu=compared_counts, default=scattered_counts)


def scattered_counts(values: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1, mode="promise_in_bounds"))(values)


def compared_counts(values: jax.Array) -> jax.Array:
    return (values[:, None, :] == jnp.arange(256, dtype=jnp.uint8)[:, None]).sum(axis=-1, dtype=jnp.int32)
