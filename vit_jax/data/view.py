"""How encoded images of any size become pixels."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """The images of an evaluation: all of one size, from the middle of the originals."""

    size: tuple[int, int]  # height and width in pixels
    channels: int = 3  # 3 | 1, grey
    crop_pct: float = 1.0  # the central crop has this share of the shorter side (timm's name)
    interpolation: str = "bilinear"  # bilinear | bicubic | lanczos, with antialiasing, as Pillow has them
