"""The targets of a batch. B batch, C classes."""

from typing import NamedTuple

import jax


class Targets(NamedTuple):
    """Of an image whose loss is weight * loss(label) + (1 - weight) * loss(partner)."""

    label: jax.Array  # (B,) int32
    partner: jax.Array  # (B,) int32: the label of the image that was mixed into it
    weight: jax.Array  # (B,) float32, the share of `label`
    teacher: jax.Array | None = None  # (B, C) float32: the logits of one (steps/distill.py); None: there is none
