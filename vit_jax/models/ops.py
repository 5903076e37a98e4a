"""Operations whose backward pass is written out, because the one that JAX derives costs a CPU more memory traffic.

Each equals its plain formula within rounding (tests/models/test_ops.py). The barriers keep XLA from undoing it: from
storing for the backward pass what is cheaper computed again, and from writing row statistics out at the size of the
whole array. M rows, D and F features.

A backward pass of one's own leaves JAX no rule for forward mode (jax.jvp, jax.linearize): where `compute.forward_mode`
says so, the plain formulas are computed. The gradients have derivatives of every mode either way.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from vit_jax.models.backend import Compute, barrier


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, compute: Compute) -> jax.Array:
    """x (..., D) @ kernel (D, F) + bias (F,) -> (..., F), in `compute.dtype`; kernel and bias are float32.

    One plain matmul of the flattened rows: from (B, N, D), XLA's CPU would compute the kernel's gradient as a batched
    one. That gradient comes out in the kernel's own layout. JAX's rule gives the transpose, and where that is summed
    over devices first, XLA can't fold it away: the optimizer then reads it against the grain, which for a large kernel
    costs more than the matmul. The bias' gradient is summed in float32.
    """
    if compute.forward_mode:
        return _dense_forward(x, kernel, bias, compute)[0]
    return _dense(x, kernel, bias, compute)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, compute: Compute) -> jax.Array:
    return _dense_forward(x, kernel, bias, compute)[0]


def _dense_forward(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, compute: Compute) -> tuple[jax.Array, Any]:
    rounded = kernel.astype(compute.dtype)
    out = jnp.matmul(x.astype(compute.dtype).reshape(-1, x.shape[-1]), rounded)  # (M, F)
    if bias is not None:
        out = out + bias.astype(compute.dtype)
    return out.reshape(*x.shape[:-1], -1), (x, rounded, bias is not None)


def _dense_backward(compute: Compute, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, kernel, has_bias = saved
    g = g.reshape(-1, g.shape[-1])  # (M, F)
    dx = jax.lax.dot_general(g, kernel, (((1,), (1,)), ((), ()))).reshape(x.shape)  # (..., D)
    dbias = g.astype(jnp.float32).sum(axis=0) if has_bias else None
    return dx.astype(x.dtype), kernel_gradient(x.astype(compute.dtype), g, compute), dbias


def low_rank(x: jax.Array, a: jax.Array, b: jax.Array, compute: Compute) -> jax.Array:
    """x (..., D) by the product of a (G, D, R) and b (G, R, F / G), float32, of rank R -> (..., F), in `compute.dtype`.

    The outputs' G parts have a product each: Hu et al. 2022, "LoRA", of queries, keys and values.
    """
    rows = x.astype(compute.dtype).reshape(-1, x.shape[-1])  # (M, D)
    inner = jnp.einsum("md,gdr->mgr", rows, a.astype(compute.dtype))  # (M, G, R)
    return jnp.einsum("mgr,grf->mgf", inner, b.astype(compute.dtype)).reshape(*x.shape[:-1], -1)  # (..., F)


def kernel_gradient(x: jax.Array, g: jax.Array, compute: Compute) -> jax.Array:
    """x (..., D) and the gradient (..., F) of x @ kernel -> the kernel's gradient, (D, F) float32."""
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])  # (M, D), (M, F)
    if compute.rows_alone:
        columns = with_layout_constraint(x.T, Layout((0, 1)))  # (D, M), laid out anew
        return jnp.matmul(columns, g, preferred_element_type=jnp.float32)
    return jax.lax.dot_general(x, g, (((0,), (0,)), ((), ()))).astype(jnp.float32)


_dense.defvjp(_dense_forward, _dense_backward)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, compute: Compute) -> jax.Array:
    """Layer normalisation (Ba et al. 2016) over the last axis of x (..., D): in float32, given back in x's dtype.

    scale and bias are (D,) float32. Only x and two numbers a row are kept for the backward pass.
    """
    if compute.forward_mode:
        return _layer_norm_forward(x, scale, bias, eps, compute.barriers)[0]
    return _layer_norm(x, scale, bias, eps, compute.barriers)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, barriers: bool) -> jax.Array:
    return _layer_norm_forward(x, scale, bias, eps, barriers)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, barriers: bool
) -> tuple[jax.Array, Any]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axis=-1, keepdims=True)
    # E[x^2] - E[x]^2, as Flax has it: one pass over x.
    variance = jnp.maximum((x32 * x32).mean(axis=-1, keepdims=True) - mean * mean, 0)
    mean, inverse = barrier((mean, jax.lax.rsqrt(variance + eps)), barriers)  # (..., 1) each
    y = (x32 - mean) * inverse * scale + bias
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _layer_norm_backward(
    eps: float, barriers: bool, saved: Any, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    x, g = barrier((x, g), barriers)
    normal, g = (x.astype(jnp.float32) - mean) * inverse, g.astype(jnp.float32)
    scaled = g * scale
    shift, slope = barrier(
        (scaled.mean(axis=-1, keepdims=True), (scaled * normal).mean(axis=-1, keepdims=True)), barriers
    )  # (..., 1) each
    dx = inverse * (scaled - shift - normal * slope)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (g * normal).sum(axis=rows), g.sum(axis=rows)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
