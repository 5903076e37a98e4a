"""Each fast operation is its plain formula: values and gradients, in every dtype, on one device and on eight."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vit_jax.models import attention, ops
from vit_jax.models.backend import Compute
from vit_jax.system.sharding import batch_sharding, replicated

RATES = [0.0, 0.25]
CPU = Compute(barriers=True)


def normal(seed, *shape, dtype=jnp.float32):
    return np.random.RandomState(seed).normal(size=shape).astype(dtype)


def agree(fast, plain, *args, tolerance=1e-5):
    """Asserts equal values and gradients; returns them."""

    def both(f):
        out, vjp = jax.vjp(f, *args)
        return out, vjp(normal(5, *out.shape, dtype=out.dtype))

    results = [jax.jit(lambda f=f: both(f))() for f in (fast, plain)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert a.dtype == b.dtype
        a, b = np.float32(a), np.float32(b)
        scale = max(1.0, np.abs(b).max())
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)
    return results[0]


def test_matmul():
    args = normal(0, 48, 12), normal(1, 12, 20)
    agree(lambda x, kernel: ops.matmul(x, kernel, CPU), lambda x, kernel: x @ kernel, *args)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.02)])
def test_gelu(dtype, tolerance):
    def plain(x):
        return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(dtype)

    def fast(x):
        return ops.gelu(x, CPU)

    small = jnp.linspace(-1.0, 1.0, 2001).astype(dtype)
    agree(fast, plain, small, tolerance=tolerance / 4)
    tail = jnp.linspace(-9.0, -1.0, 2001).astype(dtype)  # where Phi(x) is near 0 and so is the result
    agree(fast, plain, tail, tolerance=tolerance / 4)
    out, _ = agree(fast, plain, jnp.linspace(-40.0, 40.0, 2001).astype(dtype), tolerance=tolerance)
    assert np.isfinite(np.float32(out)).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_layer_norm(dtype, tolerance):
    x = normal(0, 4, 7, 24, dtype=dtype) * 3 + 1
    plain = nn.LayerNorm(epsilon=1e-6, dtype=dtype)

    def flax(x, scale, bias):
        return plain.apply({"params": {"scale": scale, "bias": bias}}, x)

    args = x, 1 + 0.1 * normal(1, 24), normal(2, 24)
    agree(lambda *args: ops.layer_norm(*args, 1e-6, CPU), flax, *args, tolerance=tolerance)


def test_layer_norm_of_constant_rows_is_finite():
    x = jnp.full((2, 3, 16), 1000.0)
    gradient = jax.jit(jax.grad(lambda x: ops.layer_norm(x, jnp.ones(16), jnp.zeros(16), 1e-6, CPU).sum()))(x)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("size", "dtype", "tolerance"),
    [(1, jnp.float32, 1e-5), (4, jnp.float32, 1e-5), (12, jnp.float32, 1e-5), (4, jnp.bfloat16, 0.05)],
)
def test_chunked_attention(rate, size, dtype, tolerance):
    qkv, words = normal(0, 12, 5, 3, 2, 8, dtype=dtype), jnp.array([7, 11], jnp.uint32)
    agree(
        lambda qkv: attention.chunked(qkv, words, rate, size),
        lambda qkv: attention.plain(*attention.split(qkv), words, rate),
        qkv,
        tolerance=tolerance,
    )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_attention_with_recomputed_weights(rate, dtype, tolerance):
    qkv, words = normal(0, 12, 5, 3, 2, 8, dtype=dtype), jnp.array([7, 11], jnp.uint32)
    agree(
        lambda qkv: attention.recomputed(*attention.split(qkv), words, rate),
        lambda qkv: attention.plain(*attention.split(qkv), words, rate),
        qkv,
        tolerance=tolerance,
    )


@pytest.mark.parametrize("rate", RATES)
def test_chunked_attention_over_devices_sends_nothing_between_them(rate):
    """Every device works on its own examples: the compiled gradient has no collective, and the mask is the global."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    words = jax.device_put(jnp.array([7, 11], jnp.uint32), replicated(mesh))
    qkv = normal(0, 32, 5, 3, 2, 8)

    def gradient(f):
        return lambda qkv: jax.grad(lambda qkv: (f(qkv) ** 2).sum())(qkv)

    fast = jax.jit(gradient(lambda qkv: attention.chunked(qkv, words, rate, 16)), out_shardings=batch_sharding(mesh))
    spread = jax.device_put(qkv, batch_sharding(mesh))
    text = fast.lower(spread).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    plain = gradient(lambda qkv: attention.plain(*attention.split(qkv), jnp.array([7, 11], jnp.uint32), rate))
    np.testing.assert_allclose(fast(spread), jax.jit(plain)(qkv), atol=1e-5)


def test_scores_far_apart_do_not_overflow():
    qkv, words = normal(0, 8, 5, 3, 2, 8) * 100, jnp.zeros(2, jnp.uint32)  # scores up to 100,000
    plain = jax.jit(lambda qkv: attention.plain(*attention.split(qkv), words, 0.0))(qkv)
    for other in (
        lambda qkv: attention.chunked(qkv, words, 0.0, 4),
        lambda qkv: attention.recomputed(*attention.split(qkv), words, 0.0),
    ):
        np.testing.assert_allclose(jax.jit(other)(qkv), plain, rtol=1e-4, atol=1e-2)
        assert np.isfinite(jax.jit(jax.grad(lambda qkv, other=other: other(qkv).sum()))(qkv)).all()
