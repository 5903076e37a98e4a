"""The keys of a step's random numbers: each is used once, for one thing.

With threefry, split(key)[i] is fold_in(key, i), and a key's own bits are the words of its children: parts that use one
key in two ways draw the same numbers without the code's showing it.
"""

from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl
from jax.sharding import AxisType

from vit_jax import models
from vit_jax.config import AugmentConfig, Config, ModelConfig, TrainConfig
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.schedules import learning_rate
from vit_jax.steps.step import train_step

# Everything that is random, switched on.
CONFIG = Config(
    augment=AugmentConfig(
        mean=(0.5,) * 3, std=(0.25,) * 3, flip=True, crop_padding=1, policy="randaugment", rotate=0.1, zoom=0.1,
        cutout=2, erase=0.5, mixup=0.8, cutmix=1.0,
    ),
    model=ModelConfig(
        num_classes=5, image_size=8, patch_size=4, width=8, depth=2, heads=1, mlp_dim=8, head_mlp=(8,),
        token_dropout=0.1, attention_dropout=0.1, mlp_dropout=0.1, head_dropout=0.1, drop_path=0.1,
    ),
    train=TrainConfig(batch_size=4, accumulate=2),
)  # fmt: skip
BATCH = {
    "image": np.random.RandomState(0).randint(256, size=(4, 8, 8, 3)).astype(np.uint8),
    "label": np.arange(4, dtype=np.int32),
    "parity": np.zeros(4, bool),
}


def recorded(make_key, uses):
    """Threefry, each use of a key noted: `uses` has, by the key's words, how often it was used in which way."""

    def note(way, key):
        uses[tuple(np.asarray(key).tolist())].append(way)

    def noting(way, function):
        def noted(words, *arguments):
            jax.debug.callback(partial(note, way), words)
            return function(jax.random.wrap_key_data(words, impl="threefry2x32"), *arguments)

        return noted

    return define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jax.random.key_data(make_key(seed, impl="threefry2x32")),
        split=noting("split", lambda key, shape: jax.random.key_data(jax.random.split(key, shape))),
        fold_in=noting("fold_in", lambda key, data: jax.random.key_data(jax.random.fold_in(key, data))),
        random_bits=noting("bits", lambda key, width, shape: jax.random.bits(key, shape, f"uint{width}")),
        name="threefry2x32_recorded",
    )


@pytest.mark.slow
def test_no_key_of_a_step_is_used_twice(monkeypatch):
    """Of two steps one after the other and, with them, of augmentation, micro-batches, and each layer's dropout."""
    uses, make_key = defaultdict(list), jax.random.key
    impl = recorded(make_key, uses)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    module = models.create(CONFIG.model)
    tx = optim.optimizer(CONFIG.optim, states.abstract_params(module), module.dtype)
    state = states.create(module, tx, 0, mesh)
    monkeypatch.setattr(jax.random, "key", lambda seed: make_key(seed, impl=impl))
    step = partial(
        train_step, fetch=lambda *_: jax.tree.map(jnp.asarray, BATCH), module=module, tx=tx,
        schedule=learning_rate(CONFIG.optim, 10, 2), config=CONFIG, mesh=mesh, total=10,
    )  # fmt: skip
    step = jax.jit(step)
    for _ in range(2):
        state, _ = step(state, None)
    jax.block_until_ready(state)
    jax.effects_barrier()

    drawn = [key for key, ways in uses.items() if "bits" in ways]
    twice = {key: ways for key, ways in uses.items() if ways.count("bits") > 1}
    assert not twice, f"drawn from twice: {twice}"
    mixed = {key: set(ways) for key, ways in uses.items() if len(set(ways)) > 1}
    assert not mixed, f"used in two ways: {mixed}"
    layers = 1 + CONFIG.model.depth * (1 + 2) + (CONFIG.model.depth - 1) * 2 + 2
    # Crop 2 (of an integer's range), flip, policy, rotation and zoom, cutout 2, erasing 5, mixing at least 5.
    assert len(drawn) >= 2 * (2 + 1 + 1 + 2 + 2 + 5 + 5 + CONFIG.train.accumulate * layers)
