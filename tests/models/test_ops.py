"""Each fast operation is its plain formula: values and gradients, in every dtype, on one device and on eight."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vit_jax.config import ModelConfig, StemConfig
from vit_jax.models import VisionTransformer, attention, ops, resolve
from vit_jax.models.activations import ACTIVATIONS
from vit_jax.models.backend import Compute
from vit_jax.models.convolution import convolution
from vit_jax.models.pooling import max_pool
from vit_jax.system.sharding import batch_sharding, replicated

RATES = [0.0, 0.25]
CPU = Compute(barriers=True)
AMX = Compute(jnp.bfloat16, barriers=True, rows_alone=True, windows=True)
AVX2 = Compute(barriers=True, windows=True)


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


@pytest.mark.parametrize(
    ("compute", "tolerance"),
    [(CPU, 1e-5), (AMX, 0.02), (dataclasses.replace(AMX, rows_alone=False), 0.02)],
    ids=["float32", "rows", "bfloat16"],
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_dense(compute, tolerance, has_bias):
    x, kernel, bias = normal(0, 6, 8, 12, dtype=compute.dtype), normal(1, 12, 20), normal(2, 20)

    def plain(x, kernel, bias=None):
        out = jnp.einsum("bnd,df->bnf", x, kernel.astype(x.dtype))
        return out if bias is None else out + bias.astype(x.dtype)

    args = (x, kernel, bias) if has_bias else (x, kernel)
    agree(lambda x, kernel, bias=None: ops.dense(x, kernel, bias, compute), plain, *args, tolerance=tolerance)


@pytest.mark.parametrize(("compute", "tolerance"), [(AMX, 0.02), (AVX2, 1e-5)])
@pytest.mark.parametrize(("stride", "size", "shape"), [(1, 3, (8, 6)), (2, 3, (7, 6)), (1, 2, (5, 4)), (2, 1, (4, 4))])
def test_a_convolution_by_windows(stride, size, shape, compute, tolerance):
    x, kernel = normal(0, 2, *shape, 5, dtype=compute.dtype), normal(1, size, size, 5, 4)

    def by(compute):
        return lambda x, kernel: convolution(x, kernel, stride, compute)

    plain = dataclasses.replace(compute, rows_alone=False, windows=False)
    agree(by(compute), by(plain), x, kernel, tolerance=tolerance)


@pytest.mark.parametrize("rows_alone", [True, False])
def test_what_all_examples_share_is_summed_in_float32(rows_alone):
    """In bfloat16 a sum of 1024 ones stops at 256."""
    stem = StemConfig(kind="conv", widths=(4,), strides=(2,), activation="relu")
    shape = {"num_classes": 3, "image_size": 8, "patch_size": 4, "width": 4, "depth": 1, "heads": 1, "mlp_dim": 4}
    cfg = resolve(ModelConfig(**shape, stem=stem, posemb="learned", pool="token", layer_scale=1.0, attention="xla"))
    compute = dataclasses.replace(AMX, rows_alone=rows_alone)
    module, images = VisionTransformer(cfg, compute), jnp.ones((1024, 8, 8, 3))
    params = module.init(jax.random.key(0), images[:1])["params"]
    params["stem"]["conv_0"]["kernel"] *= 0
    params["stem"]["conv_0"]["bias"] += 1

    @jax.jit
    def gradients(params, part):
        def total(params):
            aux = module.apply({"params": params}, images)[1]
            return part(aux).astype(jnp.float32).sum(), aux

        return jax.grad(total, has_aux=True)(params)

    found, aux = gradients(params, jax.tree_util.Partial(lambda aux: aux["tokens"]))
    assert (found["posemb"] == 1024).all() and (found["prefix"] == 1024).all()
    assert (found["stem"]["patches"]["proj"]["bias"] == 1024).all()
    # Through the patches' kernel (4 x 4 places, 4 channels each, 4 features), as every place is the same.
    kernel = params["stem"]["patches"]["proj"]["kernel"].astype(jnp.bfloat16).astype(jnp.float32)
    expected = 1024 * kernel.sum(axis=1).astype(jnp.bfloat16).astype(jnp.float32).reshape(16, 4).sum(axis=0)
    np.testing.assert_allclose(found["stem"]["conv_0"]["bias"], expected, rtol=1e-5)
    found, aux = gradients(params, jax.tree_util.Partial(lambda aux: aux["block_00"]["out"]))
    expected = aux["block_00"]["mlp"].astype(jnp.float32).sum(axis=(0, 1))
    np.testing.assert_allclose(found["block_00"]["scale_1"], expected, rtol=1e-5)


PLAIN = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu": lambda x: jnp.maximum(x, 0),
    "relu_squared": lambda x: jnp.where(x > 0, x * x, 0),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.02)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype, tolerance):
    def plain(x):
        return PLAIN[name](x.astype(jnp.float32)).astype(dtype)

    def fast(x):
        return ACTIVATIONS[name](x, CPU)

    small = jnp.linspace(-0.999, 1.0, 2001).astype(dtype)  # without 0, where a ReLU has no derivative
    agree(fast, plain, small, tolerance=tolerance / 4)
    tail = jnp.linspace(-9.0, -1.0, 2001).astype(dtype)  # where Phi(x) is near 0 and so is the result
    cancelled = 1e-5 if name == "gelu_tanh" else 0.0  # in the plain formula, of 1 + tanh
    agree(fast, plain, tail, tolerance=tolerance / 4 + cancelled)
    out, _ = agree(fast, plain, jnp.linspace(-40.0, 39.9, 2001).astype(dtype), tolerance=tolerance + cancelled)
    assert np.isfinite(np.float32(out)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pooling(dtype):
    few = np.random.RandomState(0).randint(3, size=(2, 6, 12, 8)).astype(dtype)  # most windows have their maximum twice
    for x, size in ((few, 2), (few, 3), (normal(1, 2, 6, 12, 8, dtype=dtype), 2)):

        def plain(x, size=size):
            return jnp.stack([x[:, i::size, j::size] for i in range(size) for j in range(size)]).max(axis=0)

        def fast(x, size=size):
            return max_pool(x, size, CPU)

        agree(fast, plain, x, tolerance=1e-6 if dtype == jnp.float32 else 0.004)


def test_max_pooling_of_what_is_rounded_just_before_loses_no_gradient():
    def pooled(x, bias):
        return max_pool((x + bias).astype(jnp.bfloat16), 2, CPU)

    x, bias = normal(0, 2, 8, 8, 16), normal(1, 16)
    out, vjp = jax.vjp(jax.jit(pooled), x, bias)
    dx, dbias = vjp(jnp.ones_like(out))
    assert dx.sum() == out.size and dbias.sum() == out.size


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
    # Whole numbers, and a scale of 1/4: scores up to 40,000 are exact in float32, in whatever order a CPU adds. If they
    # were rounded, two high ones near each other would give other weights.
    qkv, words = (normal(0, 8, 5, 3, 2, 16) * 100).round(), jnp.zeros(2, jnp.uint32)
    plain = jax.jit(lambda qkv: attention.plain(*attention.split(qkv), words, 0.0))(qkv)
    for other in (
        lambda qkv: attention.chunked(qkv, words, 0.0, 4),
        lambda qkv: attention.recomputed(*attention.split(qkv), words, 0.0),
    ):
        np.testing.assert_allclose(jax.jit(other)(qkv), plain, rtol=1e-5)
        assert np.isfinite(jax.jit(jax.grad(lambda qkv, other=other: other(qkv).sum()))(qkv)).all()
