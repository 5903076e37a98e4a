"""How long a run is: a number of steps, or a time; and what falls due on the way."""

import math
from dataclasses import dataclass

from vit_jax.config import Config
from vit_jax.steps import durations
from vit_jax.steps.clock import Clock
from vit_jax.steps.schedules import TIMED_TOTAL

_AFTERWARDS = 6.0  # seconds kept for saving, drawing and writing after the last step and its evaluation


@dataclass(frozen=True)
class Plan:
    """The end of a run and its progress (schedules.py)."""

    total: int  # progress at the end: the steps, or TIMED_TOTAL of a run by the clock
    seconds: float | None  # of a run by the clock
    clock: str = "wall"  # what they count (config.train.clock)
    reserve: float = 0.0  # seconds of the wall's that are kept for what comes after the last step

    def progress(self, step: int, clock: Clock) -> float:
        """Where the run stands after `step` steps, from 0 to `total`."""
        if self.seconds is None:
            return step
        trained, left = self._left(self.seconds, clock)
        return self.total * trained / (trained + left) if left > 0 else self.total

    def ended(self, step: int, clock: Clock) -> bool:
        return self.progress(step, clock) >= self.total

    def steps_in_all(self, step: int, ended: bool) -> int:
        """Of the whole run; -1 as long as one by the clock hasn't ended."""
        return step if ended else self.total if self.seconds is None else -1

    def too_short(self, clock: Clock) -> str:
        """What is wrong with one by the clock that is over before its first step."""
        return (
            f"a run of {self.seconds:g} s (config.train.length) is over before the first step: starting up took "
            f"{clock.since_start():.1f} s, and {self.reserve:.1f} s are kept for the end; give it more, in another "
            "--workdir"
        )

    def _left(self, seconds: float, clock: Clock) -> tuple[float, float]:
        """Seconds trained, and left for training: what else takes time shortens that, but the schedule still ends."""
        totals = clock.totals()
        spent = totals["wall"] + self.reserve if self.clock == "wall" else totals["train"]
        return totals["train"], seconds - spent

    def say(self, step: int | None = None) -> str:
        """ "1,758 steps" or "600 s"; of a step, "step 7 of 1758" or "step 7 of a run of 600 s"."""
        if self.seconds is None:
            return f"{self.total:,} steps" if step is None else f"step {step} of {self.total}"
        return f"{self.seconds:g} s" if step is None else f"step {step} of a run of {self.seconds:g} s"


def plan_of(config: Config, num_examples: int, reserve: float = 0.0) -> Plan:
    """The plan of a config whose train split has so many examples. Raises UserError for a length that is none."""
    text, key = config.train.length, "config.train.length"
    seconds = durations.seconds_of(text, key)
    if seconds is not None:
        return Plan(TIMED_TOTAL, seconds, config.train.clock, reserve)
    return Plan(
        durations.to_steps(text, key, num_examples=num_examples, batch_size=config.train.batch_size), seconds=None
    )


def warmup_progress(config: Config, num_examples: int) -> int:
    """Progress over which the learning rate rises."""
    return durations.to_steps(
        config.optim.warmup,
        "config.optim.warmup",
        num_examples=num_examples,
        batch_size=config.train.batch_size,
        total_steps=plan_of(config, num_examples).total,
    )


def reserve_of(config: Config, validation: int, test: int, images_per_second: float) -> float:
    """Seconds to keep for evaluating so many images of both splits at this speed, and for what else is at the end."""
    views = validation * (2 if config.train.ema is not None else 1) + test * (2 if config.eval.flips else 1)
    return _AFTERWARDS + 1.1 * views / images_per_second


@dataclass(frozen=True)
class Due:
    """The steps (counted from 1) at which something due `every` so often happens; of a known total always that, too.

    "1 epoch" falls on the step that completes each epoch, so it never drifts when the batch size does not divide the
    epoch. A length of 0 means only at the end.
    """

    every: float  # of unit
    steps: float  # in a unit
    total: int | None  # steps of the run; None: not known

    def __contains__(self, step: int) -> bool:
        if step == self.total:
            return True
        if not self.every or step < 1:
            return False
        nearest = int(step / (self.every * self.steps))
        return any(self._step(k) == step for k in (nearest - 1, nearest, nearest + 1) if k >= 1)

    def times(self) -> float:
        """How often it happens; infinity where the run's steps aren't known."""
        if self.total is None:
            return math.inf
        return 1 + (self.total // (self.every * self.steps) if self.every else 0)

    def _step(self, k: int) -> int:
        # The rounding guards against 0.1 epochs x 45,000 coming out as 4500.000000001.
        return max(math.ceil(round(k * self.every * self.steps, 6)), 1)


def due_of(text: str, key: str, *, num_examples: int, batch_size: int, plan: Plan) -> Due:
    """When what is due every `text` happens. Raises UserError for a text that is no length."""
    number, unit = durations.parse(text, key)
    total = plan.total if plan.seconds is None else None
    steps = {"step": 1.0, "epoch": num_examples / batch_size, "example": 1 / batch_size, "%": plan.total / 100}[unit]
    return Due(number, steps, total)
