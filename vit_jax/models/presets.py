"""Named sizes: "S/4" is width, depth, heads and MLP of ViT-S with 4x4 patches."""

import dataclasses
import re
from typing import Any

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.schema import unknown

# Ti, S: Touvron et al. 2021 (DeiT), table 1. B, L, H: Dosovitskiy et al. 2021 (ViT), table 1. g: Zhai et al. 2022
# ("Scaling Vision Transformers"), table 2.
PRESETS = {
    "Ti": {"width": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "S": {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "B": {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "L": {"width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "H": {"width": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120},
    "g": {"width": 1408, "depth": 40, "heads": 16, "mlp_dim": 6144},
}


def resolve(model: ModelConfig, num_classes: int | None = None) -> ModelConfig:
    """`model` with every size filled in: from its own keys first, then from its variant.

    `num_classes` stands in where the config leaves it to the data set. Raises UserError for an unknown variant
    and for a size that neither the config nor the variant gives.
    """
    sizes: dict[str, Any] = {}
    if model.variant is not None:
        match = re.fullmatch(r"([A-Za-z]+)/(\d+)", model.variant)
        if not match or match[1] not in PRESETS:
            known = [f"{name}/4" for name in PRESETS]
            raise UserError(f"config.model.variant: {unknown('variant', model.variant, known)} (any patch size)")
        sizes = {**PRESETS[match[1]], "patch_size": int(match[2])}
    if num_classes is not None:
        sizes["num_classes"] = num_classes
    own = dataclasses.asdict(model)
    filled = {key: value for key, value in sizes.items() if own[key] is None}
    model = dataclasses.replace(model, **filled)
    if model.head_dim is None and model.width and model.heads:
        if model.width % model.heads:
            raise UserError(
                f"config.model.heads={model.heads} does not divide config.model.width={model.width}; "
                "change one of them or set config.model.head_dim"
            )
        model = dataclasses.replace(model, head_dim=model.width // model.heads)
    attends = model.token_mlp_dim is None or model.pool == "map"
    needed = ("patch_size", "width", "depth", *(("heads",) if attends else ()), "mlp_dim", "num_classes")
    missing = [k for k in needed if getattr(model, k) is None]
    if missing:
        raise UserError(
            f"config.model.{', config.model.'.join(missing)}: not set; set a variant like 'Ti/4' or each of them, or "
            "start from weights that tell: config.init_from"
        )
    return model
