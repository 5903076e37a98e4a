"""The compiled step: accumulating is the full batch, eight devices are one. B batch."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from PIL import Image

from vit_jax import models
from vit_jax.config import AugmentConfig, Config, ModelConfig, OptimConfig, TrainConfig
from vit_jax.data.augment import preprocess
from vit_jax.data.dataset import Examples
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.models.stems import image_shape
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.losses import cross_entropy, weights_of
from vit_jax.steps.schedules import TimedProgress, learning_rate
from vit_jax.steps.step import eval_step, shown, train_step, train_steps
from vit_jax.system.sharding import replicated

CONFIG = Config(
    augment=AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3, flip=True, crop_padding=1),
    model=ModelConfig(num_classes=5, image_size=8, patch_size=4, width=16, depth=1, heads=2, mlp_dim=32, init="keras2"),
    optim=OptimConfig(learning_rate=1e-2, eps=1e-3, clip_norm=None),
    train=TrainConfig(batch_size=16, label_smoothing=0.1),
)
IMAGES = np.random.RandomState(0).randint(256, size=(50, 8, 8, 3)).astype(np.uint8)
LABELS = np.random.RandomState(1).randint(5, size=50).astype(np.int32)


def mesh_of(devices):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def stepping(config=CONFIG, devices=1):
    """The state at the start, and the compiled step: state -> (state, metrics)."""
    mesh, module = mesh_of(devices), models.create(config.model)
    schedule = learning_rate(config.optim, 10, 2)
    tx = optim.optimizer(config.optim, states.abstract_params(module), module.dtype)
    state = states.create(module, tx, config.seed, mesh, ema=config.train.ema is not None)
    everywhere = replicated(mesh)
    data = DevicePipeline.of(Examples(IMAGES, LABELS), config.train.batch_size, everywhere)
    step = partial(
        train_step,
        fetch=lambda data, seed, step: data.batch_at(seed, step),
        module=module,
        tx=tx,
        schedule=schedule,
        config=config,
        mesh=mesh,
        total=10,
        class_weights=weights_of(config.train.class_weights, LABELS, 5),
    )
    compiled = jax.jit(step, out_shardings=everywhere)
    return state, lambda state: compiled(state, data)


def states_of(config=CONFIG, devices=1, steps=3):
    """The state at the start and after each of some steps, and each step's metrics."""
    state, step = stepping(config, devices)
    found, history = [state], []
    for _ in range(steps):
        state, metrics = step(state)
        found.append(state)
        history.append(jax.tree.map(float, metrics))
    return found, history


def run(config=CONFIG, devices=1, steps=3):
    """The state after some steps, and each step's metrics."""
    found, history = states_of(config, devices, steps)
    return found[-1], history


def assert_close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.fixture(scope="module")
def plain():
    return run()


@pytest.mark.slow
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_metrics_are_those_of_the_batch_before_the_update(class_weights):
    module = models.create(CONFIG.model)
    params = jax.jit(module.init)(states.keys(jnp.uint32(0))[0], jnp.zeros((1, 8, 8, 3)))["params"]
    no_augmentation = dataclasses.replace(CONFIG.augment, flip=False, crop_padding=0)
    weighted = dataclasses.replace(CONFIG.train, class_weights=class_weights)
    _, history = run(dataclasses.replace(CONFIG, augment=no_augmentation, train=weighted), steps=1)
    of_class = 50 / (5 * np.bincount(LABELS)) if class_weights == "balanced" else np.ones(5)
    assert class_weights == "none" or of_class.max() > 1.2
    data = DevicePipeline.of(Examples(IMAGES, LABELS), 16, replicated(mesh_of(1)))
    batch = jax.jit(lambda data: data.batch_at(0, 0))(data)
    x = jax.jit(lambda images: preprocess(images, CONFIG.augment, (8, 8)))(batch["image"])

    def loss(params):
        logits = module.apply({"params": params}, x, train=True)[0]
        return (of_class[batch["label"]] * cross_entropy(logits, batch["label"], 0.1)).mean(), logits

    (expected, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(history[0]["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history[0]["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    assert history[0]["top1"] == (logits.argmax(1) == batch["label"]).mean()
    assert history[0]["top5"] == 1.0  # there are 5 classes
    np.testing.assert_allclose(history[0]["learning_rate"], 0.005)


def test_totals_sum_the_steps(plain):
    state, history = plain
    assert int(state.step) == 3 and float(state.totals["count"]) == 48
    for name in ("loss", "top1", "top5"):
        np.testing.assert_allclose(state.totals[name] / 48, np.mean([h[name] for h in history]), rtol=1e-5)


@pytest.mark.slow
def test_accumulating_is_the_full_batch(plain):
    train = dataclasses.replace(CONFIG.train, accumulate=4)
    state, history = run(dataclasses.replace(CONFIG, train=train))
    assert_close(state.params, plain[0].params, 1e-5)
    assert_close(history, plain[1], 1e-5)


@pytest.mark.slow
def test_devices_that_accumulate_change_nothing(plain):
    train = dataclasses.replace(CONFIG.train, accumulate=2)
    state, history = run(dataclasses.replace(CONFIG, train=train), devices=4)
    assert_close(state.params, plain[0].params, 1e-5)
    assert_close(history, plain[1], 1e-5)
    assert state.params["posemb"].sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_devices_change_nothing(accumulate):
    """Data, augmentation and dropout do not depend on where they are computed."""
    model = dataclasses.replace(
        CONFIG.model,
        **{"mlp_dropout": 0.2, "attention_dropout": 0.2, "token_dropout": 0.2, "head_dropout": 0.2},
        **{"drop_path": 0.2, "drop_path_ramp": "linear"},
    )
    config = dataclasses.replace(CONFIG, model=model, train=dataclasses.replace(CONFIG.train, accumulate=accumulate))
    (one, a), (eight, b) = run(config), run(config, devices=8)
    assert_close(one.params, eight.params, 1e-5)
    assert_close(a, b, 1e-5)
    assert eight.params["posemb"].sharding.is_fully_replicated


def test_a_seed_repeats_bit_for_bit_and_another_differs(plain):
    again, other = run()[0], run(dataclasses.replace(CONFIG, seed=1))[0]
    jax.tree.map(np.testing.assert_array_equal, again.params, plain[0].params)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), other.params, plain[0].params)))


def test_the_first_state_is_traced_once_and_the_same_as_by_any_other_way(monkeypatch):
    traced = []
    monkeypatch.setattr(states, "image_shape", lambda cfg: traced.append(cfg) or image_shape(cfg))
    config = dataclasses.replace(CONFIG.model, mlp_dim=40)  # of no other test
    module, mesh = models.create(config), mesh_of(2)
    tx = optim.optimizer(CONFIG.optim, states.abstract_params(module), module.dtype)
    monkeypatch.delenv("XLA_FLAGS")  # which else say how well programs are compiled
    state = states.create(module, tx, 3, mesh)
    states.abstract_params(models.create(config))
    assert len(traced) == 1, "equal modules are traced once: it takes as long as a forward pass"
    plain = jax.jit(lambda: states.init_params(module, jnp.uint32(3)))()
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)  # compiled otherwise, rounded otherwise


def test_evaluation_has_no_randomness(plain):
    model = dataclasses.replace(CONFIG.model, mlp_dropout=0.5, head_dropout=0.5, drop_path=0.5)
    module = models.create(model)
    logits, expected = (
        jax.jit(partial(eval_step, module=m, config=CONFIG))(plain[0].params, IMAGES)
        for m in (module, models.create(CONFIG.model))
    )
    np.testing.assert_array_equal(logits, expected)
    assert logits.shape == (50, 5) and logits.dtype == jnp.float32


@pytest.mark.slow
def test_the_average_follows_the_parameters(plain):
    train = dataclasses.replace(CONFIG.train, ema=0.6)
    (start, *after), _ = states_of(dataclasses.replace(CONFIG, train=train))
    expected = jax.tree.map(np.asarray, start.params)
    for n, state in enumerate(after, start=1):
        decay = min(0.6, n / (9 + n))  # the step before was number n - 1
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * np.asarray(p), expected, state.params)
    assert_close(after[-1].ema, expected, 1e-6)
    assert_close(after[-1].params, plain[0].params, 0)


def test_a_step_that_is_left_out_is_counted_and_changes_nothing_else():
    """What comes after it is as in a run that begins there: Muon, AdamW and the average know of no update before."""
    optimizer = dataclasses.replace(CONFIG.optim, name="muon", muon_iterations=1, skip_nonfinite=1)
    train = dataclasses.replace(CONFIG.train, ema=0.6)
    start, compiled = stepping(dataclasses.replace(CONFIG, optim=optimizer, train=train))

    def step(state):
        return jax.tree.map(np.asarray, compiled(state))

    start = jax.tree.map(np.asarray, start)
    broken = start.replace(params=jax.tree.map(lambda x: x * np.nan, start.params))
    after, metrics = step(broken)
    assert np.isnan(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after, broken.replace(step=np.int32(1)))
    after, metrics = step(after.replace(params=start.params))
    expected, _ = step(start.replace(step=np.int32(1)))
    assert np.isfinite(metrics["loss"]) and after.step == 2
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    assert after.totals["count"] == 16
    # The average's first decay is 1 / 10, and Adam's first direction has length 1, whatever the gradient.
    assert_close(after.ema, jax.tree.map(lambda old, new: old + 0.9 * (new - old), start.params, after.params), 1e-6)
    moved = after.params["head"]["logits"]["bias"] - start.params["head"]["logits"]["bias"]
    assert np.abs(moved).max() == pytest.approx(metrics["learning_rate"], rel=0.05)


@pytest.mark.slow
def test_frozen_parameters_stay_and_are_no_part_of_the_norm(plain):
    rules = ((r"block_00/.*", 0.0), (r".*", 1.0))
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, rate_rules=rules))
    (start, *_, state), (first, *_) = states_of(config)
    assert_close(state.params["block_00"], start.params["block_00"], 0)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), state.params, start.params)))
    assert first["grad_norm"] < plain[1][0]["grad_norm"]


def test_a_crop_that_is_left_to_the_step_is_enlarged_before_all_else():
    corner = np.zeros_like(IMAGES[:1])
    corner[0, :3, :5] = IMAGES[0, :3, :5]
    whole = Image.fromarray(IMAGES[0, :3, :5]).resize((8, 8), Image.Resampling.BILINEAR)
    batch = {"label": LABELS[:1], "parity": np.zeros(1, bool)}
    batches = batch | {"image": np.asarray(whole)[None]}, batch | {"image": corner, "extent": np.int32([[3, 5]])}
    expected, found = (
        jax.jit(partial(shown, config=CONFIG, size=(8, 8), total=10))(jax.random.key(0), b, progress=0)[0]
        for b in batches
    )
    np.testing.assert_allclose(found, expected, atol=1.01 / 255 / min(CONFIG.augment.std))


@pytest.mark.slow
def test_mixing_ends_before_the_last_part():
    """The loss of a mixed batch isn't that of its own labels; the end of the run is as without mixing."""
    mixed = dataclasses.replace(CONFIG.augment, flip=False, crop_padding=0, mixup=50.0, mix_off_last=0.8)
    plain = dataclasses.replace(mixed, mixup=0.0)
    still = dataclasses.replace(CONFIG.optim, learning_rate=1e-12)
    with_, without = (run(dataclasses.replace(CONFIG, augment=a, optim=still))[1] for a in (mixed, plain))
    assert abs(with_[0]["loss"] - without[0]["loss"]) > 1e-3 and abs(with_[1]["loss"] - without[1]["loss"]) > 1e-3
    assert with_[2]["loss"] == pytest.approx(without[2]["loss"], abs=1e-6)  # step 2 of 10: the last 80 % begin


@pytest.mark.slow
def test_a_run_by_the_clock_takes_its_place_from_outside():
    mesh, module = mesh_of(1), models.create(CONFIG.model)
    schedule = learning_rate(CONFIG.optim, 10, 2)
    tx = optim.optimizer(CONFIG.optim, states.abstract_params(module), module.dtype)
    data = DevicePipeline.of(Examples(IMAGES, LABELS), 16, replicated(mesh))
    bound = {
        "fetch": lambda data, seed, step: data.batch_at(seed, step),
        "module": module,
        "tx": tx,
        "schedule": schedule,
        "config": CONFIG,
        "mesh": mesh,
        "total": 10,
    }
    state = states.create(module, tx, 0, mesh)
    timed = TimedProgress(jnp.float32(4.0), jnp.float32(0.5))
    _, metrics = jax.jit(partial(train_steps, count=3, **bound))(state, data, timed)
    np.testing.assert_allclose(metrics["learning_rate"], [schedule(4.0), schedule(4.5), schedule(5.0)], rtol=1e-6)
