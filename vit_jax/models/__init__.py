"""Vision Transformers as pure linen modules, built from a frozen description."""

from vit_jax.models.presets import resolve
from vit_jax.models.vit import VisionTransformer, create, rounded_once

__all__ = ["VisionTransformer", "create", "resolve", "rounded_once"]
