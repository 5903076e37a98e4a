"""Weights of other projects, and of our own, read; vit_jax/export writes them."""

from vit_jax.pretrained.load import load

__all__ = ["load"]
