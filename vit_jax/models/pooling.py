"""Max pooling of windows that don't overlap, whose backward pass is written out (models/ops.py says when, and why)."""

from functools import partial

import jax
import jax.numpy as jnp

from vit_jax.models.backend import Compute, barrier


def max_pool(x: jax.Array, size: int, compute: Compute) -> jax.Array:
    """(B, H, W, C) -> (B, H/size, W/size, C). Pixels that are the greatest together share the gradient.

    By reshaping: the gradient of XLA's own windows is much slower on a CPU.
    """
    return _plain(x, size) if compute.forward_mode else _max_pool(x, size, compute.barriers)


def _plain(x: jax.Array, size: int) -> jax.Array:
    return _windows(x, size).max(axis=(2, 4))


def _windows(x: jax.Array, size: int) -> jax.Array:
    b, h, w, c = x.shape
    return x.reshape(b, h // size, size, w // size, size, c)  # (B, H/size, size, W/size, size, C)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, size: int, barriers: bool) -> jax.Array:
    return _plain(x, size)


def _forward(x: jax.Array, size: int, barriers: bool) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    out = _plain(x, size)
    return out, (x, out)


def _backward(size: int, barriers: bool, saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    # As they are in memory: computed again, a pixel might not be rounded, and equal to none.
    x, out = barrier(saved, barriers)
    is_greatest = _windows(x, size) == out[:, :, None, :, None]
    count = is_greatest.astype(jnp.float32).sum(axis=(2, 4))  # (B, H/size, W/size, C)
    # The division once for each window, not for each of its pixels.
    share = barrier((g / count).astype(x.dtype), barriers)
    return (jnp.where(is_greatest, share[:, :, None, :, None], 0).reshape(x.shape),)


_max_pool.defvjp(_forward, _backward)
