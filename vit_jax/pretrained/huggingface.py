"""Weights of transformers' ViTForImageClassification and ViTModel: a folder with model.safetensors and config.json.

Names are those of saved files ("vit.encoder.layer.0.attention.attention.query.weight") or those that version 5 has in
memory ("vit.layers.0.attention.q_proj.weight"); without a classifier also without "vit.". The class token's output is
classified.
"""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.pieces import (
    Piece,
    norm,
    positions_table,
    prefix,
    torch_dense,
    torch_dense_stack,
    torch_patches,
)
from vit_jax.pretrained.positions import Grid, bicubic, grid_of
from vit_jax.pretrained.source import (
    TO_ONE,
    Layout,
    Normalisation,
    Source,
    channels_of,
    first_shape,
    normalisation_of,
    not_more_than,
    over,
    pair,
    pixels_of_a_patch,
)

_NORM = (".weight", ".bias")
_LAYER = re.compile(r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
}
# Of other tasks: masked images, features of ViTModel. A classifier uses neither.
_UNUSED = re.compile(r"(vit\.)?(embeddings\.mask_token|pooler\.dense\.(weight|bias))")


def recognises(weights: Weights) -> bool:
    embeds = any(name.startswith(("embeddings.", "vit.embeddings.")) for name in weights.shapes)
    return embeds and any(_LAYER.match(name) for name in weights.shapes)


def ignored(name: str) -> bool:
    return bool(_UNUSED.fullmatch(name))


def fields(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a ModelConfig that config.json and the arrays' shapes say; the former is needed for some."""
    shapes, config = weights.shapes, weights.config
    if config and config.get("model_type") != "vit":
        raise UserError(f'config.json says model_type={config.get("model_type")!r}; what is read is "vit"')
    act = config.get("hidden_act", "gelu")
    if act not in list(ACTIVATIONS):
        raise UserError(f"config.json says hidden_act={act!r}; what there is: {', '.join(ACTIVATIONS)}")
    at = _prefix(shapes)
    patch = shapes.get(f"{at}embeddings.patch_embeddings.projection.weight", (1, 3, 1, 1))
    layers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
    hidden = first_shape(r".*\.(intermediate\.dense|mlp\.fc1)\.weight", shapes)
    found = {
        "patch_size": patch[-1],
        "channels": channels_of(patch, 1),
        "width": patch[0],
        "depth": not_more_than(int(config.get("num_hidden_layers", max(layers) + 1)), shapes),
        "mlp_dim": (hidden or (config.get("intermediate_size", 1),))[0],
        "pool": "token",
        "posemb": "learned",
        "activation": ACTIVATIONS[act] if config else None,
        "qkv_bias": _has_qkv_bias(shapes),
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
    }
    if "num_attention_heads" in config:
        found["heads"] = config["num_attention_heads"]
    if "classifier.weight" in shapes:
        found["num_classes"] = shapes["classifier.weight"][0]
    return found


def layout(weights: Weights, model: Mapping[str, Any], given: Mapping[str, Any]) -> Layout:
    rows = weights.shapes.get(f"{_prefix(weights.shapes)}embeddings.position_embeddings", (1, 0))[1]
    stored, pixels = pair(given.get("stored_image_size", weights.config.get("image_size"))), pixels_of_a_patch(model)
    if not rows:  # a table that is missing is told with all else that is
        size = stored or pair(given.get("image_size"))
        return Layout(1, over(size, pixels), size)
    before, grid = grid_of(rows, [1], over(stored, pixels), None)
    return Layout(before, grid, (grid[0] * pixels, grid[1] * pixels))


def _prefix(shapes: dict[str, Shape]) -> str:
    return "vit." if any(name.startswith("vit.") for name in shapes) else ""


def _has_qkv_bias(shapes: dict[str, Shape]) -> bool:
    return first_shape(r".*\.(query|q_proj)\.bias", shapes) is not None


def _layer_names(at: str, i: int, shapes: dict[str, Shape]) -> dict[str, str]:
    """Names of the parts of layer i, as saved or as in memory."""
    if any(name.startswith(f"{at}layers.") for name in shapes):
        layer = f"{at}layers.{i}"
        attention = {k: f"{layer}.attention.{k}_proj" for k in "qkvo"}
        return {"layer": layer, **attention, "fc1": f"{layer}.mlp.fc1", "fc2": f"{layer}.mlp.fc2"}
    layer = f"{at}encoder.layer.{i}"
    attention = {
        k: f"{layer}.attention.attention.{name}" for k, name in zip("qkv", ("query", "key", "value"), strict=True)
    }
    rest = {
        "o": f"{layer}.attention.output.dense",
        "fc1": f"{layer}.intermediate.dense",
        "fc2": f"{layer}.output.dense",
    }
    return {"layer": layer, **attention, **rest}


def pieces(cfg: ModelConfig, shapes: dict[str, Shape], before: int, grid: Grid | None) -> list[Piece]:
    """All of a model's; with no `shapes`, as they are saved."""
    at = _prefix(shapes) if shapes else "vit."
    d, table = cfg.width, f"{at}embeddings.position_embeddings"
    found = torch_patches("stem/proj", f"{at}embeddings.patch_embeddings.projection", cfg.patch_size, cfg.channels, d)
    found.append(prefix({f"{at}embeddings.cls_token": 1}, table, before, grid, d))
    found.append(positions_table(table, before, grid, d))
    stored_bias = _has_qkv_bias(shapes) if shapes else cfg.qkv_bias
    for i in range(cfg.depth):
        ours, names = f"block_{i:02d}", _layer_names(at, i, shapes)
        heads, inner = (cfg.heads, cfg.head_dim), cfg.heads * cfg.head_dim
        found += norm(f"{ours}/norm_0", f"{names['layer']}.layernorm_before", d, _NORM)
        qkv = torch_dense_stack(f"{ours}/attention/qkv", [names[k] for k in "qkv"], d, heads, stored_bias)
        found += qkv if cfg.qkv_bias else qkv[:1]
        found += torch_dense(f"{ours}/attention/out", names["o"], (inner,), (d,))
        found += norm(f"{ours}/norm_1", f"{names['layer']}.layernorm_after", d, _NORM)
        found += torch_dense(f"{ours}/mlp/dense_0", names["fc1"], (d,), (cfg.mlp_dim,))
        found += torch_dense(f"{ours}/mlp/dense_1", names["fc2"], (cfg.mlp_dim,), (d,))
    found += norm("norm", f"{at}layernorm", d, _NORM)
    return found + torch_dense("head/logits", "classifier", (d,), (cfg.num_classes,))


def normalisation(weights: Weights) -> Normalisation | None:
    """As preprocessor_config.json says; without one, ViTImageProcessor's own."""
    said = weights.beside("preprocessor_config.json")
    if said.get("do_normalize") is False:
        return Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return normalisation_of(said, "image_mean", "image_std", TO_ONE)


SOURCE = Source("Hugging Face's ViT", recognises, fields, layout, pieces, bicubic, ignored, normalisation)
