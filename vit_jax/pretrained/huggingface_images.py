"""How images come to transformers' models, by the preprocessor_config.json beside them."""

from collections.abc import Mapping
from typing import Any

from vit_jax.pretrained.files import Weights
from vit_jax.pretrained.huggingface_names import family_of
from vit_jax.pretrained.source import Preprocessing, crop_pct_among, preprocessing_of

_PILLOWS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # numbers of interpolations; of others there are none here


def preprocessing(weights: Weights) -> Preprocessing:
    """As preprocessor_config.json says; without one, as the family's published models have it."""
    said = weights.beside("preprocessor_config.json")
    default = family_of(weights).preprocessing
    if said.get("do_normalize") is False:
        found = default._replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    else:
        found = preprocessing_of(said, "image_mean", "image_std", default) or default
    if said.get("do_resize", True) and "resample" in said:
        number = said["resample"]
        found = found._replace(interpolation=_PILLOWS.get(number) if isinstance(number, int) else None)
    return found._replace(crop_pct=_crop_pct(said)) if "size" in said else found


def _crop_pct(said: Mapping[str, Any]) -> float | None:
    """The middle's share of an image whose shorter side is made so large; one that is stretched there is cut here."""
    size, crop = said["size"], said.get("crop_size", {})
    shorter = size.get("shortest_edge", size.get("height")) if isinstance(size, Mapping) else size
    side = crop.get("height") if isinstance(crop, Mapping) else crop
    if not said.get("do_center_crop") or not all(isinstance(n, (int, float)) and n > 0 for n in (side, shorter)):
        return 1.0
    return crop_pct_among(side / shorter)
