"""Schedules, AdamW and the rules that pick parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.config import OptimConfig
from vit_jax.errors import UserError
from vit_jax.optim import match, optimizer
from vit_jax.schedules import learning_rate

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
    tx = optimizer(cfg, PARAMS)
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
