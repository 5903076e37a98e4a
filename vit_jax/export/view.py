"""How images come to a model, as other projects write it down."""

from vit_jax.config import ModelConfig
from vit_jax.data.view import interpolation_of
from vit_jax.models.stems import image_shape
from vit_jax.runs.trained import Trained


def side_or_sides(cfg: ModelConfig) -> int | list[int]:
    """A side in pixels, or height and width: as all who read weights take them."""
    height, width, _ = image_shape(cfg)
    return height if height == width else [height, width]


def interpolation(model: Trained) -> str:
    """How images become as large as the model's: where they are stored so, as the data's were; else in the step."""
    stored_so = model.image_size == image_shape(model.module.cfg)[:2]
    return interpolation_of(model.config.data) if stored_so else "bilinear"
