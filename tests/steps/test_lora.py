"""Low-rank adaptation: the model with products beside its kernels is the one of the merged kernels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import ModelConfig
from vit_jax.models import encoder
from vit_jax.steps import lora
from vit_jax.steps import state as states
from vit_jax.steps.rules import path_of

MODEL = ModelConfig(
    num_classes=5, image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp_dim=24, gated_mlp=True, activation="silu"
)
IMAGES = np.random.RandomState(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


def logits_of(module):
    return jax.jit(lambda params: module.apply({"params": params}, IMAGES)[0])


def test_products_are_beside_the_kernels_of_queries_keys_values_and_mlps():
    shapes = states.abstract_params(models.create(MODEL), 2)
    found = {path_of(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(shapes)}
    added = {path: shape for path, shape in found.items() if lora.is_adapter(path) and path.startswith("block_01")}
    assert added == {
        "block_01/attention/qkv/lora_a": (3, 16, 2), "block_01/attention/qkv/lora_b": (3, 2, 16),
        "block_01/mlp/dense_0/lora_a": (1, 16, 2), "block_01/mlp/dense_0/lora_b": (1, 2, 24),
        "block_01/mlp/gate/lora_a": (1, 16, 2), "block_01/mlp/gate/lora_b": (1, 2, 24),
        "block_01/mlp/dense_1/lora_a": (1, 24, 2), "block_01/mlp/dense_1/lora_b": (1, 2, 16),
    }  # fmt: skip


@pytest.mark.slow
def test_the_model_is_that_of_the_merged_kernels():
    """At first it is the one without; with other numbers its logits and gradients are those of the sums."""
    module = models.create(MODEL)
    plain, params = (states.init_params(module, jnp.uint32(1), rank) for rank in (None, 2))
    plain = jax.tree.map(lambda x: x, plain)
    np.testing.assert_array_equal(logits_of(module)(plain), logits_of(module)(params))

    rng = np.random.RandomState(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32), params)
    np.testing.assert_allclose(logits_of(module)(lora.merged(params)), logits_of(module)(params), atol=1e-4)
    looped = models.create(dataclasses.replace(MODEL, scan=True))
    np.testing.assert_allclose(logits_of(looped)(encoder.stacked(params)), logits_of(module)(params), atol=1e-4)
    again = encoder.unstacked(lora.merged(encoder.stacked(params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, lora.merged(params))

    def loss(params, merges):
        logits = module.apply({"params": lora.merged(params) if merges else params}, IMAGES)[0]
        return (logits**2).sum()

    beside, summed = (jax.jit(jax.grad(loss), static_argnums=1)(params, merges) for merges in (False, True))
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(summed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), beside, summed)
