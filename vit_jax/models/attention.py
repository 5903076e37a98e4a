"""Softmax attention of queries, keys and values. B batch, N tokens, K heads, E head dim, G examples at a time.

`plain` is the formula. `recomputed` is the same for accelerators and a CPU's matrix units. `chunked` is the same for
other CPUs: a few examples after the other, so that their (N, N) scores stay in the cache, as FlashAttention (Dao et al.
2022) does for blocks of tokens. The backward passes compute the scores again from the log of each row's sum instead of
reading them back. As in ops.py, forward mode exists for `plain` alone.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.dropout import index_of, keep


def slices(qkv: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `split`: costs least on a GPU where nothing is done to queries and keys before their attention."""
    q, k, v = (qkv[:, :, i] for i in range(3))
    return q, k, v


def split(qkv: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """qkv (B, N, 3, K, E) -> queries, keys and values, (B, N, K, E) each.

    Split where the last axis is long: a TPU pads short ones to 128, and the gradients of slices would be padded to the
    size of the whole, and added.
    """
    b, n, _, heads, e = qkv.shape
    parts = jax.lax.split(qkv.reshape(b, n, -1), (heads * e,) * 3, axis=2)  # (B, N, K*E) each
    q, k, v = (part.reshape(b, n, heads, e) for part in parts)
    return q, k, v


def weights_of(q: jax.Array, k: jax.Array) -> jax.Array:
    """q, k (B, N, K, E) -> attention weights (B, K, N, N) float32.

    Scores and softmax are in float32: in bfloat16 they cost three times the error.
    """
    return jax.nn.softmax(_scores_of(q, k))  # (B, K, N, N)


def _scores_of(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("bnke,bmke->bknm", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)  # (B, K, N, N)


def plain(q: jax.Array, k: jax.Array, v: jax.Array, words: jax.Array, rate: float) -> jax.Array:
    """q, k, v (B, N, K, E) -> (B, N, K, E). `rate` of the weights is dropped, by the mask of `words` (2,) uint32."""
    weights = weights_of(q, k)
    return jnp.einsum("bknm,bmke->bnke", _dropped(weights, words, rate).astype(v.dtype), v)  # (B, N, K, E)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def recomputed(q: jax.Array, k: jax.Array, v: jax.Array, words: jax.Array, rate: float) -> jax.Array:
    """As `plain`, but without the weights among what is kept for the backward pass: that computes them again.

    Their (N, N) for each head in float32 would be most of what a TPU writes and reads in a whole block.
    """
    return _recomputed_forward(q, k, v, words, rate)[0]


def _recomputed_forward(q: jax.Array, k: jax.Array, v: jax.Array, words: jax.Array, rate: float) -> Any:
    # Else XLA leaves the rounding of normalised queries and keys out, and keeps them at twice the size.
    q, k, v = jax.lax.optimization_barrier((q, k, v))
    scores = _scores_of(q, k)  # (B, K, N, N)
    top = scores.max(axis=-1, keepdims=True)  # (B, K, N, 1)
    p = jnp.exp(scores - top)  # (B, K, N, N)
    total = p.sum(axis=-1, keepdims=True)  # (B, K, N, 1)
    out = jnp.einsum("bknm,bmke->bnke", _dropped(p / total, words, rate).astype(v.dtype), v)  # (B, N, K, E)
    return out, (q, k, v, words, out, top + jnp.log(total))


def _dropped(weights: jax.Array, words: jax.Array, rate: float) -> jax.Array:
    """(B, K, N, N), `rate` of them 0 and the others scaled up."""
    return jnp.where(keep(words, rate, index_of(weights.shape)), weights / (1 - rate), 0) if rate else weights


def _recomputed_backward(rate: float, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, words, out, log_total = saved
    scale = q.shape[-1] ** -0.5
    p = jnp.exp(_scores_of(q, k) - log_total)  # (B, K, N, N)
    dp = jnp.einsum("bnke,bmke->bknm", g, v, preferred_element_type=jnp.float32)  # (B, K, N, N)
    dv = jnp.einsum("bknm,bnke->bmke", _dropped(p, words, rate).astype(g.dtype), g)  # (B, N, K, E)
    # The softmax subtracts each row's sum of p * dp, which is that of out * g.
    row = (g.astype(jnp.float32) * out).sum(axis=-1).swapaxes(1, 2)[..., None]  # (B, K, N, 1)
    ds = (p * (_dropped(dp, words, rate) - row)).astype(q.dtype)  # (B, K, N, N)
    dq = jnp.einsum("bknm,bmke->bnke", ds, k) * scale  # (B, N, K, E)
    dk = jnp.einsum("bknm,bnke->bmke", ds, q) * scale  # (B, N, K, E)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv, None


recomputed.defvjp(_recomputed_forward, _recomputed_backward)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """q, k, v (B, N, K, E) half precision -> (B, N, K, E) by cuDNN's fused kernel, on an NVIDIA GPU."""
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


# Rounded once, where a chunk is put into its place.
_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def chunked(qkv: jax.Array, words: jax.Array, rate: float, size: int) -> jax.Array:
    """As `plain` of the parts of qkv (B, N, 3, K, E), `size` examples at a time; B must be a multiple of `size`.

    Each chunk takes every (B / size)-th example. So where the batch is split over devices in equal runs, and `size`
    is a multiple of their number, every device works on its own examples in every chunk.
    """
    return _forward(qkv, words, rate, size)[0]


def _split(x: jax.Array, size: int) -> jax.Array:
    return x.reshape(size, -1, *x.shape[1:])  # (G, B/G, ...): chunk i is [:, i]


def _get(x: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False)  # (G, ...)


def _set(x: jax.Array, i: jax.Array, chunk: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, chunk.astype(x.dtype), i, axis=1)


def _heads(chunk: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(G, N, 3, K, E) -> q, scaled, k and v, (G, K, N, E) each."""
    q, k, v = (chunk[:, :, i].swapaxes(1, 2) for i in range(3))
    return q * q.shape[-1] ** -0.5, k, v


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return _product("gkne,gkme->gknm", q, k)  # (G, K, N, N)


def _keep(
    words: jax.Array, rate: float, i: jax.Array, shape: tuple[int, ...], chunks: int, turned: bool = False
) -> jax.Array:
    """The part of `plain`'s mask that belongs to chunk i: (G, K, N, N), queries before keys unless `turned`."""
    example = math.prod(shape[1:])
    steps = [chunks * example, shape[2] * shape[3], *((1, shape[3]) if turned else (shape[3], 1))]
    return keep(words, rate, index_of(shape, steps) + i.astype(jnp.uint32) * jnp.uint32(example % 2**32))


def _forward(qkv: jax.Array, words: jax.Array, rate: float, size: int) -> tuple[jax.Array, Any]:
    chunks = _split(qkv, size)  # (G, B/G, N, 3, K, E)
    _, count, n, _, heads, e = chunks.shape

    def body(i: jax.Array, carried: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, k, v = _heads(_get(chunks, i))
        scores = _scores(q, k)
        top = scores.max(axis=-1, keepdims=True)  # (G, K, N, 1)
        p = jnp.exp(scores - top)
        total = p.sum(axis=-1, keepdims=True)  # (G, K, N, 1)
        if rate:
            p = jnp.where(_keep(words, rate, i, p.shape, count), p, 0)
        out = _product("gknm,gkme->gkne", p.astype(v.dtype), v) * (1 / ((1 - rate) * total))  # (G, K, N, E)
        return _set(carried[0], i, out.swapaxes(1, 2)), _set(carried[1], i, top + jnp.log(total))

    out = jnp.zeros((size, count, n, heads, e), qkv.dtype)  # (G, B/G, N, K, E)
    log_total = jnp.zeros((size, count, heads, n, 1), jnp.float32)
    out, log_total = jax.lax.fori_loop(0, count, body, (out, log_total))
    return out.reshape(-1, n, heads, e), (qkv, words, out, log_total)  # (B, N, K, E)


def _backward(rate: float, size: int, saved: Any, g: jax.Array) -> tuple[jax.Array, None]:
    qkv, words, out, log_total = saved
    g, scale = _split(g, size), qkv.shape[-1] ** -0.5

    # With keys before queries two of the gradients are sums along the rows of the scores, and one is along the columns.
    # XLA's CPU takes several times as long for the latter as for the former and for laying them out anew.
    def body(i: jax.Array, chunks: jax.Array) -> jax.Array:
        q, k, v = _heads(_get(chunks, i))
        do = _get(g, i).swapaxes(1, 2) / (1 - rate)  # (G, K, N, E)
        p = jnp.exp(_scores(k, q) - _get(log_total, i).swapaxes(2, 3))  # (G, K, N, N)
        dp = _product("gkme,gkne->gkmn", v, do)  # (G, K, N, N)
        dropped = p
        if rate:
            mask = _keep(words, rate, i, p.shape, chunks.shape[1], turned=True)
            dropped, dp = jnp.where(mask, p, 0), jnp.where(mask, dp, 0)
        dv = _product("gkmn,gkne->gkme", dropped.astype(do.dtype), do)  # (G, K, N, E)
        # The softmax subtracts each row's sum of p * dp, which is that of out * g.
        row = (_get(g, i).astype(jnp.float32) * _get(out, i)).sum(axis=-1).swapaxes(1, 2)  # (G, K, N)
        ds = (p * (dp - row[:, :, None])).astype(q.dtype)  # (G, K, N, N)
        dk = _product("gkmn,gkne->gkme", ds, q)  # (G, K, N, E)
        dq = _product("gknm,gkme->gkne", jax.lax.optimization_barrier(ds.swapaxes(2, 3)), k) * scale  # (G, K, N, E)
        # Each chunk of the inputs gives place to its gradient: the loop needs no other memory.
        return _set(chunks, i, jnp.stack([t.swapaxes(1, 2) for t in (dq, dk, dv)], axis=2))

    chunks = _split(qkv, size)
    return jax.lax.fori_loop(0, chunks.shape[1], body, chunks).reshape(qkv.shape), None


chunked.defvjp(_forward, _backward)
