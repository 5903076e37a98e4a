"""How encoded images of any size become pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vit_jax.config import DataConfig, ModelConfig


@dataclass(frozen=True)
class View:
    """The images of an evaluation: all of one size, from the middle of the originals."""

    size: tuple[int, int]  # height and width in pixels
    channels: int = 3  # 3 | 1, grey
    crop_pct: float = 1.0  # the central crop has this share of the shorter side (timm's name)
    interpolation: str = "bilinear"  # bilinear | bicubic | lanczos, with antialiasing, as Pillow has them


def view_of(data: DataConfig, model: ModelConfig) -> View:
    """What a config says of it. The images are as large as the model's unless config.data.image_size says how high."""
    from vit_jax.models.stems import image_shape  # doctor looks at data where JAX doesn't start

    height, width = image_shape(model)[:2]
    if data.image_size is not None:
        height, width = data.image_size, round(data.image_size * width / height)
    return View((height, width), model.channels, crop_pct_of(data), interpolation_of(data))


def resized_to(size: Sequence[int], crop_pct: float) -> np.ndarray:
    """What images are resized to cover, height and width, before the view of this `size` is cut out, int (2,).

    Rounded down, as in timm; but 224 / (224 / 249) is 249, though floating point makes it a little less.
    """
    return np.floor(np.asarray(size) / crop_pct + 1e-6).astype(np.int64)


def crop_pct_of(data: DataConfig) -> float:
    return 1.0 if data.crop_pct is None else data.crop_pct


def interpolation_of(data: DataConfig) -> str:
    return data.interpolation or "bilinear"
