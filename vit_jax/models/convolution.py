"""A convolution of (B, H, W, C) images, as matmuls where XLA has no fast one: on some CPUs (models/backend.py).

Its convolutions gain nothing from matrix units, and little from AVX2. Every output pixel's window laid out as a row
(im2col: Chellapilla et al. 2006), the three products of a step are matmuls. S is the kernel's size, O the channels
coming out.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models import ops
from vit_jax.models.backend import Compute


def convolution(x: jax.Array, kernel: jax.Array, stride: int, compute: Compute) -> jax.Array:
    """(B, H, W, C) * kernel (S, S, C, O) float32 -> (B, H / stride, W / stride, O) in compute.dtype, padded "SAME"."""
    if compute.windows:
        return _by_rows(x.astype(compute.dtype), kernel, stride, compute)
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x.astype(compute.dtype), kernel.astype(compute.dtype), (stride, stride), "SAME", dimension_numbers=layout
    )


def _windows(x: jax.Array, size: int, stride: int) -> jax.Array:
    """(B, H, W, C) -> (B, H / stride, W / stride, S*S*C): the window around each output pixel, zeros outside."""
    (top, left), (bottom, right) = zip(
        *jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME"), strict=True
    )
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    last = [(side - size) // stride * stride + 1 for side in x.shape[1:3]]
    parts = [x[:, i : i + last[0] : stride, j : j + last[1] : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(parts, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_rows(x: jax.Array, kernel: jax.Array, stride: int, compute: Compute) -> jax.Array:
    return _forward(x, kernel, stride, compute)[0]


def _forward(x: jax.Array, kernel: jax.Array, stride: int, compute: Compute) -> tuple[jax.Array, Any]:
    rounded = kernel.astype(compute.dtype)
    windows = _windows(x, len(kernel), stride)  # (B, H', W', S*S*C)
    return jnp.matmul(windows, rounded.reshape(-1, kernel.shape[-1])), (x, rounded)  # (B, H', W', O)


def _backward(stride: int, compute: Compute, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, _, channels, features = kernel.shape
    # The windows are copied again: kept, they would be S*S times as large as x.
    dkernel = ops.kernel_gradient(_windows(x, size, stride), g, compute).reshape(kernel.shape)  # (S, S, C, O)
    if stride == 1 and size % 2:
        # A convolution again, by the kernel turned around: nothing is added up but by the matmul.
        turned = kernel[::-1, ::-1].swapaxes(2, 3).reshape(-1, channels)  # (S*S*O, C)
        return jnp.matmul(_windows(g, size, 1), turned), dkernel  # (B, H, W, C)
    dwindows = jnp.einsum("bhwo,co->bhwc", g, kernel.reshape(-1, features))  # (B, H', W', S*S*C)
    return jax.vjp(lambda x: _windows(x, size, stride), x)[1](dwindows)[0], dkernel


_by_rows.defvjp(_forward, _backward)
