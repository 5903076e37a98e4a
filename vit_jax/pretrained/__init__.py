"""Weights of other projects, and of our own, in and out."""

from vit_jax.pretrained.load import load
from vit_jax.pretrained.write import write_weights

__all__ = ["load", "write_weights"]
