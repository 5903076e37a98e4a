"""Muon (Jordan et al. 2024): momentum, and of each matrix of it the orthogonal one that is near."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.steps.rules import path_of

# Of Jordan's quintic polynomial: steepest at 0 of those that keep singular values near 1 there.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# Dense layers with more than one axis of outputs: models/layers.py, Attention, and models/heads.py, AttentionPool.
# A kernel of four axes is a convolution's everywhere else.
_TO_HEADS = re.compile(r"(^|/)(attention/qkv|pool/(query|kv))/kernel$")


def muon(iterations: int, momentum: float, dtype: Any) -> optax.GradientTransformation:
    """From gradients of kernels to directions: of Nesterov's momentum, each matrix orthogonalised.

    Queries, keys and values are a matrix each, a convolution's kernel one of windows to channels. The iterations
    compute in `dtype`; the state is optax' MuonState.
    """

    def direction(key_path: tuple[Any, ...], average: jax.Array) -> jax.Array:
        x = _as_matrices(key_path, average)  # (G, I, O)
        rows, columns = x.shape[1:]
        # A matrix wider than high moves further, so that its outputs change as much (Jordan 2024).
        x = orthogonalised(x, iterations, dtype) * math.sqrt(max(1.0, columns / rows))
        return jnp.moveaxis(x, 0, 1).reshape(average.shape)

    return optax.chain(
        # Without an iteration it leaves each matrix of the momentum as it is, up to a factor.
        scale_by_muon(ns_steps=0, beta=momentum, weight_dimension_numbers=_whole),
        optax.stateless(lambda averages, _: jax.tree_util.tree_map_with_path(direction, averages)),
    )


def orthogonalised(matrices: jax.Array, iterations: int, dtype: Any) -> jax.Array:
    """(G, I, O) -> (G, I, O) float32: of each U S V', about U V', by Newton-Schulz iterations in `dtype`.

    With enough iterations the singular values lie between 0.7 and 1.2; with few, small ones stay smaller. In bfloat16
    as Jordan's own. No product has a left side that is transposed (models/backend.py, multiplies_rows).
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.swapaxes(1, 2) if is_tall else matrices  # (G, R, C), R <= C
    x = (x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)).astype(dtype)
    p, q, r = _COEFFICIENTS
    for _ in range(iterations):
        a = jnp.einsum("grc,gsc->grs", x, x)  # (G, R, R)
        b = q * a + r * jnp.einsum("grs,gts->grt", a, a)
        x = p * x + jnp.einsum("grs,gsc->grc", b, x)
    return (x.swapaxes(1, 2) if is_tall else x).astype(jnp.float32)


def _as_matrices(key_path: tuple[Any, ...], kernel: jax.Array) -> jax.Array:
    """(G, I, O): the matrices that a kernel consists of."""
    if _TO_HEADS.search(path_of(key_path)):  # (D, K, E): one; (D, 3, K, E) to queries, keys and values: one each
        inputs, *_ = kernel.shape
        outputs = math.prod(kernel.shape[-2:])
        return jnp.moveaxis(kernel.reshape(inputs, -1, outputs), 1, 0)
    return kernel.reshape(1, -1, kernel.shape[-1])  # (D, F); of a convolution (H, W, I, O): (H*W*I, O)


def _whole(params: Any) -> Any:
    """Which axes optax takes for rows and columns: of every kernel, all but the last, and the last."""
    return jax.tree.map(lambda x: MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,)), params)
