"""Lengths of a run written as people say them: "10 epochs", "500 steps", "45000 examples", "5 %", "600 s"."""

import math
import re

from vit_jax.errors import UserError

_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|examples?|%|s|min)\s*")

_SECONDS = {"s": 1, "min": 60}  # units of time


def parse(text: str, key: str) -> tuple[float, str]:
    """("10 epochs", key) -> (10.0, "epoch"). Units: step, epoch, example, %, s, min. Raises UserError."""
    match = _PATTERN.fullmatch(text)
    if not match:
        raise UserError(
            f'{key}={text!r} is not a length; write a number and a unit, like "500 steps", "10 epochs", '
            '"45000 examples", "5 %" or, for config.train.length, "600 s"'
        )
    number, unit = match.groups()
    if unit.startswith("step") and 0 < float(number) < 1:
        raise UserError(f"{key}={text!r} is less than a step")
    return float(number), unit if unit in _SECONDS else unit.rstrip("s")


def seconds_of(text: str, key: str) -> float | None:
    """ "10 min" -> 600.0; None for a length that is no time. Raises UserError."""
    number, unit = parse(text, key)
    return number * _SECONDS[unit] if unit in _SECONDS else None


def to_steps(text: str, key: str, *, num_examples: int, batch_size: int, total_steps: int | None = None) -> int:
    """The number of whole steps that covers a length.

    Epochs and examples are rounded up: ten epochs of 45,000 examples in batches of 256 are 1,758 steps,
    the last of which reaches into the eleventh epoch. A percentage is of `total_steps`.
    """
    number, unit = parse(text, key)
    if unit in _SECONDS:
        raise UserError(f"{key}={text!r}: only config.train.length may be a time; give steps or epochs")
    if unit == "step":
        return math.ceil(number)
    if unit == "%":
        if total_steps is None:
            raise UserError(f"{key}={text!r}: a percentage has nothing to be a part of here; give steps or epochs")
        return math.ceil(round(number * total_steps / 100, 6))
    examples = number * num_examples if unit == "epoch" else number
    # The rounding guards against 0.1 epochs x 45,000 coming out as 4500.000000001.
    return math.ceil(round(examples / batch_size, 6))
