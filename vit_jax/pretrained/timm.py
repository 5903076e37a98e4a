"""Weights of timm's VisionTransformer: a state dict as .safetensors or .npz, or a folder with config.json, too.

What a state dict doesn't say is read from such a config.json, or asked for by name: the number of heads and, where timm
has several, with attention pooling or a norm before the blocks, the activation and epsilon. Else epsilon is 1e-6 and
GELU exact.
"""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.models.posembs import LEARNED
from vit_jax.models.resnet import output_channels
from vit_jax.models.stems import prefix_tokens
from vit_jax.pretrained import timm_blocks as blocks
from vit_jax.pretrained import timm_resnet as resnet
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.pieces import (
    Piece,
    norm,
    positions_table,
    prefix,
    same,
    torch_dense,
    torch_patches,
)
from vit_jax.pretrained.positions import Grid, bicubic_antialiased, grid_of
from vit_jax.pretrained.source import (
    TO_ONE,
    Layout,
    Preprocessing,
    Source,
    channels_of,
    crop_pct_among,
    first_shape,
    interpolation_among,
    not_more_than,
    nothing,
    over,
    pair,
    pixels_of_a_patch,
    preprocessing_of,
)
from vit_jax.pretrained.timm_names import EPSILONS, EVA, HEADS, NAMED_ACTIVATIONS, by_name, is_gated, refuse_unknown

_NORM = (".weight", ".bias")
_SCALE = r"blocks\.\d+\.(ls1\.gamma|gamma_1)"
_POOLS = {"token": "token", "avg": "mean", "map": "map"}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
# Arguments of its class that make no other model than what the arrays and the other arguments say.
_ARGS = {
    *("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "class_token"),
    *("global_pool", "fc_norm", "reg_tokens", "qk_norm", "init_values", "act_layer", "no_embed_class", "pos_embed"),
    *("qkv_bias", "proj_bias", "dynamic_img_size", "dynamic_img_pad", "weight_init", "fix_init", "drop_rate"),
    *("pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "in_chans"),
    *("pre_norm", "num_reg_tokens", "attn_type", "swiglu_mlp", "swiglu_align_to", "ref_feat_shape", "scale_mlp"),
    *("qkv_fused", "use_fc_norm"),
}


def recognises(weights: Weights) -> bool:
    return any(re.match(r"blocks\.\d+\.", name) for name in weights.shapes)


def fields(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a ModelConfig that the arrays' shapes, config.json and the pooling that is `given` say."""
    shapes, config = weights.shapes, weights.config
    args, name = config.get("model_args") or {}, str(config.get("architecture", ""))
    refuse_unknown(shapes, name)
    if other := sorted(args.keys() - _ARGS) or ([name] if "rpn" in name else []):
        raise UserError(f"config.json says {', '.join(other)}: that makes a model of timm's that isn't known here")
    patch = shapes.get("patch_embed.proj.weight", (1,))
    is_eva = first_shape(EVA, shapes) is not None or name.startswith("eva")
    is_dinov3 = is_eva and "pos_embed" not in shapes
    pool = given.get("pool", _pool_of(shapes, args.get("global_pool", config.get("global_pool")), is_dinov3))
    hidden = first_shape(r"blocks\.\d+\.mlp\.fc1(_x)?\.weight", shapes) or (1,)
    packed = hidden[0] == 2 * (first_shape(r"blocks\.\d+\.mlp\.fc2\.weight", shapes) or (0,))[-1]
    gated = is_gated(shapes)
    embed_norm = "norm_pre.weight" in shapes
    # Without classifiers DeiT's second token is as good as a register.
    distilled = "dist_token" in shapes and not shapes.keys().isdisjoint(("head.weight", "head_dist.weight"))
    posemb = "rope2d_dinov3" if is_dinov3 else "none"
    if "pos_embed" in shapes:
        posemb = "learned_rope2d" if is_eva and gated else "learned"  # EVA-02, or any other
    found = {
        "patch_size": patch[-1],
        "channels": channels_of(resnet.root_of(shapes) or patch, 1),
        "width": patch[0],
        "depth": not_more_than(max(int(m[1]) for n in shapes if (m := re.match(r"blocks\.(\d+)\.", n))) + 1, shapes),
        "mlp_dim": hidden[0] // 2 if packed else hidden[0],
        "gated_mlp": gated,
        "mlp_norm": first_shape(r"blocks\.\d+\.mlp\.norm\.weight", shapes) is not None,
        "embed_norm": embed_norm,
        "distill_token": distilled,
        "pool": pool,
        "norm_after_pool": "fc_norm.weight" in shapes,
        # A class token that isn't pooled is as good as a register.
        "registers": shapes.get("reg_token", (1, 0))[1]
        + ("cls_token" in shapes and pool != "token")
        + ("dist_token" in shapes and not distilled),
        "posemb": posemb,
        "qkv_bias": _has_qkv_bias(shapes),
        "qk_norm": (norm_of_a_head := first_shape(r"blocks\.\d+\.attn\.q_norm\.weight", shapes)) is not None,
        "layer_scale": float(args.get("init_values") or 1e-5) if first_shape(_SCALE, shapes) else None,
    }
    if (stem := resnet.stem_of(shapes)) is not None:
        found["stem"] = stem
    if posemb == "learned_rope2d":  # all of them count in those of 224 pixels
        found["rope_side"] = (pair(args.get("ref_feat_shape")) or (16, 16))[0]
    if "head.weight" in shapes:
        found["num_classes"] = shapes["head.weight"][0]
    heads = patch[0] // norm_of_a_head[0] if norm_of_a_head else args.get("num_heads")
    if heads is None and given.get("heads") is None:
        heads = by_name(HEADS, name)
    if heads is not None:
        found["heads"] = heads
    # Without a name: what all have that have such parts, or nothing.
    epsilon = 1e-5 if is_dinov3 else by_name(EPSILONS, name) or (None if embed_norm else 1e-6)
    if epsilon is not None:
        found["norm_eps"] = epsilon
    act = args.get("act_layer") or ("silu" if found["gated_mlp"] else by_name(NAMED_ACTIVATIONS, name))
    if act is None and not embed_norm and pool != "map":
        act = "gelu"
    return found if act is None else found | {"activation": _activation(act)}


def _pool_of(shapes: Mapping[str, Shape], named: Any, is_dinov3: bool) -> str:
    """Our name of the pooling that config.json has `named`, or of the one that such arrays come with."""
    if named not in (None, *_POOLS):
        raise UserError(f"config.json says global_pool={named!r}; what there is: {', '.join(_POOLS)}")
    if named is None and any(n.startswith("attn_pool.") for n in shapes):
        named = "map"
    if named is None:
        # timm's own default; a norm after pooling comes by default with the mean alone.
        named = "token" if "cls_token" in shapes and "fc_norm.weight" not in shapes and not is_dinov3 else "avg"
    return _POOLS[named]


def _activation(named: Any) -> str:
    if named not in list(ACTIVATIONS):
        raise UserError(f"config.json says act_layer={named!r}; what there is: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[named]


def _has_qkv_bias(shapes: Mapping[str, Shape]) -> bool:
    return first_shape(r"blocks\..*\.attn\.(qkv\.|q_|q_proj\.)bias", shapes) is not None


def layout(weights: Weights, model: Mapping[str, Any], given: Mapping[str, Any]) -> Layout:
    shapes, pixels = weights.shapes, pixels_of_a_patch(model)
    asked, stored = pair(given.get("image_size")), pair(given.get("stored_image_size") or _image_size(weights.config))
    if "pos_embed" not in shapes:
        return Layout(0, None, asked or stored)
    before = sum(name in shapes for name in ("cls_token", "dist_token")) + shapes.get("reg_token", (1, 0))[1]
    # With `no_embed_class` the table has no rows for them; DeiT's distilled models always have.
    ways = [before] if "dist_token" in shapes or not before else [before, 0]
    before, grid = grid_of(shapes["pos_embed"][1], ways, over(stored, pixels), over(asked, pixels))
    return Layout(before, grid, (grid[0] * pixels, grid[1] * pixels))


def _image_size(config: Mapping[str, Any]) -> int | list[int] | None:
    size = (config.get("model_args") or {}).get("img_size")
    seen = (config.get("pretrained_cfg") or {}).get("input_size")
    return size or (seen[1:] if seen else None)  # (C, H, W)


def pieces(cfg: ModelConfig, weights: Weights, before: int, grid: Grid | None) -> list[Piece]:
    """All of a model's."""
    return pieces_of(cfg, weights.shapes, before, grid)


def pieces_of(cfg: ModelConfig, shapes: Mapping[str, Shape], before: int, grid: Grid | None) -> list[Piece]:
    """All of a model's whose file has these arrays; with none, those that timm would save."""
    d, table = cfg.width, "pos_embed" if cfg.posemb in LEARNED else None
    if cfg.stem.kind == "resnet":
        ours, channels, found = "stem/patches/proj", output_channels(cfg), resnet.pieces(cfg)
    else:
        ours, channels, found = "stem/proj", cfg.channels, []
    found += torch_patches(ours, "patch_embed.proj", cfg.patch_size, channels, d, not cfg.embed_norm)
    class_token = "cls_token" in shapes if shapes else cfg.pool == "token"
    second = "dist_token" in shapes if shapes else cfg.distill_token
    registers = prefix_tokens(cfg) - class_token - second
    tokens = {"cls_token": int(class_token), "dist_token": int(second), "reg_token": registers}
    if any(tokens.values()):
        found.append(prefix({k: n for k, n in tokens.items() if n}, table, before, grid, d))
    if table and grid is not None:
        found.append(positions_table(table, before, grid, d))
    if cfg.embed_norm:
        found += norm("embed_norm", "norm_pre", d, _NORM)
    qkv_bias = _has_qkv_bias(shapes) if shapes else cfg.qkv_bias
    is_eva = cfg.posemb in ("rope2d_dinov3", "learned_rope2d")
    in_two = "blocks.0.mlp.fc1_g.weight" in shapes if shapes else is_eva
    gammas = "blocks.0.gamma_1" in shapes if shapes else is_eva
    proj_bias = not shapes or first_shape(r"blocks\..*\.(attn\.proj|mlp\.fc1|mlp\.fc2)\.bias", shapes) is not None
    for i in range(cfg.depth):
        ours, theirs = f"block_{i:02d}", f"blocks.{i}"
        found += blocks.block(cfg, ours, theirs, shapes, qkv_bias, proj_bias)
        found += blocks.mlp(cfg, f"{ours}/mlp", f"{theirs}.mlp", proj_bias, not in_two)
        if cfg.layer_scale is not None:
            names = ("gamma_1", "gamma_2") if gammas else ("ls1.gamma", "ls2.gamma")
            found += [same(f"{ours}/scale_{k}", f"{theirs}.{name}", (d,)) for k, name in enumerate(names)]
    found += norm(*(("head/norm", "fc_norm") if cfg.norm_after_pool else ("norm", "norm")), d, _NORM)
    if cfg.pool == "map":
        found += blocks.attention_pool(cfg)
    found += torch_dense("head/logits", "head", (d,), (cfg.num_classes,))
    if cfg.distill_token:
        found += torch_dense("head/logits_distill", "head_dist", (d,), (cfg.num_classes,))
    return found


def preprocessing(weights: Weights) -> Preprocessing | None:
    """As config.json says; without one, that of most of timm's vision transformers."""
    said = weights.config.get("pretrained_cfg")
    found = preprocessing_of(said, "mean", "std", TO_ONE._replace(interpolation="bicubic", crop_pct=0.9))
    if found is None or not isinstance(said, Mapping):
        return found
    return found._replace(
        interpolation=interpolation_among(said.get("interpolation", found.interpolation)),
        crop_pct=crop_pct_among(said.get("crop_pct", found.crop_pct)),
    )


SOURCE = Source(
    *("timm", recognises, fields, layout, pieces),
    *(lambda weights: bicubic_antialiased, nothing, preprocessing),
)
