"""A model as one of transformers': which can hold it, its arrays by their names, and the JSON files beside them.

pool        and                is exported as
token                          ViTForImageClassification
token       distill_token      DeiTForImageClassificationWithTeacher
token       registers=1        DeiTForImageClassification, whose second token isn't classified
token_mean  layer_scale        Dinov2ForImageClassification; with registers, Dinov2WithRegistersForImageClassification
mean                           SiglipForImageClassification
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.data.view import resized_to
from vit_jax.export.view import interpolation, side_or_sides
from vit_jax.models.posembs import ROTARY
from vit_jax.models.stems import grid_shape, image_shape
from vit_jax.pretrained import huggingface
from vit_jax.pretrained.huggingface_names import FAMILIES
from vit_jax.pretrained.pieces import Piece
from vit_jax.runs.trained import Trained

_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(huggingface.ACTIVATIONS.items())}
_RESAMPLE = {"lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
_DINOV2 = ("dinov2", "dinov2_with_registers")


def _family(cfg: ModelConfig) -> str:
    if cfg.distill_token or (cfg.pool == "token" and cfg.registers == 1):
        return "deit"
    if cfg.pool == "token_mean":
        return "dinov2_with_registers" if cfg.registers else "dinov2"
    return "siglip" if cfg.pool == "mean" else "vit"


def obstacles(cfg: ModelConfig) -> dict[str, bool]:
    """What of a resolved config transformers' model for it may have no place for, and whether it does so."""
    family = _family(cfg)
    height, width, _ = image_shape(cfg)
    is_dinov2 = family in _DINOV2
    return {
        f"pool={cfg.pool}": cfg.pool not in ("token", "token_mean", "mean"),
        f"posemb={cfg.posemb}": cfg.posemb in ROTARY,
        f"registers={cfg.registers}": cfg.registers > (family == "deit" and not cfg.distill_token) and not is_dinov2,
        "norm_after_pool=True": cfg.norm_after_pool,
        "embed_norm=True": cfg.embed_norm,
        "layer_scale": cfg.layer_scale is not None and not is_dinov2,
        "layer_scale=None": cfg.layer_scale is None and is_dinov2,
        "qk_norm=True": cfg.qk_norm,
        "mlp_norm=True": cfg.mlp_norm,
        "qkv_bias=False": not cfg.qkv_bias and family == "siglip",
        "gated_mlp=True": cfg.gated_mlp and not is_dinov2,
        f"activation={cfg.activation} of gated MLPs": cfg.gated_mlp and is_dinov2 and cfg.activation != "silu",
        f"mlp_dim={cfg.mlp_dim}": is_dinov2 and _mlp_ratio(cfg) is None,
        f"images of {height} x {width}": (family == "siglip" or is_dinov2) and height != width,
    }


def pieces(cfg: ModelConfig) -> list[Piece]:
    family = _family(cfg)
    before = {"siglip": 0, "deit": 2}.get(family, 1)
    return huggingface.pieces_of(cfg, FAMILIES[family], {}, before, grid_shape(cfg))


def configs(model: Trained, cfg: ModelConfig) -> dict[str, Any]:
    """What lies beside model.safetensors, by name."""
    family = _family(cfg)
    labels = dict(enumerate(model.classes))
    sizes: dict[str, Any] = {
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": cfg.heads,
        "hidden_act": _ACTIVATIONS[cfg.activation],
        "layer_norm_eps": cfg.norm_eps,
        "image_size": side_or_sides(cfg),
        "patch_size": cfg.patch_size,
        "num_channels": cfg.channels,
    }
    if family in _DINOV2:
        sizes |= {"qkv_bias": cfg.qkv_bias, "use_swiglu_ffn": cfg.gated_mlp, "mlp_ratio": _mlp_ratio(cfg)}
        sizes |= {"layerscale_value": cfg.layer_scale}
        sizes |= {"num_register_tokens": cfg.registers} if cfg.registers else {}
    else:
        sizes |= {"intermediate_size": cfg.mlp_dim}
        if family != "siglip":
            sizes |= {"qkv_bias": cfg.qkv_bias, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tower = sizes | {"model_type": "siglip_vision_model", "vision_use_head": False}  # classified is the mean
    texts = {"bos_token_id": None, "eos_token_id": None}  # of the text model that a classifier doesn't have
    named = {"vision_config": tower, "text_config": texts} if family == "siglip" else sizes
    config = {
        "architectures": [_WITH_TEACHER if cfg.distill_token else _CLASSES[family]],
        "model_type": family,
        **named,
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
        "dtype": "float32",
    }
    return {"config.json": config, "preprocessor_config.json": _processor(model, cfg)}


_WITH_TEACHER = "DeiTForImageClassificationWithTeacher"
_CLASSES = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
    "siglip": "SiglipForImageClassification",
}


def _mlp_ratio(cfg: ModelConfig) -> int | None:
    """That of DINOv2's MLPs to the width, a whole number; of a SwiGLU it takes two thirds, rounded up to eights."""
    ratio = round(cfg.mlp_dim * (1.5 if cfg.gated_mlp else 1) / cfg.width)
    hidden = cfg.width * ratio
    hidden = (int(hidden * 2 / 3) + 7) // 8 * 8 if cfg.gated_mlp else hidden
    return ratio if hidden == cfg.mlp_dim else None


def _processor(model: Trained, cfg: ModelConfig) -> dict[str, Any]:
    """What AutoImageProcessor makes: BiT's processor, since ViT's own, before version 5, cuts nothing out.

    Its shortest_edge is the view of data/crops.py where that is a square, but for the middle of an odd rest, which lies
    a pixel before torchvision's. Of another size it knows no more than to stretch the whole image, which is right for
    images of the model's aspect.
    """
    height, width, channels = image_shape(cfg)
    square = height == width and model.image_size[0] == model.image_size[1]
    covered = resized_to((height, width), model.crop_pct).tolist()
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": covered[0]} if square else {"height": covered[0], "width": covered[1]},
        "resample": _RESAMPLE[interpolation(model)],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.config.augment.mean),
        "image_std": list(model.config.augment.std),
    }


def logits(folder: Path, images: np.ndarray) -> np.ndarray:
    """As transformers' own program gives them, (B, C), of images (B, H, W, channels) float32."""
    import torch
    from transformers import AutoModelForImageClassification, DeiTForImageClassificationWithTeacher
    from transformers.utils import logging as transformers_logging

    two_heads = json.loads((folder / "config.json").read_text())["architectures"] == [_WITH_TEACHER]
    kind = DeiTForImageClassificationWithTeacher if two_heads else AutoModelForImageClassification
    # What it says of parts that no classifier uses is not for the one who exports.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with torch.inference_mode():
        model = kind.from_pretrained(folder).eval()
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
