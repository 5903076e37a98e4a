"""The article's model is Keras' model: same parameters, same logits, from Keras' own weights."""

from pathlib import Path

import jax
import numpy as np
import pytest
from keras_weights import from_keras

from configs import article
from vit_jax import models
from vit_jax.models.stems import patchify
from vit_jax.steps import state as states

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_parameter_count():
    module = models.create(article.get_config().model)
    assert states.count(states.abstract_params(module)) == 21_666_762


def test_agrees_with_keras():
    config = article.get_config().model
    config.update(width=16, depth=2, heads=2, head_dim=16, mlp_dim=32, head_mlp=(64, 32))
    module = models.create(config)
    keras = dict(np.load(FIXTURES / "keras_vit_small.params.npz"))
    io = np.load(FIXTURES / "keras_vit_small.io.npz")
    params = from_keras(keras, depth=2, head_layers=2)
    shapes = states.abstract_params(module)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, shapes)

    np.testing.assert_array_equal(patchify(io["x"][:1], 6), io["patches"])
    with jax.default_matmul_precision("highest"):
        logits, aux = jax.jit(lambda p, x: module.apply({"params": p}, x))(params, io["x"])
    assert np.abs(aux["tokens"][:1] - io["encoded"]).max() < 2e-5
    assert np.abs(aux["encoded"][:1] - io["final_ln"]).max() < 2e-5
    assert np.abs(logits - io["logits"]).max() < 2e-5


@pytest.mark.parametrize("mistake", [{"activation": "gelu_tanh"}, {"norm_eps": 1e-3}, {"mlp_output_activation": False}])
def test_the_fixture_would_show_a_mistake(mistake):
    config = article.get_config().model
    config.update(width=16, depth=2, heads=2, head_dim=16, mlp_dim=32, head_mlp=(64, 32), **mistake)
    params = from_keras(dict(np.load(FIXTURES / "keras_vit_small.params.npz")), depth=2, head_layers=2)
    io = np.load(FIXTURES / "keras_vit_small.io.npz")
    module = models.create(config)
    logits, _ = jax.jit(lambda p, x: module.apply({"params": p}, x))(params, io["x"])
    assert np.abs(logits - io["logits"]).max() > 1e-4
