"""What changes in the course of a run, as functions of its progress.

Progress is the number of steps done where a run's length is in steps, and TIMED_TOTAL * (seconds gone / seconds in all)
where it is a time (train.length="600 s").
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vit_jax.config import OptimConfig

TIMED_TOTAL = 10_000  # the progress at the end of a run whose length is a time

Schedule = Callable[[jax.Array | float], jax.Array | float]  # progress -> value


class TimedProgress(NamedTuple):
    """What a step of a run by the clock is told of its progress, () float32 each."""

    now: jax.Array
    per_step: jax.Array  # how far a step takes it


def learning_rate(cfg: OptimConfig, total: int, warmup: int) -> Schedule:
    """Progress (counted from 0) -> learning rate: linear warmup from 0, then the schedule down to `total`.

    The first step already moves: warmup over n steps gives 1/n, 2/n, ... of the peak. "wsd" is warmup, stable, decay
    (Hu et al. 2024, MiniCPM): the peak up to the last `cfg.decay` of the run, then linearly down.
    """
    peak, end, rest = cfg.learning_rate, cfg.learning_rate * cfg.final_fraction, max(total - warmup, 1)
    decay = min(max(round(cfg.decay * total), 1), rest)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, cfg.final_fraction),
        "wsd": lambda: optax.linear_schedule(peak, end, decay, rest - decay),
    }[cfg.schedule]()
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def ramp(kind: str, progress: jax.Array | float, total: int) -> jax.Array | float:
    """The share in force: 1 all the time ("constant"), or growing from 0 to 1 over the run ("linear")."""
    return 1.0 if kind == "constant" else jnp.clip(progress / total, 0.0, 1.0)
