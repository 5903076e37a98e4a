"""Models: sizes, options, and what must hold whatever the weights. B batch, N tokens, D width, C classes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import ModelConfig, StemConfig
from vit_jax.errors import UserError
from vit_jax.models import flops, posembs
from vit_jax.models.stems import grid_shape, patchify, whitening_kernel
from vit_jax.steps import state as states

TINY = ModelConfig(num_classes=5, image_size=16, patch_size=4, width=16, depth=1, heads=2, mlp_dim=32, init="keras2")
IMAGES = np.random.RandomState(0).normal(size=(3, 16, 16, 3)).astype(np.float32)


@functools.cache
def build(**changes):
    """A model and its parameters, to be left as they are."""
    module = models.create(dataclasses.replace(TINY, **changes))
    params = jax.jit(module.init)(jax.random.key(0), IMAGES)["params"]
    return module, params


def forward(module, params, images=IMAGES, **kwargs):
    return module.apply({"params": params}, images, **kwargs)


def logits_of(module, params, images=IMAGES, seed=None):
    """The logits, compiled as a whole; of training with this seed of dropout's."""

    def logits(params, images, key):
        return forward(module, params, images, train=seed is not None, rngs={"dropout": key})[0]

    return jax.jit(logits)(params, images, jax.random.key(seed or 0))


def test_a_model_without_a_class_count_is_cifar10s():
    # A config leaves it to the data set; alone, its model can be made all the same.
    assert models.create(ModelConfig(variant="Ti/4")).cfg.num_classes == 10
    assert models.create(ModelConfig(variant="Ti/4", num_classes=3)).cfg.num_classes == 3


def test_create_takes_typed_and_untyped_descriptions():
    assert models.create(dataclasses.replace(TINY, head_mlp=[8])).cfg.head_mlp == (8,)
    from vit_jax.config import to_config_dict

    assert models.create(TINY) == models.create(to_config_dict(TINY)) == models.create(dataclasses.asdict(TINY))


WHITENED = StemConfig("conv", widths=(8, 8), norm="layer", whiten=2, pools=(2, 1), residual=(False, True))

# Each option once; what has nothing to do with each other, together.
OPTIONS = [
    {"posemb": "sincos2d", "pool": "map", "layer_scale": 1e-4},
    {"posemb": "none", "pool": "sequence", "qk_norm": True, "qkv_bias": False, "init": "cct"},
    {"posemb": "rope2d", "pool": "token", "registers": 2},
    {"posemb": "rope2d", "pool": "flatten", "remat": True},
    {"registers": 3, "head_dim": 6, "activation": "gelu_tanh", "mlp_output_activation": True},
    {"head_mlp": (12, 7), "head_dropout": 0.5},
    {"dtype": "bfloat16", "representation_dim": 8},
    {"depth": 2, "drop_path": 0.2, "token_dropout": 0.1, "attention_dropout": 0.1, "mlp_dropout": 0.1},
    {"stem": StemConfig("conv", widths=(4, 8), strides=(1, 2), norm="layer"), "patch_size": 2},
    {"stem": StemConfig("conv", widths=(32,), norm="group", activation="relu", pool=True), "patch_size": 2},
    {"stem": WHITENED, "patch_size": 2},
    {"pool": "token", "distill_token": True, "registers": 1, "embed_norm": True, "activation": "gelu_quick"},
    {"pool": "token_mean", "posemb": "rope2d_dinov3", "gated_mlp": True, "activation": "silu"},
]


SOONER = (0, 10)  # of the tests that aren't slow


@pytest.mark.parametrize(
    "options",
    [o if i in SOONER else pytest.param(o, marks=pytest.mark.slow) for i, o in enumerate(OPTIONS)],
    ids=str,
)
def test_every_option_gives_float32_logits_and_gradients(options):
    module, params = build(**options)
    assert states.count(params) == states.count(states.abstract_params(module))

    def loss(params):
        logits, aux = forward(module, params, train=True, rngs={"dropout": jax.random.key(1)})
        assert logits.shape == (3, 5) and logits.dtype == jnp.float32
        return (logits**2).sum(), aux

    grads, aux = jax.jit(jax.grad(loss, has_aux=True))(params)
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(g).all(), path
        assert (np.abs(g).max() > 0) == ("whitening" not in str(path)), path
    cfg = module.cfg
    prefix = cfg.registers + cfg.pool.startswith("token") + cfg.distill_token
    assert aux["tokens"].shape == (3, prefix + math.prod(grid_shape(cfg)), 16)
    assert aux["block_00"]["attn_weights"].shape == (3, 2, *aux["tokens"].shape[1:2] * 2)
    np.testing.assert_allclose(aux["block_00"]["attn_weights"].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("rate", ["token_dropout", "attention_dropout", "mlp_dropout", "head_dropout", "drop_path"])
def test_dropout_acts_in_training_only(rate):
    plain, params = build(depth=2)
    module = models.create(dataclasses.replace(plain.cfg, **{rate: 0.5}))
    np.testing.assert_array_equal(logits_of(module, params), logits_of(plain, params))
    drop = jax.jit(lambda key: forward(module, params, train=True, rngs={"dropout": key})[0])
    one, two, again = (drop(jax.random.key(seed)) for seed in (1, 2, 1))
    assert (one == again).all() and (one != two).any()


def test_patches_are_the_strided_convolution():
    kernel = np.random.RandomState(1).normal(size=(4, 4, 3, 7)).astype(np.float32)
    convolved = jax.lax.conv_general_dilated(
        IMAGES, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    projected = patchify(IMAGES, 4) @ kernel.reshape(-1, 7)  # (B, N, D)
    np.testing.assert_allclose(projected, convolved.reshape(3, 16, 7), atol=1e-4)


@pytest.mark.slow
def test_without_positions_the_order_of_patches_is_nothing():
    rows = IMAGES.reshape(3, 4, 4, 16, 3)[:, ::-1].reshape(IMAGES.shape)  # rows of patches upside down
    for posemb, same in (("none", True), ("learned", False), ("sincos2d", False), ("rope2d", False)):
        module, params = build(posemb=posemb)
        run = jax.jit(functools.partial(forward, module))
        difference = np.abs(run(params)[0] - run(params, rows)[0]).max()
        assert (difference < 1e-5) == same, posemb


def test_sincos_channels():
    table = posembs.sincos2d((3, 3), 8)
    omega = np.array([1.0, 1e-4])
    assert table.shape == (9, 8)
    y, x = 2, 1  # token 7
    expected = [f(v * omega) for v in (x, y) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[7], np.concatenate(expected), atol=1e-6)


def test_rotary_scores_depend_on_the_difference_of_places():
    angles = posembs.rope2d_angles((4, 4), 8, prefix=1)
    assert (angles[0] == 0).all()
    rng = np.random.RandomState(0)
    q, k = (np.broadcast_to(rng.normal(size=(1, 1, 1, 8)), (1, 17, 1, 8)).astype(np.float32) for _ in range(2))
    q, k = posembs.rotate(q, angles)[0, 1:, 0], posembs.rotate(k, angles)[0, 1:, 0]  # (N, E)
    scores = (q @ k.T).reshape(4, 4, 4, 4)  # query row, column, key row, column
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[1, 1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(scores[2, 1, 0, 0], scores[3, 2, 1, 1], atol=1e-5)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-4


def test_dinov3s_places_go_from_minus_one_to_one_over_any_image():
    for grid in ((4, 4), (2, 8)):
        angles = posembs.rope2d_dinov3_angles(grid, 8, prefix=2, here=grid)
        assert (angles[:2] == 0).all() and angles.shape == (2 + math.prod(grid), 4)
        rows = angles[2 :: grid[1], 0] / (2 * np.pi)
        np.testing.assert_allclose(rows, (np.arange(grid[0]) + 0.5) / grid[0] * 2 - 1, atol=1e-6)
        np.testing.assert_allclose(angles[2:, 1], angles[2:, 0] * 100**-0.5, atol=1e-6)


def test_without_classes_a_model_gives_features():
    module, params = build(num_classes=0)
    assert "head" not in params
    features, aux = jax.jit(functools.partial(forward, module))(params)
    assert features.shape == (3, 16) and features.dtype == jnp.float32
    np.testing.assert_array_equal(features, aux["pre_logits"])


def test_a_distillation_token_is_classified_beside_the_class_token():
    module, params = build(pool="token", distill_token=True)
    logits, aux = jax.jit(functools.partial(forward, module))(params)
    np.testing.assert_allclose(logits, (aux["logits_token"] + aux["logits_distill"]) / 2, atol=1e-6)
    head = params["head"]["logits_distill"]
    expected = aux["encoded"][:, 1] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(aux["logits_distill"], expected, atol=1e-5)
    with pytest.raises(UserError, match="distill_token is a second class token"):
        models.create(dataclasses.replace(TINY, distill_token=True))


@pytest.mark.slow
def test_remat_changes_nothing():
    module, params = build()
    again = models.create(dataclasses.replace(TINY, remat=True))

    def loss(params, module):
        return (forward(module, params)[0] ** 2).sum()

    plain, remat = (jax.jit(jax.grad(functools.partial(loss, module=m)))(params) for m in (module, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, remat)


@pytest.mark.slow
def test_attention_is_jaxs():
    module, params = build()
    aux = jax.jit(lambda params: forward(module, params))(params)[1]
    aux, block = jax.tree.map(np.asarray, (aux, params["block_00"]))
    x = aux["tokens"]
    norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    qkv = np.einsum("bnd,dpke->pbnke", norm, block["attention"]["qkv"]["kernel"])
    expected = jax.nn.dot_product_attention(*qkv).reshape(3, 16, 16) @ block["attention"]["out"]["kernel"]
    np.testing.assert_allclose(aux["block_00"]["attn"], expected, atol=1e-5)


def test_bfloat16_is_near_float32():
    module, params = build()
    half = models.create(dataclasses.replace(TINY, dtype="bfloat16"))
    assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float32, states.abstract_params(half)))
    assert np.abs(logits_of(module, params) - logits_of(half, params)).max() < 0.1


@pytest.mark.parametrize("attention", ["xla", "recomputed", "chunked"])
def test_without_their_biases_queries_keys_and_values_are_those_with_zeros(attention):
    bare, params = build(attention=attention, depth=1, qkv_bias=False)
    biased = models.create(dataclasses.replace(bare.cfg, qkv_bias=True))
    shapes = states.abstract_params(biased)
    assert states.count(shapes) - states.count(params) == 3 * 16
    assert flops.forward(biased.cfg) == flops.forward(bare.cfg)
    attention = params["block_00"]["attention"]
    zeros = jnp.zeros(shapes["block_00"]["attention"]["qkv"]["bias"].shape)
    qkv = {**attention["qkv"], "bias": zeros}
    with_zeros = {**params, "block_00": {**params["block_00"], "attention": {**attention, "qkv": qkv}}}
    np.testing.assert_array_equal(logits_of(bare, params), logits_of(biased, with_zeros))
    moved = {**with_zeros["block_00"], "attention": {**attention, "qkv": {**qkv, "bias": zeros + 0.5}}}
    assert np.abs(logits_of(biased, {**params, "block_00": moved}) - logits_of(bare, params)).max() > 1e-3


def test_whitened_patches_are_uncorrelated_with_variance_one():
    images = np.random.RandomState(0).normal(size=(400, 16, 16, 3)).astype(np.float32).cumsum(axis=1) / 4
    kernel = whitening_kernel(images, 2)
    assert kernel.shape == (12, 24)
    patches = np.asarray(patchify(images, 2)).reshape(-1, 12)
    out = patches @ kernel
    covariance = out.T @ out / len(out)
    np.testing.assert_allclose(covariance[:12, :12], np.eye(12), atol=0.05)
    np.testing.assert_allclose(out[:, 12:], -out[:, :12], atol=1e-4)


@pytest.mark.parametrize("posemb", ["learned", "sincos2d", "rope2d", "rope2d_dinov3", "none"])
def test_the_same_parameters_take_images_of_another_size(posemb):
    module, params = build(posemb=posemb)
    same = logits_of(module.clone(input_size=16), params)
    np.testing.assert_array_equal(same, logits_of(module, params))
    smaller, aux = jax.jit(functools.partial(forward, module.clone(input_size=12)))(params, IMAGES[:, 2:14, 2:14])
    assert smaller.shape == (3, 5) and aux["tokens"].shape == (3, 9, 16)
    with pytest.raises(ValueError, match=r"\(B, 12, 12, 3\); found"):
        forward(module.clone(input_size=12), params)


def test_positions_of_another_grid_lie_between_the_models_own():
    np.testing.assert_allclose(posembs.sincos2d((4, 4), 16, here=(4, 4)), posembs.sincos2d((4, 4), 16))
    # Two tokens a side stand at 0.5 and 2.5 of four; eight at -0.25, 0.25, 0.75, ...
    ramp = jnp.repeat(jnp.arange(4.0), 4)[:, None]  # (N, 1): the row
    np.testing.assert_allclose(
        posembs.resized(ramp, (4, 4), (8, 8))[8:48:8, 0], [0.25, 0.75, 1.25, 1.75, 2.25], atol=1e-6
    )
    angles = posembs.rope2d_angles((4, 4), 8, prefix=0, here=(2, 2))
    np.testing.assert_allclose(angles[:, 0], [0.5, 0.5, 2.5, 2.5])


def test_the_share_of_stochastic_depth_in_force_can_change():
    module, params = build(depth=2, drop_path=0.9)
    rngs = {"dropout": jax.random.key(0)}
    run = jax.jit(lambda share: forward(module, params, train=True, drop_path_share=share, rngs=rngs)[0])
    whole = logits_of(module, params, seed=0)
    np.testing.assert_allclose(run(0.0), logits_of(module, params), atol=1e-5)
    np.testing.assert_allclose(run(1.0), whole, atol=1e-5)
    assert np.abs(run(1.0) - run(0.0)).max() > 1e-3


def test_wrong_image_sizes_are_refused():
    module, params = build()
    with pytest.raises(ValueError, match=r"\(B, 16, 16, 3\); found"):
        forward(module, params, np.zeros((1, 12, 12, 3)))


@pytest.mark.slow
def test_every_way_of_computing_attention_gives_the_same_logits_and_weights():
    images = np.random.RandomState(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    outputs = []
    for attention in ("xla", "chunked"):
        module = models.create(dataclasses.replace(TINY, attention=attention, posemb="rope2d", qk_norm=True))
        params = jax.jit(module.init)(jax.random.key(0), images)["params"]
        outputs.append(jax.jit(lambda p, x, module=module: module.apply({"params": p}, x))(params, images))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *outputs)
