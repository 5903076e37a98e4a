"""The ResNet in front of timm's hybrids (vit_*_r50_* and others), which is Google's, with epsilons of timm's own."""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.config import ModelConfig
from vit_jax.models.resnet import stage_widths
from vit_jax.pretrained.files import Shape
from vit_jax.pretrained.pieces import Piece, norm

_AT = "patch_embed.backbone"
_ROOTS = (f"{_AT}.stem", _AT)  # with stages, and the root alone
_NORM = (".weight", ".bias")


def root_of(shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the first kernel, (O, C, 7, 7); None where there is no ResNet."""
    return next((shapes[f"{at}.conv.weight"] for at in _ROOTS if f"{at}.conv.weight" in shapes), None)


def stem_of(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The keys of its StemConfig; None where there is no ResNet.

    timm's group norms have an epsilon of 1e-5, and its kernels are divided by sqrt(variance + 1e-8).
    """
    root = root_of(shapes)
    if root is None:
        return None
    found = [re.match(rf"{re.escape(_AT)}\.stages\.(\d+)\.blocks\.(\d+)\.", name) for name in shapes]
    blocks = [(int(match[1]), int(match[2])) for match in found if match]
    stages = range(max((stage for stage, _ in blocks), default=-1) + 1)
    units = tuple(max((unit for stage, unit in blocks if stage == i), default=0) + 1 for i in stages)
    return {"kind": "resnet", "widths": (root[0],), "units": units, "norm_eps": 1e-5, "variance_eps": 1e-8}


def pieces(cfg: ModelConfig) -> list[Piece]:
    at, channels = "stem/resnet", cfg.stem.widths[0]
    root = _ROOTS[0] if cfg.stem.units else _ROOTS[1]
    found = _layer(f"{at}/root", f"{root}.conv", f"{at}/root_norm", f"{root}.norm", 7, cfg.channels, channels)
    for stage, (units, width) in enumerate(zip(cfg.stem.units, stage_widths(cfg), strict=True)):
        for unit in range(units):
            ours, theirs = f"{at}/stage_{stage}_unit_{unit}", f"{_AT}.stages.{stage}.blocks.{unit}"
            for i, (size, ins, outs) in enumerate([(1, channels, width), (3, width, width), (1, width, 4 * width)]):
                layer, norms = (
                    (f"{ours}/conv_{i}", f"{theirs}.conv{i + 1}"),
                    (f"{ours}/norm_{i}", f"{theirs}.norm{i + 1}"),
                )
                found += _layer(*layer, *norms, size, ins, outs)
            if unit == 0:
                layer = f"{ours}/conv_shortcut", f"{theirs}.downsample.conv"
                norms = f"{ours}/norm_shortcut", f"{theirs}.downsample.norm"
                found += _layer(*layer, *norms, 1, channels, 4 * width)
            channels = 4 * width
    return found


def _layer(ours: str, theirs: str, our_norm: str, their_norm: str, size: int, ins: int, outs: int) -> list[Piece]:
    """A convolution (O, I, P, P) there, (P, P, I, O) here, and its norm."""
    kernel = Piece(
        f"{ours}/kernel",
        {f"{theirs}.weight": (outs, ins, size, size)},
        lambda w: w.transpose(2, 3, 1, 0),
        lambda x: {f"{theirs}.weight": x.transpose(3, 2, 0, 1)},
    )
    return [kernel, *norm(our_norm, their_norm, outs, _NORM)]
