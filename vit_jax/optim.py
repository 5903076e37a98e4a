"""AdamW, learning-rate schedules, and rules "regex over a parameter's path -> value"."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from vit_jax.config import OptimConfig
from vit_jax.errors import UserError


def learning_rate(cfg: OptimConfig, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """step (counted from 0) -> learning rate: linear warmup from 0, then the schedule down to the last step.

    The first step already moves: warmup over n steps gives 1/n, 2/n, ... of the peak.
    """
    peak, end, rest = cfg.learning_rate, cfg.learning_rate * cfg.final_fraction, max(total_steps - warmup_steps, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, cfg.final_fraction),
    }[cfg.schedule]()
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def path_of(key_path: Sequence[Any]) -> str:
    """ "block_00/mlp/dense_0/kernel" of a path as jax.tree_util gives it."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def match(rules: Sequence[tuple[str, float]], params: Any, key: str) -> Any:
    """A tree like `params` with the value of the first rule whose regex matches the whole path of each.

    Raises UserError if a parameter matches no rule, a rule no parameter, or a rule is no regular expression.
    """
    try:
        compiled = [(re.compile(pattern), value) for pattern, value in rules]
    except re.error as error:
        raise UserError(f"{key}: {error.pattern!r} is no regular expression ({error})") from error

    used = set()

    def value_of(key_path: Sequence[Any], _: Any) -> float:
        path = path_of(key_path)
        for pattern, value in compiled:
            if pattern.fullmatch(path):
                used.add(pattern.pattern)
                return value
        raise UserError(f"{key}: no rule matches the parameter {path}; end with a rule for the rest, like ('.*', 0.0)")

    values = jax.tree_util.tree_map_with_path(value_of, params)
    idle = [pattern for pattern, _ in rules if pattern not in used]
    if idle:
        raise UserError(f"{key}: the rule {idle[0]!r} matches no parameter that an earlier rule leaves")
    return values


def optimizer(cfg: OptimConfig, schedule: optax.Schedule, params: Any) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with decay per parameter and clipping of the global gradient norm.

    `params` may be shapes. Decay is multiplied by the learning rate, as in optax and PyTorch.
    """
    factors = match(cfg.decay_rules, params, "config.optim.decay_rules")
    decays = [
        optax.add_decayed_weights(
            cfg.weight_decay * factor, jax.tree.map(lambda f, factor=factor: f == factor, factors)
        )
        for factor in sorted(set(jax.tree.leaves(factors)) - {0.0})
    ]
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm is not None else optax.identity(),
        optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
        *decays,
        optax.scale_by_learning_rate(schedule),
    )
