"""Schedules, AdamW and the rules that pick parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from vit_jax.config import OptimConfig
from vit_jax.errors import UserError
from vit_jax.models import create
from vit_jax.steps.muon import muon as muon_of
from vit_jax.steps.optim import optimizer
from vit_jax.steps.rules import match, path_of
from vit_jax.steps.schedules import learning_rate
from vit_jax.steps.state import abstract_params
from vit_jax.system.sharding import replicated

PARAMS = {
    "block_00": {"dense": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}},
    "posemb": jnp.full((4, 3), 2.0),
}
GRADS = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), PARAMS)


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_schedules_rise_and_fall(schedule, middle):
    cfg = OptimConfig(learning_rate=0.1, schedule=schedule)
    rate = learning_rate(cfg, total=110, warmup=10)
    np.testing.assert_allclose([rate(0), rate(4), rate(9), rate(10)], [0.01, 0.05, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(rate(60), 0.1 * middle, rtol=1e-4)
    np.testing.assert_allclose(rate(110), 0.1 if schedule == "constant" else 0.0, atol=1e-8)


def test_final_fraction_is_where_the_schedule_ends():
    rate = learning_rate(OptimConfig(learning_rate=0.1, schedule="linear", final_fraction=0.1), 100, 0)
    np.testing.assert_allclose([rate(0), rate(100), rate(1000)], [0.1, 0.01, 0.01], rtol=1e-5)


def test_first_matching_rule_gives_the_value():
    values = match(((r".*/kernel", 1.0), (r"block_\d+/.*", 2.0), (r".*", 0.0)), PARAMS, "rules")
    assert values == {"block_00": {"dense": {"kernel": 1.0, "bias": 2.0}}, "posemb": 0.0}


def test_unmatched_parameters_and_broken_rules_are_refused():
    with pytest.raises(UserError, match="no rule matches the parameter block_00/dense/bias"):
        match(((r".*/kernel", 1.0),), PARAMS, "rules")
    with pytest.raises(UserError, match="no regular expression"):
        match(((r"(", 1.0),), PARAMS, "rules")


def update(cfg):
    tx = optimizer(cfg, PARAMS, jnp.float32)
    return tx.update(GRADS, tx.init(PARAMS), PARAMS, learning_rate=cfg.learning_rate)[0]


def test_it_is_optaxs_adamw_with_a_mask():
    cfg = OptimConfig(learning_rate=0.01, weight_decay=0.3, clip_norm=None)
    mask = {"block_00": {"dense": {"kernel": True, "bias": False}}, "posemb": False}
    tx = optax.adamw(0.01, weight_decay=0.3, mask=mask)
    expected = tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), update(cfg), expected)


def test_decay_differs_by_rule():
    cfg = OptimConfig(
        learning_rate=0.1,
        weight_decay=0.5,
        clip_norm=None,
        decay_rules=((".*kernel", 1.0), ("posemb", 0.1), (".*", 0.0)),
    )
    updates, plain = update(cfg), update(OptimConfig(learning_rate=0.1, weight_decay=0.0, clip_norm=None))
    decay = jax.tree.map(lambda a, b: float((a - b).ravel()[0]), updates, plain)
    np.testing.assert_allclose(decay["block_00"]["dense"]["kernel"], -0.1 * 0.5 * 2, rtol=1e-4)
    np.testing.assert_allclose(decay["posemb"], -0.1 * 0.05 * 2, rtol=1e-4)
    assert decay["block_00"]["dense"]["bias"] == 0


def test_article_decay_is_tfas():
    """TensorFlow Addons subtracts 1e-4 x the variable, whatever the learning rate, from every variable."""
    from configs.article import get_config
    from vit_jax.config import from_config_dict

    cfg = from_config_dict(get_config()).optim
    plain = update(OptimConfig(learning_rate=1e-3, eps=1e-7, weight_decay=0.0, clip_norm=None))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a - b, -1e-4 * 2.0, rtol=1e-3), update(cfg), plain)


def test_gradients_are_clipped_by_their_global_norm():
    norm = float(optax.tree.norm(GRADS))
    clipped = update(OptimConfig(clip_norm=norm / 10, weight_decay=0.0, eps=1.0, learning_rate=1.0))
    # The first Adam step is g / (|g| + eps).
    np.testing.assert_allclose(clipped["posemb"], -0.05 / 1.05, rtol=1e-4)


def test_warmup_stable_decay_stays_at_the_peak_until_the_last_part():
    rate = learning_rate(OptimConfig(learning_rate=0.1, schedule="wsd", decay=0.2), total=100, warmup=10)
    np.testing.assert_allclose([rate(0), rate(9), rate(50), rate(80)], [0.01, 0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose([rate(90), rate(100)], [0.05, 0.0], atol=1e-8)


def test_schedules_take_places_between_steps():
    rate = learning_rate(OptimConfig(learning_rate=1.0, schedule="linear"), total=10_000, warmup=500)
    np.testing.assert_allclose([rate(0.5 * (500 + 10_000)), rate(9_999.9)], [0.5, 0.0], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("lion", optax.lion(0.01, 0.9, 0.99, weight_decay=0.3)), ("sgd", optax.sgd(0.01, momentum=0.8))],
)
def test_lion_and_sgd_are_optaxs(name, theirs):
    decay = 0.3 if name == "lion" else 0.0
    cfg = OptimConfig(
        name=name,
        learning_rate=0.01,
        b2=0.99,
        momentum=0.8,
        weight_decay=decay,
        clip_norm=None,
        decay_rules=((".*", 1.0),),
    )
    tx, expected = optimizer(cfg, PARAMS, jnp.float32), theirs.init(PARAMS)
    state = tx.init(PARAMS)
    for factor in (1.0, -0.5, 2.0):
        grads = jax.tree.map(lambda g, factor=factor: factor * g, GRADS)
        ours, state = tx.update(grads, state, PARAMS, learning_rate=0.01)
        other, expected = theirs.update(grads, expected, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, other)


def muon(**options):
    """Parameters of a small model, the optimizer's first state, and its update for gradients equal to them."""
    stem = {"kind": "conv", "widths": (8, 8), "strides": (2, 2), "whiten": 2}
    shapes = abstract_params(
        create({"num_classes": 10, "patch_size": 1, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "stem": stem})
    )
    random = np.random.RandomState(0)
    params = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), jnp.float32), shapes)
    cfg = OptimConfig(
        name="muon", learning_rate=0.1, adam_learning_rate=0.01, weight_decay=0.0, clip_norm=None, **options
    )
    tx = optimizer(cfg, params, jnp.float32)
    state = tx.init(params)
    update = jax.jit(lambda params, state: tx.update(params, state, params, learning_rate=cfg.learning_rate)[0])
    return params, state, update(params, state)


def test_muon_orthogonalises_each_matrix_and_adamw_takes_the_rest():
    params, _, updates = muon(muon_iterations=12)
    qkv = updates["block_00"]["attention"]["qkv"]["kernel"].reshape(16, 3, 16)
    for i in range(3):  # query, key and value are matrices of their own
        values = np.linalg.svd(qkv[:, i], compute_uv=False)
        assert values.min() > 0.06 and values.max() < 0.13, values  # 0.1, about as well as Muon's polynomial does
    wide = np.linalg.svd(updates["block_00"]["mlp"]["dense_0"]["kernel"], compute_uv=False)
    assert wide.min() > 0.085 and wide.max() < 0.19, wide  # times sqrt(32 / 16)
    kernel = updates["stem"]["conv_1"]["kernel"].reshape(-1, 8)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert values.min() > 0.06 and values.max() < 0.13, values
    # A first Adam step is the gradient's sign.
    for path in (("head", "logits", "kernel"), ("norm", "scale"), ("block_00", "mlp", "dense_0", "bias")):
        update, gradient = updates, params
        for name in path:
            update, gradient = update[name], gradient[name]
        np.testing.assert_allclose(update, -0.01 * np.sign(gradient), rtol=1e-3)


def test_muon_is_optaxs_within_the_rounding_of_its_dtype():
    random = np.random.RandomState(0)
    kernels = {"tall": random.normal(size=(96, 32)), "wide": random.normal(size=(32, 48)), "square": np.eye(32)}
    grads = {name: jnp.asarray(kernel, jnp.float32) for name, kernel in kernels.items()}
    axes = {name: optax.contrib.MuonDimensionNumbers() for name in grads}
    theirs = optax.contrib.scale_by_muon(ns_steps=5, beta=0.9, weight_dimension_numbers=axes)
    for dtype, least, most in ((jnp.float32, 0, 1e-4), (jnp.bfloat16, 1e-3, 0.1)):
        ours, expected = muon_of(5, 0.9, dtype), theirs.init(grads)
        state = ours.init(grads)
        for factor in (1.0, -0.7):
            seen = jax.tree.map(lambda g, factor=factor: factor * g + 0.1, grads)
            found, state = ours.update(seen, state)
            other, expected = theirs.update(seen, expected)
            for name in grads:
                shape = grads[name].shape
                scale = max(1.0, shape[1] / shape[0]) ** 0.5  # optax' own is another transformation
                apart = np.linalg.norm(found[name] / scale - other[name]) / np.linalg.norm(other[name])
                assert least <= apart < most, (name, dtype, apart)
    # As the zeros of a matrix that had no gradient.
    zeros = jax.tree.map(jnp.zeros_like, grads)
    found, _ = ours.update(zeros, ours.init(zeros))
    assert all((found[name] == 0).all() for name in grads)


def test_devices_that_share_muons_kernels_out_give_the_same():
    random = np.random.RandomState(0)
    shapes = [(8, 8 + 4 * i) for i in range(5)]
    kernels = {
        f"block_{i:02}": {"kernel": jnp.asarray(random.normal(size=shape), jnp.float32)}
        for i, shape in enumerate(shapes)
    }
    cfg = OptimConfig(name="muon", muon_iterations=5, clip_norm=None, decay_rules=((".*", 0.0),))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    kernels = jax.device_put(kernels, replicated(mesh))

    def update(kernels, mesh):
        tx = optimizer(cfg, kernels, jnp.float32, mesh)
        return tx.update(kernels, tx.init(kernels), kernels, learning_rate=0.1)[0]

    found = [jax.jit(partial(update, mesh=of))(kernels) for of in (mesh, None)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(found[0]))


STEMS = {
    "convolutions": {
        "pool": "sequence",
        "stem": {"kind": "conv", "widths": (8, 12), "whiten": 2, "kernel_size": 5},
    },
    "root": {"patch_size": 1, "stem": {"kind": "resnet", "widths": (32,)}},
    "resnet": {
        "patch_size": 1,
        "pool": "map",
        "head_mlp": (24,),
        "stem": {"kind": "resnet", "widths": (32,), "units": (1, 1)},
    },
}


def matrices_of(path, kernel):
    """What a layer multiplies its inputs with: (inputs, outputs) each."""
    if path.startswith("stem/"):  # patches and convolutions, of 7x7 pixels and 3 channels, say
        return [kernel.reshape(-1, kernel.shape[-1])]
    if path.endswith(("qkv/kernel", "kv/kernel")):  # (D, 3 or 2, K, E)
        return [kernel[:, i].reshape(len(kernel), -1) for i in range(kernel.shape[1])]
    return [kernel.reshape(len(kernel), -1)]


@pytest.mark.parametrize("stem", STEMS)
def test_muon_orthogonalises_every_kernel_that_a_rule_may_name(stem):
    sizes = {"num_classes": 10, "image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
    shapes = abstract_params(create(sizes | STEMS[stem]))
    random = np.random.RandomState(0)
    params = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), jnp.float32), shapes)
    cfg = OptimConfig(name="muon", muon=".*", muon_iterations=7, weight_decay=0.0, clip_norm=None)
    tx = optimizer(cfg, params, jnp.float32)
    updates = jax.jit(lambda p: tx.update(p, tx.init(p), p, learning_rate=1.0)[0])(params)
    found = [(path_of(path), np.asarray(x)) for path, x in jax.tree_util.tree_leaves_with_path(updates)]
    kernels = [(path, x) for path, x in found if path.endswith("/kernel") and "whitening" not in path]
    assert len(kernels) == {"convolutions": 9, "root": 7, "resnet": 21}[stem]
    for path, x in kernels:
        for matrix in matrices_of(path, x):
            values = np.linalg.svd(matrix, compute_uv=False)
            # 1, about as well as Muon's polynomial does, and more of what is wider than high (Jordan 2024).
            values /= np.sqrt(max(1.0, matrix.shape[1] / matrix.shape[0]))
            assert values.min() > 0.6 and values.max() < 1.3, (path, values.min(), values.max())


def test_frozen_parameters_stay_and_have_no_moments():
    rules = ((r"block_00/mlp/.*", 0.0), (r"head/.*", 0.5), (".*", 1.0))
    _, state, updates = muon(rate_rules=rules)
    assert all((u == 0).all() for u in jax.tree.leaves(updates["block_00"]["mlp"]))
    np.testing.assert_allclose(abs(updates["head"]["logits"]["kernel"]), 0.005, rtol=1e-3)
    assert (updates["stem"]["whitening"]["kernel"] == 0).all()  # by itself
    assert not any(x.shape == (16, 32) for x in jax.tree.leaves(state))


def test_rules_that_muon_cannot_use_are_refused():
    with pytest.raises(UserError, match="matches no kernel"):
        muon(muon="blok.*")
    with pytest.raises(UserError, match="rate_rules: no rule matches"):
        muon(rate_rules=(("head.*", 1.0),))
