"""What a loss is told that a batch shows. B batch, C classes."""

from typing import NamedTuple

import jax


class Targets(NamedTuple):
    """What a batch is to be told as. The loss of an image is weight * loss(label) + (1 - weight) * loss(partner)."""

    label: jax.Array  # (B,) int32
    partner: jax.Array  # (B,) int32: the label of the image that was mixed into it
    weight: jax.Array  # (B,) float32, the share of `label`
    teacher: jax.Array | None = None  # (B, C) float32: the logits of one (steps/distill.py); None: there is none
