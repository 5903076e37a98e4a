"""What transformers' vision models call their parts in files, and what is the same for all models of a family.

A part's name is looked up with and without the model's own in front ("vit.", "vision_model."). Some files have the
names that version 5 has in memory; where there are several ways, the first is that of saved files.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from vit_jax.errors import UserError
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.positions import Resize, bicubic, bicubic_antialiased, bilinear
from vit_jax.pretrained.source import IMAGENET, TO_ONE, Preprocessing, first_shape

_OPENAI = Preprocessing((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "bicubic", 1.0)
_IMAGENET = IMAGENET._replace(interpolation="bicubic", crop_pct=224 / 256)
_STRETCHED = TO_ONE._replace(interpolation="bilinear", crop_pct=1.0)

Names = Mapping[str, tuple[str, ...]]  # of parts; {i} is the layer's number


class Family(NamedTuple):
    model: str  # what names begin with in a model of which this one is a part
    names: Names
    defaults: Mapping[str, object]  # of config.json, which leaves out what is as transformers has it
    pool: str
    resize: Resize
    preprocessing: Preprocessing  # where no file says it


def _of_layers(at: str, **names: str) -> dict[str, tuple[str, ...]]:
    return {part: (f"{at}.{{i}}.{name}",) for part, name in names.items()}


def _joined(*ways: Names) -> Names:
    """Several ways to name the same parts."""
    parts = dict.fromkeys(part for way in ways for part in way)
    return {part: tuple(name for way in ways for name in way.get(part, ())) for part in parts}


_EMBEDDINGS: Names = {
    "token": ("embeddings.cls_token",),
    "distillation": ("embeddings.distillation_token",),
    "registers": ("embeddings.register_tokens",),
    "patches": ("embeddings.patch_embeddings.projection",),
    "positions": ("embeddings.position_embeddings",),
    "norm": ("layernorm",),
    "logits": ("classifier", "cls_classifier"),
    "logits_distill": ("distillation_classifier",),
}
_SAVED = {
    **{"q": "attention.attention.query", "k": "attention.attention.key", "v": "attention.attention.value"},
    "o": "attention.output.dense",
}
_IN_MEMORY = {kind: f"attention.{kind}_proj" for kind in "qkvo"}
_MLP = {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_GATED = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
_SCALED = {"norm1": "norm1", "norm2": "norm2", "scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1"}

_VIT = _joined(
    _EMBEDDINGS,
    _of_layers("encoder.layer", **_NORMS, **_SAVED, fc1="intermediate.dense", fc2="output.dense"),
    _of_layers("layers", **_NORMS, **_IN_MEMORY, **_MLP),
)
_DINOV2 = _joined(
    _EMBEDDINGS,
    _of_layers("encoder.layer", **_SCALED, **_SAVED, **_MLP, gate_up="mlp.weights_in", down="mlp.weights_out"),
    _of_layers("encoder.layer", **_IN_MEMORY, **_GATED),
)
_DINOV3 = _joined(
    {part: names for part, names in _EMBEDDINGS.items() if part not in ("patches", "positions", "norm")},
    {"patches": ("embeddings.patch_embeddings",), "norm": ("norm",)},
    _of_layers("layer", **_SCALED, **_IN_MEMORY, **_GATED, fc1="mlp.up_proj", fc2="mlp.down_proj"),
)
_TOWER = _joined(
    {
        "token": ("embeddings.class_embedding",),
        "patches": ("embeddings.patch_embedding",),
        "positions": ("embeddings.position_embedding.weight",),
        "embed_norm": ("pre_layrnorm",),
        "norm": ("post_layernorm",),
        "pool": ("head",),
        "logits": ("classifier", "visual_projection"),
    },
    _of_layers(
        "encoder.layers",
        **{"norm1": "layer_norm1", "norm2": "layer_norm2", "o": "self_attn.out_proj"},
        **{kind: f"self_attn.{kind}_proj" for kind in "qkv"},
        **_MLP,
    ),
)

_BASE = {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "patch_size": 16, "image_size": 224}
_SIGLIP = Family(
    "vision_model.",
    _TOWER,
    {**_BASE, "hidden_act": "gelu_pytorch_tanh"},
    "map",
    bicubic,
    _STRETCHED._replace(interpolation="bicubic"),
)
# Its positions are a square of `num_patches`, whatever the size of an image.
_SIGLIP2 = _SIGLIP._replace(
    defaults={key: value for key, value in _SIGLIP.defaults.items() if key != "image_size"}, resize=bilinear
)
_CLIP = Family(
    "vision_model.",
    _TOWER,
    {**_BASE, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "patch_size": 32},
    *("token", bicubic, _OPENAI),
)
_VIT_FAMILY = Family("vit.", _VIT, {**_BASE, "layer_norm_eps": 1e-12}, "token", bicubic, _STRETCHED)
_DINOV2_FAMILY = Family("dinov2.", _DINOV2, {**_BASE, "patch_size": 14}, "token", bicubic, _IMAGENET)

# By config.json's model_type; one with a text model beside it has its vision_config's.
FAMILIES: dict[str, Family] = {
    "vit": _VIT_FAMILY,
    "vit_msn": _VIT_FAMILY._replace(defaults=_BASE, preprocessing=_IMAGENET),
    "vit_mae": _VIT_FAMILY._replace(preprocessing=_IMAGENET),
    "deit": _VIT_FAMILY._replace(model="deit.", preprocessing=_IMAGENET),
    "dinov2": _DINOV2_FAMILY,
    "dinov2_with_registers": _DINOV2_FAMILY._replace(model="dinov2_with_registers.", resize=bicubic_antialiased),
    "dinov3_vit": Family(
        *("model.", _DINOV3, {**_BASE, "num_attention_heads": 6, "layer_norm_eps": 1e-5}, "token", bicubic, _IMAGENET),
    ),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
}


def name_of(family: Family, shapes: Mapping[str, Shape], part: str, i: int = 0) -> str:
    """The name of a part of layer i, without ".weight"; where the file has none, that which it should have."""
    # What a family doesn't have, yet the model does, is then told as missing.
    names = [name.format(i=i) for name in family.names.get(part, (part,))]
    prefixes = (family.model, "")
    for full in (f"{prefix}{name}" for name in names for prefix in prefixes):
        if full in shapes or any(f"{full}.{kind}" in shapes for kind in ("weight", "bias")):
            return full
    of_classifier = part.startswith("logits")
    alone = bool(shapes) and not any(name.startswith(family.model) for name in shapes)
    return f"{'' if of_classifier or alone else family.model}{names[0]}"


def has(family: Family, shapes: Mapping[str, Shape], part: str) -> bool:
    """Whether a file has a part that not all models of a family have, in any layer."""
    return first_of(family, shapes, part) is not None


def first_of(family: Family, shapes: Mapping[str, Shape], part: str, kind: str = "") -> Shape | None:
    """The shape of a part's weight or bias in the first layer that has it, or of a part that is one array."""
    ways = "|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in family.names.get(part, ()))
    ends = rf"\.{kind}" if kind else r"(?:\.weight|\.bias|\.probe)?"
    return first_shape(rf"(?:{re.escape(family.model)})?(?:{ways}){ends}", shapes) if ways else None


def family_of(weights: Weights) -> Family:
    """As config.json says, else as the names tell; raises UserError for a model that isn't known here."""
    said = weights.config.get("model_type")
    if said in list(FAMILIES):
        return FAMILIES[said]
    if said in ("beit", "data2vec-vision"):
        raise UserError(
            f"config.json says model_type={said!r}: it has relative positions in attention, no model here has"
        )
    if said is not None:
        raise UserError(f"config.json says model_type={said!r}; what is read is {', '.join(FAMILIES)}")
    return FAMILIES[_family_by_names(weights.shapes)]


def _family_by_names(shapes: Mapping[str, Shape]) -> str:
    for family, pattern in (
        ("clip", r".*embeddings\.class_embedding"),
        ("siglip", r".*self_attn\.q_proj\.weight"),
        ("dinov3_vit", r"(model\.)?layer\.\d+\..*"),
        ("dinov2_with_registers", r".*embeddings\.register_tokens"),
        ("dinov2", r".*layer_scale1\.lambda1"),
        ("deit", r".*embeddings\.distillation_token"),
    ):
        if any(re.fullmatch(pattern, name) for name in shapes):
            return family
    return "vit"
