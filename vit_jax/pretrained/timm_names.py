"""What names of timm's architectures and arrays say: of what a state dict leaves open, and of what isn't known here."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from vit_jax.errors import UserError
from vit_jax.pretrained.files import Shape
from vit_jax.pretrained.source import first_shape

T = TypeVar("T")

# What names of architectures say (timm/models/vision_transformer.py and deit.py, 1.0.31): the first that matches.
HEADS = (
    (r"vit_base_patch(16|32)_plus", 14),
    (r"vit_base_patch16_gap_224", 16),
    (r"vit_giant_patch(14_(reg\d_)?(dinov2|tipsv2)|16_(radio|lingbot))", 24),
    (r"vit_huge_plus_patch16_dinov3", 20),
    (r"vit_7b_", 32),
    (r"eva02_(enormous|large)", 16),
    (r"eva02_base", 12),
    (r"eva02_small", 6),
    (r"eva02_tiny", 3),
    (r"eva_giant", 16),
    *(
        (rf"(vit|deit3?|flexivit)_(?:{size})(_|$)", heads)
        for size, heads in (
            *(("tiny", 3), ("xsmall|d?wee", 4), ("d?little", 5), ("small", 6), ("mediumd?", 8), ("betwixt", 10)),
            *(("base", 12), ("so150m2", 13), ("so150m", 14)),
            ("large|huge|giant|giantopt|gigantic|so400m|intern300m", 16),
        )
    ),
)
NAMED_ACTIVATIONS = (
    (r".*quickgelu", "quick_gelu"),
    (r"vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip|vit_large_patch16_siglip_(gap_)?512", "gelu_tanh"),
    (r"vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)", "silu"),
    (r".+", "gelu"),
)
EPSILONS = ((r"eva", 1e-6), (r".*_clip_", 1e-5), (r".+", 1e-6))

# Of blocks of timm's Eva: DINOv3's without learned positions, with them EVA's, and EVA-02's where MLPs are gated.
EVA = r"blocks\.\d+\.(gamma_1|attn\.q_bias|attn\.q_proj\.bias)"
_EVA_WITH_POSITIONS = r"blocks\.\d+\.attn\.(q_bias|q_proj\.bias)"
# What timm's classes have and models here don't, by the names of arrays.
_UNKNOWN = (
    (
        r"patch_embed\.backbone\.(?!(stem\.)?(conv|norm)\.|stages\.\d+\.blocks\.\d+\.(conv\d|norm\d|downsample)\.).*",
        "another network before the patches than Google's ResNet (a hybrid)",
    ),
    (r"patch_embed\.norm\..*", "a norm of the patches"),
    (r".*\.(relative_position_bias_table|rel_pos_[hw]|rel_pos\..*)", "relative positions in attention"),
    (r"blocks\.\d+\.attn\.norm\..*", "norms within attention"),
    (r"blocks\.\d+\.attn\.proj_[lw]\..*", "talking heads in attention"),
    (r"blocks\.\d+\.attn\.k_proj\.bias", "keys with biases, in layers of their own"),
    (r"blocks\.\d+\.(in_proj|attns|ls1\.\d+|attn_out_proj)\..*", "attention and MLP side by side in a block"),
    (r"attn_pool\.(in_proj|norm_x)\..*", "another attention pooling"),
)


def by_name(rules: Sequence[tuple[str, T]], architecture: str) -> T | None:
    """The value of the first rule that the beginning of a name matches; None for a name that isn't said."""
    return next((value for pattern, value in rules if re.match(pattern, architecture)), None)


def refuse_unknown(shapes: Mapping[str, Shape], architecture: str) -> None:
    """Raises UserError, with the reason, for weights of models of timm's that there aren't here."""
    if re.match(r"vit_pe_|.*_rope_", architecture):
        raise UserError(
            f"config.json says architecture={architecture!r}: of rotary positions there are DINOv3's and EVA-02's alone"
        )
    if architecture.startswith("eva02_enormous"):
        raise UserError(
            f"config.json says architecture={architecture!r}: its norms come after the branches, there is no such model"
        )
    for pattern, what in _UNKNOWN:
        if name := next((name for name in shapes if re.fullmatch(pattern, name)), None):
            raise UserError(f"these weights of timm's have {what} ({name}): there is no such model here")
    others = {"pos_embed", "fc_norm.weight"} & shapes.keys() or (
        "_dinov3" not in architecture and first_shape(r"blocks\.\d+\.attn\.qkv\.bias", shapes)
    )
    of_eva = "pos_embed" in shapes and first_shape(_EVA_WITH_POSITIONS, shapes)
    if of_eva and not is_gated(shapes) and not architecture.startswith("eva_"):
        raise UserError(
            "these weights of timm's are EVA's, or of a model with its arrays and norms after the branches; bring the "
            "config.json that lies beside them, and name the folder of both"
        )
    if first_shape(EVA, shapes) and not of_eva and (others or "reg_token" not in shapes):
        raise UserError(
            "these weights of timm's have blocks of its Eva, Beit or CaiT: of such models EVA, EVA-02 and DINOv3 are "
            "known here; the latter has registers, no learned positions, and norms before pooling"
        )
    if {"norm_pre.weight", "attn_pool.latent"} <= shapes.keys():
        raise UserError("these weights of timm's are of a Perception Encoder: there is no such model here")
    if first_shape(r"blocks\.\d+\.norm1\.weight", shapes) and not any(name.endswith("norm1.bias") for name in shapes):
        raise UserError("these weights of timm's have norms without biases (RMSNorm): there is no such model here")


def is_gated(shapes: Mapping[str, Shape]) -> bool:
    """Whether MLPs are SwiGLUs, of one first layer or two."""
    first, second = (first_shape(rf"blocks\.\d+\.mlp\.{name}\.weight", shapes) for name in ("fc1(_x)?", "fc2"))
    in_two = first_shape(r"blocks\.\d+\.mlp\.fc1_x\.weight", shapes) is not None
    return in_two or (first is not None and second is not None and first[0] == 2 * second[-1])
