"""Weights of google-research/vision_transformer and big_vision: ViT and its hybrids, MLP-Mixer, as .npz.

The released files have the names of a library before Flax linen, a newly saved one has linen's; in the former, group
norms are (1, 1, 1, C). GELU by tanh, epsilon 1e-6. In vision_transformer the class token has a position, too; in
big_vision, where it comes after them, it has none, and pooling may be by attention.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.models.resnet import output_channels, stage_widths
from vit_jax.models.stems import grid_shape
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.pieces import Piece, norm, positions_table, prefix, reshaped, same
from vit_jax.pretrained.positions import Grid, bilinear_aligned, grid_of
from vit_jax.pretrained.source import (
    TO_ONE,
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

_NORM = ("/scale", "/bias")
_TABLES = (
    "Transformer/posembed_input/pos_embedding",  # vision_transformer's; big_vision's, older and newer:
    *("Transformer/pos_embedding", "pos_embedding"),
)


def recognises(weights: Weights) -> bool:
    return any(re.match(r"(Transformer/encoderblock_|MixerBlock_)\d", name) for name in weights.shapes)


def fields(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a ModelConfig that the arrays' shapes say."""
    shapes = weights.shapes
    if any(name.startswith("MixerBlock_") for name in shapes):
        return _mixer_fields(shapes)
    blocks = _count(r"Transformer/encoderblock_(\d+)/", shapes)
    patch, _, _, width = embedding = shapes.get("embedding/kernel", (1, 1, 3, 1))
    found: dict[str, Any] = {
        "patch_size": patch,
        "channels": channels_of(shapes.get("conv_root/kernel", embedding), 2),
        "width": width,
        "depth": blocks,
        "pool": "token" if "cls" in shapes else "map" if "MAPHead_0/probe" in shapes else "mean",
        "posemb": "learned",
        "activation": "gelu_tanh",
        "norm_eps": 1e-6,
    }
    query = first_shape(r"Transformer/.*/MultiHeadDotProductAttention_\d/query/kernel", shapes)
    if query is not None and len(query) == 3:
        found |= {"heads": query[1], "head_dim": query[2]}
    if (hidden := first_shape(r"Transformer/.*/MlpBlock_\d/Dense_0/kernel", shapes)) is not None:
        found["mlp_dim"] = hidden[-1]
    if "pre_logits/kernel" in shapes:
        found["representation_dim"] = shapes["pre_logits/kernel"][-1]
    if "conv_root/kernel" in shapes:
        stages = range(1, _count(r"block(\d+)/unit", shapes, 1) + 1)
        units = [max(_count(rf"block{i}/unit(\d+)/", shapes, 1), 1) for i in stages]
        found["stem"] = {"kind": "resnet", "widths": (shapes["conv_root/kernel"][-1],), "units": tuple(units)}
    return found | _classes(shapes)


def _mixer_fields(shapes: dict[str, Shape]) -> dict[str, Any]:
    found = {
        "patch_size": shapes.get("stem/kernel", (1,))[0],
        "channels": channels_of(shapes.get("stem/kernel", ()), 2),
        "width": shapes.get("stem/kernel", (1,))[-1],
        "depth": _count(r"MixerBlock_(\d+)/", shapes),
        "pool": "mean",
        "posemb": "none",
        "activation": "gelu_tanh",
        "norm_eps": 1e-6,
    }
    for key, part in (("token_mlp_dim", "token_mixing"), ("mlp_dim", "channel_mixing")):
        found[key] = (first_shape(rf"MixerBlock_\d+/{part}/Dense_0/kernel", shapes) or (1,))[-1]
    return found | _classes(shapes)


def _classes(shapes: dict[str, Shape]) -> dict[str, int]:
    return {"num_classes": shapes["head/kernel"][-1]} if "head/kernel" in shapes else {}


def _count(pattern: str, shapes: dict[str, Shape], first: int = 0) -> int:
    """How many blocks there should be, from the highest number: a gap is then found missing."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return not_more_than(max(numbers, default=first - 1) + 1 - first, shapes)


def layout(weights: Weights, model: Mapping[str, Any], given: Mapping[str, Any]) -> Layout:
    """Grids are square unless the size that they are for is given."""
    shapes, pixels = weights.shapes, pixels_of_a_patch(model)
    table, asked = _table(shapes), pair(given.get("image_size"))
    if model["posemb"] == "sincos2d":  # big_vision's fixed positions, said by hand
        return Layout(0, None, pair(given.get("stored_image_size")) or asked)
    stored = pair(given.get("stored_image_size"))
    if table in shapes:
        token = int("cls" in shapes)
        ways = [token] if table == _TABLES[0] else sorted({0, token})
        before, grid = grid_of(shapes[table][1], ways, over(stored, pixels), over(asked, pixels))
        return Layout(before, grid, (grid[0] * pixels, grid[1] * pixels))
    if model.get("token_mlp_dim") is None:  # a table that is missing is told with all else that is
        size = stored or pair(given.get("image_size"))
        return Layout(int("cls" in shapes), over(size, pixels), size)
    tokens = (first_shape(r"MixerBlock_\d+/token_mixing/Dense_0/kernel", shapes) or (0,))[0]
    size = stored or pair(given.get("image_size"))
    if tokens and size is None:
        _, (height, width) = grid_of(tokens, [0], None, None)
        size = height * pixels, width * pixels
    return Layout(0, None, size)


def _table(shapes: Mapping[str, Shape]) -> str:
    """The name of the learned positions; where there are none, that which they should have."""
    return next((name for name in _TABLES if name in shapes), _TABLES[0])


def pieces(cfg: ModelConfig, weights: Weights, before: int, grid: Grid | None) -> list[Piece]:
    """All of a model's; its positions are those of `grid`, before they are resized, after `before` rows."""
    shapes = weights.shapes
    if cfg.token_mlp_dim is not None:
        return _mixer_pieces(cfg)
    channels = output_channels(cfg) if cfg.stem.kind == "resnet" else cfg.channels
    stem = "stem/patches/proj" if cfg.stem.kind == "resnet" else "stem/proj"
    found = [
        *(_resnet_pieces(cfg, shapes) if cfg.stem.kind == "resnet" else []),
        *_patches(stem, "embedding", cfg, channels),
    ]
    table = _table(shapes) if cfg.posemb == "learned" else None
    if cfg.pool == "token":
        found.append(prefix({"cls": 1}, table, before, grid, cfg.width))
    if table:
        found.append(positions_table(table, before, grid, cfg.width))
    released = any(re.search(r"/MlpBlock_3/", name) for name in shapes)
    for i in range(cfg.depth):
        found += _block(f"block_{i:02d}", f"Transformer/encoderblock_{i}", cfg, released)
    found += norm("norm", "Transformer/encoder_norm", cfg.width, _NORM)
    width = cfg.width
    if cfg.pool == "map":
        found += _attention_pool(cfg)
    if cfg.representation_dim is not None:
        found += _dense("head/representation", "pre_logits", (width,), (cfg.representation_dim,))
        width = cfg.representation_dim
    return found + _dense("head/logits", "head", (width,), (cfg.num_classes,))


def _patches(ours: str, theirs: str, cfg: ModelConfig, channels: int) -> list[Piece]:
    """A convolution of stride P, (P, P, C, D), as linear patches (P*P*C, D)."""
    p, d = cfg.patch_size, cfg.width
    kernel = reshaped(f"{ours}/kernel", f"{theirs}/kernel", (p, p, channels, d), (p * p * channels, d))
    return [kernel, same(f"{ours}/bias", f"{theirs}/bias", (d,))]


def _dense(ours: str, theirs: str, ins: Shape, outs: Shape) -> list[Piece]:
    return [same(f"{ours}/kernel", f"{theirs}/kernel", (*ins, *outs)), same(f"{ours}/bias", f"{theirs}/bias", outs)]


def _block(ours: str, theirs: str, cfg: ModelConfig, released: bool) -> list[Piece]:
    attention, second, mlp = ("_1", "_2", "_3") if released else ("_0", "_1", "_0")
    d, k, e = cfg.width, cfg.heads, cfg.head_dim
    at = f"{theirs}/MultiHeadDotProductAttention{attention}"
    kinds = ("query", "key", "value")

    def split(part: str, axis: int) -> Any:
        return lambda x: {f"{at}/{kind}/{part}": x.take(i, axis) for i, kind in enumerate(kinds)}

    qkv = [
        Piece(
            f"{ours}/attention/qkv/kernel",
            {f"{at}/{kind}/kernel": (d, k, e) for kind in kinds},
            lambda *w: np.stack(w, axis=1),  # (D, 3, K, E)
            split("kernel", 1),
        ),
        Piece(
            f"{ours}/attention/qkv/bias",
            {f"{at}/{kind}/bias": (k, e) for kind in kinds},
            lambda *b: np.stack(b),  # (3, K, E)
            split("bias", 0),
        ),
    ]
    return [
        *norm(f"{ours}/norm_0", f"{theirs}/LayerNorm_0", d, _NORM),
        *qkv,
        reshaped(f"{ours}/attention/out/kernel", f"{at}/out/kernel", (k, e, d), (k * e, d)),
        same(f"{ours}/attention/out/bias", f"{at}/out/bias", (d,)),
        *norm(f"{ours}/norm_1", f"{theirs}/LayerNorm{second}", d, _NORM),
        *_dense(f"{ours}/mlp/dense_0", f"{theirs}/MlpBlock{mlp}/Dense_0", (d,), (cfg.mlp_dim,)),
        *_dense(f"{ours}/mlp/dense_1", f"{theirs}/MlpBlock{mlp}/Dense_1", (cfg.mlp_dim,), (d,)),
    ]


def _attention_pool(cfg: ModelConfig) -> list[Piece]:
    d, k, e, ours = cfg.width, cfg.heads, cfg.head_dim, "head/pool"
    at, kinds = "MAPHead_0/MultiHeadDotProductAttention_0", ("key", "value")

    def split(part: str, axis: int) -> Any:
        return lambda x: {f"{at}/{kind}/{part}": x.take(i, axis) for i, kind in enumerate(kinds)}

    kernels = {f"{at}/{kind}/kernel": (d, k, e) for kind in kinds}
    biases = {f"{at}/{kind}/bias": (k, e) for kind in kinds}
    return [
        reshaped(f"{ours}/probe", "MAPHead_0/probe", (1, 1, d), (1, d)),
        *_dense(f"{ours}/query", f"{at}/query", (d,), (k, e)),
        Piece(f"{ours}/kv/kernel", kernels, lambda *w: np.stack(w, axis=1), split("kernel", 1)),  # (D, 2, K, E)
        Piece(f"{ours}/kv/bias", biases, lambda *b: np.stack(b), split("bias", 0)),  # (2, K, E)
        reshaped(f"{ours}/out/kernel", f"{at}/out/kernel", (k, e, d), (k * e, d)),
        same(f"{ours}/out/bias", f"{at}/out/bias", (d,)),
        *norm(f"{ours}/norm", "MAPHead_0/LayerNorm_0", d, _NORM),
        *_dense(f"{ours}/mlp/dense_0", "MAPHead_0/MlpBlock_0/Dense_0", (d,), (cfg.mlp_dim,)),
        *_dense(f"{ours}/mlp/dense_1", "MAPHead_0/MlpBlock_0/Dense_1", (cfg.mlp_dim,), (d,)),
    ]


def _resnet_pieces(cfg: ModelConfig, shapes: dict[str, Shape]) -> list[Piece]:
    at, root = "stem/resnet", cfg.stem.widths[0]
    found = [same(f"{at}/root/kernel", "conv_root/kernel", (7, 7, cfg.channels, root))]
    found += _group_norm(f"{at}/root_norm", "gn_root", root, shapes)
    channels = root
    for stage, (units, width) in enumerate(zip(cfg.stem.units, stage_widths(cfg), strict=True)):
        for unit in range(units):
            ours, theirs = f"{at}/stage_{stage}_unit_{unit}", f"block{stage + 1}/unit{unit + 1}"
            convs = [("0", "1", 1, channels, width), ("1", "2", 3, width, width), ("2", "3", 1, width, 4 * width)]
            if unit == 0 and (stage or channels != 4 * width):
                convs.append(("shortcut", "_proj", 1, channels, 4 * width))
            for name, number, size, ins, outs in convs:
                found.append(
                    same(f"{ours}/conv_{name}/kernel", f"{theirs}/conv{number}/kernel", (size, size, ins, outs))
                )
                found += _group_norm(f"{ours}/norm_{name}", f"{theirs}/gn{number}", outs, shapes)
            channels = 4 * width
    return found


def _group_norm(ours: str, theirs: str, width: int, shapes: dict[str, Shape]) -> list[Piece]:
    def shape(name: str) -> Shape:
        return (1, 1, 1, width) if len(shapes.get(name, ())) == 4 else (width,)

    return [reshaped(f"{ours}/{k}", f"{theirs}/{k}", shape(f"{theirs}/{k}"), (width,)) for k in ("scale", "bias")]


def _mixer_pieces(cfg: ModelConfig) -> list[Piece]:
    tokens = math.prod(grid_shape(cfg))
    found = _patches("stem/proj", "stem", cfg, cfg.channels)
    for i in range(cfg.depth):
        ours, theirs, d = f"block_{i:02d}", f"MixerBlock_{i}", cfg.width
        found += norm(f"{ours}/norm_0", f"{theirs}/LayerNorm_0", d, _NORM)
        found += _dense(f"{ours}/token_mlp/dense_0", f"{theirs}/token_mixing/Dense_0", (tokens,), (cfg.token_mlp_dim,))
        found += _dense(f"{ours}/token_mlp/dense_1", f"{theirs}/token_mixing/Dense_1", (cfg.token_mlp_dim,), (tokens,))
        found += norm(f"{ours}/norm_1", f"{theirs}/LayerNorm_1", d, _NORM)
        found += _dense(f"{ours}/mlp/dense_0", f"{theirs}/channel_mixing/Dense_0", (d,), (cfg.mlp_dim,))
        found += _dense(f"{ours}/mlp/dense_1", f"{theirs}/channel_mixing/Dense_1", (cfg.mlp_dim,), (d,))
    found += norm("norm", "pre_head_layer_norm", cfg.width, _NORM)
    return found + _dense("head/logits", "head", (cfg.width,), (cfg.num_classes,))


SOURCE = Source(
    "google-research's vision_transformer and big_vision",
    *(recognises, fields, layout, pieces, lambda weights: bilinear_aligned, nothing),
    preprocessing=lambda weights: TO_ONE,
)
