"""Weights of transformers' vision models: a folder with model.safetensors and config.json.

ViT, DeiT, ViT-MAE's encoder, ViT-MSN, DINOv2 (also with registers), DINOv3, and the image towers of CLIP and SigLIP.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.huggingface_images import preprocessing
from vit_jax.pretrained.huggingface_names import Family, family_of, first_of, has, name_of
from vit_jax.pretrained.pieces import (
    Piece,
    Rows,
    norm,
    positions_table,
    prefix,
    same,
    torch_dense,
    torch_dense_rows,
    torch_dense_stack,
    torch_patches,
)
from vit_jax.pretrained.positions import Grid, Resize, grid_of
from vit_jax.pretrained.source import (
    Layout,
    Source,
    channels_of,
    not_more_than,
    over,
    pair,
    pixels_of_a_patch,
)

_NORM = (".weight", ".bias")
_LAYER = re.compile(r"(?!text_model\.|decoder\.)(?:\w+\.)?(?:encoder\.layers?|layers?)\.(\d+)\.")
_EMBEDS = re.compile(r"(?!text_model\.|decoder\.)(?:\w+\.)?embeddings\.")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu_squared",
}
# Of other tasks: masked images, features of ViTModel, texts. A classifier uses none.
_UNUSED = re.compile(
    r"(\w+\.)?(embeddings\.(mask_token|position_ids)|pooler\.dense\.(weight|bias))"
    r"|(decoder|text_model)\..*|text_projection\..*|logit_(scale|bias)"
    r"|(vision_model\.)?head\..*"  # SigLIP's pooling, in a file with a classifier that takes the mean
)


def recognises(weights: Weights) -> bool:
    return any(map(_EMBEDS.match, weights.shapes)) and any(map(_LAYER.match, weights.shapes))


def ignored(name: str) -> bool:
    return bool(_UNUSED.fullmatch(name))


def _said(weights: Weights, family: Family) -> dict[str, Any]:
    """What config.json says of the image's model, what it leaves out included; {} without one."""
    config = weights.config
    return {**family.defaults, **config, **(config.get("vision_config") or {})} if config else {}


def fields(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a ModelConfig that config.json and the arrays' shapes say; the former is needed for some."""
    shapes, family = weights.shapes, family_of(weights)
    config = _said(weights, family)
    act = config.get("hidden_act", "gelu")
    if act not in list(ACTIVATIONS):
        raise UserError(f"config.json says hidden_act={act!r}; what there is: {', '.join(ACTIVATIONS)}")
    if float(config.get("rope_theta", 100.0)) != 100.0:
        raise UserError(f"config.json says rope_theta={config['rope_theta']}; what there is: 100.0")
    patch = first_of(family, shapes, "patches", "weight") or (1, 3, 1, 1)
    layers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
    found = {
        "patch_size": patch[-1] if len(patch) == 4 else config.get("patch_size"),
        "channels": channels_of(patch, 1) if len(patch) == 4 else int(config.get("num_channels", 3)),
        "width": patch[0],
        "depth": not_more_than(int(config.get("num_hidden_layers", max(layers) + 1)), shapes),
        "mlp_dim": _mlp_dim(family, shapes, config),
        "posemb": "learned" if "positions" in family.names else "rope2d_dinov3",
        "activation": ACTIVATIONS[act] if config else None,
        "gated_mlp": has(family, shapes, "gate") or has(family, shapes, "gate_up"),
        "qkv_bias": any(_has_biases(family, shapes)),
        "layer_scale": float(config.get("layerscale_value", 1.0)) if has(family, shapes, "scale1") else None,
        "embed_norm": has(family, shapes, "embed_norm"),
        "norm_eps": float(config.get("layer_norm_eps", family.defaults["layer_norm_eps"])),
    }
    if has(family, shapes, "gate_up"):  # of DINOv2, whatever config.json says
        found["activation"] = "silu"
    if "num_attention_heads" in config:
        found["heads"] = config["num_attention_heads"]
    return found | _head(family, shapes, given.get("num_classes") != 0)


def _mlp_dim(family: Family, shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> int:
    if packed := first_of(family, shapes, "gate_up", "weight"):
        return packed[0] // 2
    hidden = first_of(family, shapes, "gate", "weight") or first_of(family, shapes, "fc1", "weight")
    return (hidden or (config.get("intermediate_size", 1),))[0]


def _head(family: Family, shapes: Mapping[str, Shape], classifies: bool) -> dict[str, Any]:
    """Pooling, tokens before the patches, classes."""
    logits = first_of(family, shapes, "logits", "weight")
    registers = (first_of(family, shapes, "registers") or (1, 0))[1]
    found: dict[str, Any] = {"pool": family.pool, "registers": registers}
    if has(family, shapes, "logits_distill"):
        found["distill_token"] = True
    elif has(family, shapes, "distillation"):  # it takes part, unclassified
        found["registers"] = 1 + registers
    if logits is not None:
        found["num_classes"] = logits[0]
        patches = first_of(family, shapes, "patches", "weight")
        if patches and logits[1:] == (2 * patches[0],):
            found["pool"] = "token_mean"
        elif family.pool == "map" and "classifier.weight" in shapes:
            found["pool"] = "mean"
        elif classifies and family.pool == "token" and "embed_norm" in family.names and "classifier.weight" in shapes:
            raise UserError(
                "CLIPForImageClassification classifies tokens that no last norm has seen: there is no such model here; "
                "its features there are, with num_classes=0"
            )
    return found


def _has_biases(family: Family, shapes: Mapping[str, Shape]) -> tuple[bool, ...]:
    """Of queries, keys and values."""
    return tuple(first_of(family, shapes, kind, "bias") is not None for kind in "qkv")


def layout(weights: Weights, model: Mapping[str, Any], given: Mapping[str, Any]) -> Layout:
    family, shapes = family_of(weights), weights.shapes
    said = pair(_said(weights, family).get("image_size"))
    stored, pixels = pair(given.get("stored_image_size")) or said, pixels_of_a_patch(model)
    before = _tokens_with_positions(family, shapes)
    table = first_of(family, shapes, "positions")
    if model["posemb"] != "learned":
        return Layout(0, None, pair(given.get("image_size")) or stored)
    if table is None:  # a table that is missing is told with all else that is
        size = stored or pair(given.get("image_size"))
        return Layout(before, over(size, pixels), size)
    before, grid = grid_of(table[-2], [before], over(stored, pixels), over(pair(given.get("image_size")), pixels))
    return Layout(before, grid, (grid[0] * pixels, grid[1] * pixels))


def _tokens_with_positions(family: Family, shapes: Mapping[str, Shape]) -> int:
    """Class token and DeiT's second one; registers come after positions are added."""
    return (family.pool != "map") + has(family, shapes, "distillation")


def pieces(cfg: ModelConfig, weights: Weights, before: int, grid: Grid | None) -> list[Piece]:
    """All of a model's."""
    return pieces_of(cfg, family_of(weights), weights.shapes, before, grid)


def pieces_of(
    cfg: ModelConfig, family: Family, shapes: Mapping[str, Shape], before: int, grid: Grid | None
) -> list[Piece]:
    """All of a model's, in a family whose file has these arrays; with none, those that transformers would save."""
    d = cfg.width

    def name(part: str, i: int = 0) -> str:
        return name_of(family, shapes, part, i)

    linear = len(first_of(family, shapes, "patches", "weight") or ()) == 2
    found = _patches(cfg, name("patches"), linear, cfg.embed_norm)
    table = name("positions") if grid is not None else None
    leading = table is None or not table.endswith(".weight")  # of an embedding, it has no axis of one
    has_second = cfg.distill_token or (has(family, shapes, "distillation") if shapes else before == 2)
    tokens = _tokens(cfg, family, has_second)
    if tokens:
        found.append(prefix({name(part): n for part, n in tokens.items()}, table, before, grid, d, leading))
    if table is not None and grid is not None:
        found.append(positions_table(table, before, grid, d, leading))
    if cfg.embed_norm:
        found += norm("embed_norm", name("embed_norm"), d, _NORM)
    biases = _has_biases(family, shapes) if shapes else (cfg.qkv_bias,) * 3
    packed = has(family, shapes, "gate_up") if shapes else "gate_up" in family.names
    for i in range(cfg.depth):
        found += _block(cfg, f"block_{i:02d}", lambda part, i=i: name(part, i), biases, packed)
    found += norm("norm", name("norm"), d, _NORM)
    if cfg.pool == "map":
        found += _attention_pool(cfg, name("pool"))
    features = 2 * d if cfg.pool == "token_mean" else d
    logits = name("logits") if shapes or not cfg.distill_token else "cls_classifier"
    projected = logits.endswith("visual_projection")
    found += torch_dense("head/logits", logits, (features,), (cfg.num_classes,), not projected)
    if cfg.distill_token:
        found += torch_dense("head/logits_distill", name("logits_distill"), (d,), (cfg.num_classes,))
    return found


def _patches(cfg: ModelConfig, theirs: str, linear: bool, no_bias: bool) -> list[Piece]:
    if linear:
        return torch_dense("stem/proj", theirs, (cfg.patch_size**2 * cfg.channels,), (cfg.width,))
    return torch_patches("stem/proj", theirs, cfg.patch_size, cfg.channels, cfg.width, not no_bias)


def _tokens(cfg: ModelConfig, family: Family, has_second: bool) -> dict[str, int]:
    """Parts that are tokens before the patches, in our order, and how many each is; DeiT has a second one."""
    registers = cfg.registers - (has_second and not cfg.distill_token)
    counts = {"token": int(family.pool == "token"), "distillation": int(has_second), "registers": registers}
    return {part: count for part, count in counts.items() if count}


def _block(cfg: ModelConfig, ours: str, name: Any, biases: tuple[bool, ...], packed: bool) -> list[Piece]:
    d, heads, inner = cfg.width, (cfg.heads, cfg.head_dim), cfg.heads * cfg.head_dim
    found = norm(f"{ours}/norm_0", name("norm1"), d, _NORM)
    qkv = torch_dense_stack(f"{ours}/attention/qkv", [name(kind) for kind in "qkv"], d, heads, biases)
    found += qkv if cfg.qkv_bias else qkv[:1]
    found += torch_dense(f"{ours}/attention/out", name("o"), (inner,), (d,))
    found += norm(f"{ours}/norm_1", name("norm2"), d, _NORM)
    hidden = (cfg.mlp_dim,)
    if not cfg.gated_mlp:
        found += torch_dense(f"{ours}/mlp/dense_0", name("fc1"), (d,), hidden)
        found += torch_dense(f"{ours}/mlp/dense_1", name("fc2"), hidden, (d,))
    elif packed:
        found += torch_dense_rows(f"{ours}/mlp", ("gate", "dense_0"), name("gate_up"), d, cfg.mlp_dim)
        found += torch_dense(f"{ours}/mlp/dense_1", name("down"), hidden, (d,))
    else:
        for part, theirs in (("gate", "gate"), ("dense_0", "up")):
            found += torch_dense(f"{ours}/mlp/{part}", name(theirs), (d,), hidden)
        found += torch_dense(f"{ours}/mlp/dense_1", name("down"), hidden, (d,))
    if cfg.layer_scale is not None:
        found += [same(f"{ours}/scale_{i}", name(f"scale{i + 1}"), (d,)) for i in range(2)]
    return found


def _attention_pool(cfg: ModelConfig, theirs: str) -> list[Piece]:
    """SigLIP's, around PyTorch's MultiheadAttention, whose rows are queries', then keys', then values'."""
    d, heads, at = cfg.width, (cfg.heads, cfg.head_dim), "head/pool"
    kernel, bias = f"{theirs}.attention.in_proj_weight", f"{theirs}.attention.in_proj_bias"
    shapes = {kernel: (3 * d, d)}, {bias: (3 * d,)}

    def rows(x: np.ndarray) -> np.ndarray:
        return x.reshape(3, *heads, *x.shape[1:])  # (3, K, E, D) or (3, K, E)

    def weights_out(x: np.ndarray) -> np.ndarray:
        return x.reshape(d, -1).T  # of queries (D, K, E), of keys and values (D, 2, K, E)

    return [
        Piece(f"{at}/probe", {f"{theirs}.probe": (1, 1, d)}, lambda x: x[0], lambda x: {f"{theirs}.probe": x[None]}),
        Piece(
            f"{at}/query/kernel",
            shapes[0],
            lambda w: np.moveaxis(rows(w)[0], -1, 0),
            lambda x: {kernel: Rows(0, 3 * d, weights_out(x))},
        ),
        Piece(f"{at}/query/bias", shapes[1], lambda b: rows(b)[0], lambda x: {bias: Rows(0, 3 * d, x.reshape(-1))}),
        Piece(
            f"{at}/kv/kernel",
            shapes[0],
            lambda w: np.moveaxis(rows(w)[1:], -1, 0),
            lambda x: {kernel: Rows(d, 3 * d, weights_out(x))},
        ),
        Piece(f"{at}/kv/bias", shapes[1], lambda b: rows(b)[1:], lambda x: {bias: Rows(d, 3 * d, x.reshape(-1))}),
        *torch_dense(f"{at}/out", f"{theirs}.attention.out_proj", (cfg.heads * cfg.head_dim,), (d,)),
        *norm(f"{at}/norm", f"{theirs}.layernorm", d, _NORM),
        *torch_dense(f"{at}/mlp/dense_0", f"{theirs}.mlp.fc1", (d,), (cfg.mlp_dim,)),
        *torch_dense(f"{at}/mlp/dense_1", f"{theirs}.mlp.fc2", (cfg.mlp_dim,), (d,)),
    ]


def resize(weights: Weights) -> Resize:
    return family_of(weights).resize


SOURCE = Source("Hugging Face's ViTs", recognises, fields, layout, pieces, resize, ignored, preprocessing)
