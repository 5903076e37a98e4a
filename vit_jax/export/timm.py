"""A model as one of timm's: which can hold it, its arrays by their names, and the config.json beside them."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.export.view import interpolation, side_or_sides
from vit_jax.models.posembs import LEARNED
from vit_jax.models.stems import grid_shape, image_shape, prefix_tokens
from vit_jax.pretrained import timm
from vit_jax.pretrained.pieces import Piece
from vit_jax.runs.trained import Trained

EVAS = {"rope2d_dinov3": 1e-5, "learned_rope2d": 1e-6}  # posembs of its Eva, and its norms' epsilon there
_POOLS = {"token": "token", "mean": "avg", "map": "map"}
_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(timm.ACTIVATIONS.items())}


def obstacles(cfg: ModelConfig) -> dict[str, bool]:
    """What of a resolved config timm's model for it may have no place for, and whether it does so."""
    if cfg.posemb in EVAS:
        eps, is_dinov3 = EVAS[cfg.posemb], cfg.posemb == "rope2d_dinov3"
        return {
            f"pool={cfg.pool}": cfg.pool not in ("token", "mean"),
            f"norm_eps={cfg.norm_eps}": cfg.norm_eps != eps,
            f"activation={cfg.activation}": cfg.activation != ("silu" if cfg.gated_mlp else "gelu"),
            "registers=0": is_dinov3 and not cfg.registers,
            "layer_scale=None": is_dinov3 and cfg.layer_scale is None,
            "norm_after_pool=True": is_dinov3 and cfg.norm_after_pool,
            "gated_mlp=False": not is_dinov3 and not cfg.gated_mlp,
            "mlp_norm=True": is_dinov3 and cfg.mlp_norm,
            "embed_norm=True": cfg.embed_norm,
            "distill_token=True": cfg.distill_token,
            "qk_norm=True": cfg.qk_norm,
        }
    return {
        f"pool={cfg.pool}": cfg.pool not in _POOLS,
        f"norm_eps={cfg.norm_eps}": cfg.norm_eps != 1e-6
        and (cfg.norm_eps != 1e-5 or cfg.distill_token or cfg.gated_mlp),
        f"activation={cfg.activation}": cfg.activation not in _ACTIVATIONS,
        f"posemb={cfg.posemb}": cfg.posemb == "rope2d",
        "mlp_norm=True": cfg.mlp_norm,
        f"registers={cfg.registers} beside a distillation token": cfg.distill_token and cfg.registers > 0,
        "gated_mlp=True in attention pooling": cfg.gated_mlp and cfg.pool == "map",
        "gated_mlp=True with a distillation token": cfg.gated_mlp and cfg.distill_token,
    }


def pieces(cfg: ModelConfig) -> list[Piece]:
    grid = grid_shape(cfg) if cfg.posemb in LEARNED else None
    return timm.pieces_of(cfg, {}, prefix_tokens(cfg), grid)


def configs(model: Trained, cfg: ModelConfig) -> dict[str, Any]:
    """What lies beside model.safetensors, by name: an architecture of timm's, and which of its arguments are others."""
    height, width, channels = image_shape(cfg)
    hidden = cfg.mlp_dim * (2 if cfg.gated_mlp and cfg.posemb not in EVAS else 1)  # SwiGLUPacked counts both
    args: dict[str, Any] = {
        "img_size": side_or_sides(cfg),
        "in_chans": channels,
        "patch_size": cfg.patch_size,
        "embed_dim": cfg.width,
        "depth": cfg.depth,
        "num_heads": cfg.heads,
        "mlp_ratio": (hidden + 0.5) / cfg.width,  # timm rounds the product down
        "global_pool": _POOLS[cfg.pool],
        "class_token": cfg.pool == "token",
        "qkv_bias": cfg.qkv_bias,
        "qk_norm": cfg.qk_norm,
        "init_values": cfg.layer_scale,
    }
    if cfg.posemb in EVAS:
        # Its own attention has keys without biases.
        args |= {"num_reg_tokens": cfg.registers, "attn_type": "rope"}
        args |= {"swiglu_mlp": True, "swiglu_align_to": 1} if cfg.gated_mlp else {}  # else one layer is both
        if cfg.posemb == "rope2d_dinov3":
            architecture = "vit_small_patch16_dinov3"
        else:
            architecture = "eva02_tiny_patch14_224"
            grid = grid_shape(cfg) if cfg.rope_side is None else (cfg.rope_side, cfg.rope_side)
            args |= {"ref_feat_shape": list(grid), "scale_mlp": cfg.mlp_norm, "use_fc_norm": cfg.norm_after_pool}
    else:
        architecture = _vit(cfg)
        args |= {"fc_norm": cfg.norm_after_pool, "reg_tokens": cfg.registers, "pre_norm": cfg.embed_norm}
        args |= {} if cfg.posemb == "learned" else {"pos_embed": "none"}
        args |= {"act_layer": _ACTIVATIONS[cfg.activation]}
    seen = {
        "input_size": [channels, height, width],
        "fixed_input_size": True,
        "interpolation": interpolation(model),
        "crop_pct": model.crop_pct,
        "mean": list(model.config.augment.mean),
        "std": list(model.config.augment.std),
        "num_classes": cfg.num_classes,
        "label_names": list(model.classes),
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if cfg.distill_token else "head",
    }
    return {
        "config.json": {
            "architecture": architecture,
            "num_classes": cfg.num_classes,
            "num_features": cfg.width,
            "model_args": args,
            "pretrained_cfg": seen,
        }
    }


def _vit(cfg: ModelConfig) -> str:
    """The architecture whose classes, which no argument in a file can name, are the model's."""
    if cfg.distill_token:
        return "deit_base_distilled_patch16_224"
    if cfg.gated_mlp:
        return "vit_giant_patch14_dinov2"
    return "vit_base_patch16_clip_224" if cfg.norm_eps == 1e-5 else "vit_base_patch16_224"


def logits(folder: Path, images: np.ndarray) -> np.ndarray:
    """As timm's own program gives them, (B, C), of images (B, H, W, channels) float32."""
    import timm
    import torch

    with torch.inference_mode():
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
