"""Muon (Jordan et al. 2024): momentum, and of each matrix of it the orthogonal one that is near."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.models.encoder import STACKED
from vit_jax.steps.rules import path_of
from vit_jax.system.sharding import of_each_device

# Of Jordan's quintic polynomial: steepest at 0 of those that keep singular values near 1 there.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# Dense layers with more than one axis of outputs: models/layers.py, Attention, and models/heads.py, AttentionPool.
# A kernel of four axes is a convolution's everywhere else.
_TO_HEADS = re.compile(r"(^|/)(attention/qkv|pool/(query|kv))/kernel$")


def muon(iterations: int, momentum: float, dtype: Any, mesh: Mesh | None = None) -> optax.GradientTransformation:
    """From gradients of kernels to directions: of Nesterov's momentum, each matrix orthogonalised.

    Queries, keys and values are a matrix each, a convolution's kernel one of windows to channels. The iterations
    compute in `dtype`; the state is optax' MuonState. The devices of a `mesh` share the kernels out among them; else
    each computes all.
    """

    def direction(key_path: tuple[Any, ...], average: jax.Array) -> jax.Array:
        x = _as_matrices(key_path, average)  # (L, G, I, O)
        rows, columns = x.shape[2:]
        # A matrix wider than high moves further, so that its outputs change as much (Jordan 2024).
        flat = orthogonalised(x.reshape(-1, rows, columns), iterations, dtype) * math.sqrt(max(1.0, columns / rows))
        return jnp.moveaxis(flat.reshape(x.shape), 1, 2).reshape(average.shape)

    def directions(averages: Any, _: Any) -> Any:
        if mesh is None or mesh.size == 1:
            return jax.tree_util.tree_map_with_path(direction, averages)
        return _shared_out(direction, averages, mesh)

    return optax.chain(
        # Without an iteration it leaves each matrix of the momentum as it is, up to a factor.
        scale_by_muon(ns_steps=0, beta=momentum, weight_dimension_numbers=_whole),
        optax.stateless(directions),
    )


def _shared_out(direction: Callable[[tuple[Any, ...], jax.Array], jax.Array], averages: Any, mesh: Mesh) -> Any:
    """`direction` of each kernel, computed by one device of the mesh and given to all."""
    kernels, tree = jax.tree_util.tree_flatten_with_path(averages)
    owners = _dealt([_work(path, x) for path, x in kernels], mesh.size)

    def part_of(device: int) -> Callable[[list[jax.Array]], list[jax.Array]]:
        return lambda values: [
            direction(path, x) if owner == device else jnp.zeros_like(x)
            for (path, _), x, owner in zip(kernels, values, owners, strict=True)
        ]

    def own(values: list[jax.Array]) -> list[jax.Array]:
        parts, axes = [part_of(device) for device in range(mesh.size)], mesh.axis_names
        return jax.lax.psum(jax.lax.switch(jax.lax.axis_index(axes), parts, values), axes)

    values = [x for _, x in kernels]
    return jax.tree.unflatten(tree, of_each_device(own, mesh, takes=(False,))(values))


def _work(key_path: tuple[Any, ...], kernel: jax.Array) -> float:
    """Multiply-adds of an iteration, up to a factor."""
    blocks, count, *sides = _as_matrices(key_path, kernel).shape
    return blocks * count * min(sides) ** 2 * (2 * max(sides) + min(sides))


def _dealt(work: Sequence[float], hands: int) -> list[int]:
    """To which hand each piece of work goes: the largest first, each to the one that has least (Graham 1969)."""
    loads, owners = [0.0] * hands, [0] * len(work)
    for i in sorted(range(len(work)), key=lambda i: -work[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += work[i]
    return owners


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
    """(L, G, I, O): the G matrices that a kernel consists of, in each of L blocks where it is stacked of theirs."""
    path = path_of(key_path)
    blocks, shape = (kernel.shape[0], kernel.shape[1:]) if path.startswith(STACKED) else (1, kernel.shape)
    if _TO_HEADS.search(path):  # (D, K, E): one; (D, 3, K, E) to queries, keys and values: one each
        inputs, outputs = shape[0], math.prod(shape[-2:])
        return jnp.moveaxis(kernel.reshape(blocks, inputs, -1, outputs), 2, 1)
    return kernel.reshape(blocks, 1, -1, shape[-1])  # (D, F); of a convolution (H, W, I, O): (H*W*I, O)


def _whole(params: Any) -> Any:
    """Which axes optax takes for rows and columns: of every kernel, all but the last, and the last."""
    return jax.tree.map(lambda x: MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,)), params)
