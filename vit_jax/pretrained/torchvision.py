"""Weights of torchvision's VisionTransformer: a state dict as .safetensors or .npz. The number of heads isn't in it."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.pretrained.files import Weights
from vit_jax.pretrained.pieces import Piece, norm, positions_table, prefix, torch_dense, torch_patches
from vit_jax.pretrained.positions import Grid, bicubic_aligned, grid_of
from vit_jax.pretrained.source import (
    IMAGENET,
    Layout,
    Source,
    channels_of,
    first_shape,
    not_more_than,
    nothing,
    over,
    pair,
    pixels_of_a_patch,
)

_LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."
_NORM = (".weight", ".bias")
_TABLE = "encoder.pos_embedding"


def recognises(weights: Weights) -> bool:
    return any(re.match(_LAYER, name) for name in weights.shapes)


def fields(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a ModelConfig that the arrays' shapes say."""
    shapes = weights.shapes
    patch = shapes.get("conv_proj.weight", (1, 3, 1, 1))
    found = {
        "patch_size": patch[-1],
        "channels": channels_of(patch, 1),
        "width": patch[0],
        "depth": not_more_than(max(int(m[1]) for n in shapes if (m := re.match(_LAYER, n))) + 1, shapes),
        "mlp_dim": (first_shape(rf"{_LAYER}mlp\.(0|linear_1)\.weight", shapes) or (1,))[0],
        "pool": "token",
        "posemb": "learned",
        "activation": "gelu",
        "norm_eps": 1e-6,
    }
    if "heads.head.weight" in shapes:
        found["num_classes"] = shapes["heads.head.weight"][0]
    if "heads.pre_logits.weight" in shapes:
        found["representation_dim"] = shapes["heads.pre_logits.weight"][0]
    return found


def layout(weights: Weights, model: Mapping[str, Any], given: Mapping[str, Any]) -> Layout:
    pixels, asked = pixels_of_a_patch(model), pair(given.get("image_size"))
    stored = pair(given.get("stored_image_size"))
    if _TABLE not in weights.shapes:  # told with all else that is missing
        return Layout(1, over(stored or asked, pixels), stored or asked)
    before, grid = grid_of(weights.shapes[_TABLE][1], [1], over(stored, pixels), over(asked, pixels))
    return Layout(before, grid, (grid[0] * pixels, grid[1] * pixels))


def pieces(cfg: ModelConfig, weights: Weights, before: int, grid: Grid | None) -> list[Piece]:
    d, shapes = cfg.width, weights.shapes
    found = torch_patches("stem/proj", "conv_proj", cfg.patch_size, cfg.channels, d)
    found.append(prefix({"class_token": 1}, _TABLE, before, grid, d))
    if grid is not None:
        found.append(positions_table(_TABLE, before, grid, d))
    named = first_shape(rf"{_LAYER}mlp\.linear_1\.weight", shapes) is not None  # before torchvision 0.12
    first, second = ("linear_1", "linear_2") if named else ("0", "3")
    for i in range(cfg.depth):
        ours, theirs = f"block_{i:02d}", f"encoder.layers.encoder_layer_{i}"
        found += norm(f"{ours}/norm_0", f"{theirs}.ln_1", d, _NORM)
        found += _attention(cfg, f"{ours}/attention", f"{theirs}.self_attention")
        found += norm(f"{ours}/norm_1", f"{theirs}.ln_2", d, _NORM)
        found += torch_dense(f"{ours}/mlp/dense_0", f"{theirs}.mlp.{first}", (d,), (cfg.mlp_dim,))
        found += torch_dense(f"{ours}/mlp/dense_1", f"{theirs}.mlp.{second}", (cfg.mlp_dim,), (d,))
    found += norm("norm", "encoder.ln", d, _NORM)
    features = cfg.representation_dim or d
    if cfg.representation_dim is not None:
        found += torch_dense("head/representation", "heads.pre_logits", (d,), (features,))
    return found + torch_dense("head/logits", "heads.head", (features,), (cfg.num_classes,))


def _attention(cfg: ModelConfig, ours: str, theirs: str) -> list[Piece]:
    """PyTorch's MultiheadAttention: queries', keys' and values' rows one after the other."""
    d, outs = cfg.width, (3, cfg.heads, cfg.head_dim)
    weight, bias = f"{theirs}.in_proj_weight", f"{theirs}.in_proj_bias"

    def kernel_out(x: np.ndarray) -> dict[str, np.ndarray]:
        return {weight: x.reshape(d, 3 * d).T}

    return [
        Piece(f"{ours}/qkv/kernel", {weight: (3 * d, d)}, lambda w: w.T.reshape(d, *outs), kernel_out),
        Piece(f"{ours}/qkv/bias", {bias: (3 * d,)}, lambda b: b.reshape(outs), lambda x: {bias: x.reshape(-1)}),
        *torch_dense(f"{ours}/out", f"{theirs}.out_proj", (d,), (d,)),
    ]


SOURCE = Source(
    *("torchvision", recognises, fields, layout, pieces, lambda weights: bicubic_aligned, nothing),
    preprocessing=lambda weights: IMAGENET._replace(interpolation="bilinear", crop_pct=224 / 256),
)
