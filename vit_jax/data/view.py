"""How encoded images of any size become pixels."""

from dataclasses import dataclass

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


def crop_pct_of(data: DataConfig) -> float:
    return 1.0 if data.crop_pct is None else data.crop_pct


def interpolation_of(data: DataConfig) -> str:
    return data.interpolation or "bilinear"
