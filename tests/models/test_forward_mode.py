"""Derivatives of every mode: forward ones of `create(model, forward_mode=True)`, those of gradients of any module."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import ModelConfig, StemConfig

TINY = ModelConfig(num_classes=5, image_size=16, patch_size=4, width=16, depth=1, heads=2, mlp_dim=32, pool="token")
IMAGES = np.random.RandomState(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
LABELS = np.arange(8) % 5
WHITENED = StemConfig("conv", widths=(8, 8), norm="layer", whiten=2, pools=(2, 1), residual=(False, True))

MANY = {"pool": "map", "posemb": "rope2d", "qk_norm": True, "registers": 1, "attention_dropout": 0.2, "drop_path": 0.2}
CONVOLUTIONS = {"pool": "sequence", "stem": WHITENED, "patch_size": 2}


def loss_of(module):
    def loss(params):
        logits, _ = module.apply({"params": params}, IMAGES, train=True, rngs={"dropout": jax.random.key(3)})
        return -jax.nn.log_softmax(logits)[np.arange(8), LABELS].mean()

    return loss


def near(module, seed, scale):
    """Random numbers for each parameter: the initial ones have zeros, behind which gradients vanish."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)["params"]
    random = np.random.RandomState(seed)
    return jax.tree.map(lambda x: (scale * random.normal(size=x.shape)).astype(np.float32), shapes)


def both(options):
    """The module for training, the one with forward mode, and a point and a direction for both."""
    model = dataclasses.replace(TINY, **options)
    fast, plain = models.create(model), models.create(model, forward_mode=True)
    return fast, plain, near(plain, 0, 0.3), near(plain, 1, 1.0)


def assert_close(a, b, tolerance):
    a, b = jax.tree.map(np.asarray, (a, b))  # JAX would compile each step of what follows
    scale = max(np.abs(x).max() for x in jax.tree.leaves(b))
    assert scale > 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x / scale, y / scale, atol=tolerance), a, b)


def difference(f, params, direction, step=1e-3):
    """The change of f along a direction, by finite differences."""

    def at(size):
        return jax.tree.map(np.asarray, f(jax.tree.map(lambda p, d: p + np.float32(size) * d, params, direction)))

    return jax.tree.map(lambda a, b: (a - b) / (2 * step), at(step), at(-step))


@pytest.mark.slow
@pytest.mark.parametrize("options", [MANY, CONVOLUTIONS], ids=["many", "convolutions"])
def test_forward_mode_gives_what_reverse_mode_gives(options):
    fast, plain, params, direction = both(options)
    value, gradient = jax.jit(jax.value_and_grad(loss_of(fast)))(params)
    along = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    found = jax.jit(lambda p, d: jax.jvp(loss_of(plain), (p,), (d,)))(params, direction)
    np.testing.assert_allclose(found, (value, along), rtol=1e-4, atol=1e-5)


def test_a_linearized_model_is_its_change():
    _, plain, params, direction = both({})

    @jax.jit
    def logits(params):
        return plain.apply({"params": params}, IMAGES)[0]

    here, linear = jax.linearize(logits, params)
    assert_close(jax.jit(linear)(direction), difference(logits, params, direction), 5e-3)
    expected = jax.jit(models.create(TINY).apply)({"params": params}, IMAGES)[0]
    np.testing.assert_allclose(here, expected, atol=1e-5)


@pytest.mark.parametrize("forward_mode", [False, True])
def test_a_hessian_vector_product_is_the_gradients_change(forward_mode):
    """In the module for training as well, with blocks that are computed again."""
    fast, plain, params, direction = both({"remat": True, "attention_dropout": 0.2})
    gradient = jax.jit(jax.grad(loss_of(plain if forward_mode else fast)))
    product = jax.jit(lambda p, d: jax.jvp(gradient, (p,), (d,))[1])(params, direction)
    assert_close(product, difference(gradient, params, direction), 5e-3)


def test_parameters_are_those_of_any_module():
    fast, plain, _, _ = both({})
    key = jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(fast.init)(key, IMAGES), jax.jit(plain.init)(key, IMAGES))
