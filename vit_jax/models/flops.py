"""Floating-point operations of a model, counted from its shape, and the share of an accelerator's peak they make."""

import itertools
import math
import re

from vit_jax.config import ModelConfig
from vit_jax.models import resnet
from vit_jax.models.stems import conv_sides, grid_shape, image_shape, input_channels, prefix_tokens


def forward(cfg: ModelConfig) -> int:
    """FLOPs of one image's forward pass: 2 for each multiply-add of matmuls, convolutions and attention.

    Norms, activations and softmax are left out, as usual (Hoffmann et al. 2022, appendix F); the backward pass
    costs twice as much again (a fixed whitening layer's is counted, too). `cfg` must be resolved.
    """
    *shape, channels = image_shape(cfg)
    macs = 0
    if cfg.stem.kind == "conv":
        if cfg.stem.whiten:
            values, channels = cfg.stem.whiten**2 * channels, input_channels(cfg)
            macs += math.prod(side // cfg.stem.whiten for side in shape) * values * channels
        rows, columns = (conv_sides(cfg, side) for side in shape)
        for width, (row, _), (column, _) in zip(cfg.stem.widths, rows, columns, strict=True):
            macs += row * column * cfg.stem.kernel_size**2 * channels * width
            channels = width
    elif cfg.stem.kind == "resnet":
        macs, channels = resnet.macs(cfg, image_shape(cfg)), resnet.output_channels(cfg)
    patches, width = math.prod(grid_shape(cfg)), cfg.width
    if cfg.stem.project:
        macs += patches * cfg.patch_size**2 * channels * width

    tokens = patches + prefix_tokens(cfg)
    if cfg.token_mlp_dim is None:
        inner = cfg.heads * cfg.head_dim
        macs += cfg.depth * tokens * (4 * width * inner + 2 * tokens * inner)
    else:
        macs += cfg.depth * 2 * tokens * width * cfg.token_mlp_dim
    macs += cfg.depth * tokens * (2 + cfg.gated_mlp) * width * cfg.mlp_dim

    if cfg.pool == "sequence":
        macs += 2 * patches * width
    elif cfg.pool == "map":
        inner = cfg.heads * cfg.head_dim
        macs += 2 * patches * width * inner + 2 * patches * inner + inner * width + 2 * width * cfg.mlp_dim
    macs += sum(a * b for a, b in itertools.pairwise(_head_widths(cfg)))
    if cfg.distill_token:
        macs += width * cfg.num_classes
    return 2 * macs


def kernel_entries(cfg: ModelConfig) -> int:
    """Numbers in the kernels of a resolved `cfg`'s stem, blocks and head: nearly all parameters, but for a ResNet's."""
    stem, channels = 0, resnet.output_channels(cfg) if cfg.stem.kind == "resnet" else cfg.channels
    if cfg.stem.kind == "conv":
        widths = (input_channels(cfg), *cfg.stem.widths)
        stem = cfg.stem.kernel_size**2 * sum(a * b for a, b in itertools.pairwise(widths))
        channels = widths[-1]
    if cfg.stem.project:
        stem += cfg.patch_size**2 * channels * cfg.width
    if cfg.token_mlp_dim is None:
        mixing = 4 * cfg.width * cfg.heads * cfg.head_dim
    else:
        mixing = 2 * math.prod(grid_shape(cfg)) * cfg.token_mlp_dim
    head = sum(a * b for a, b in itertools.pairwise(_head_widths(cfg)))
    if cfg.pool == "map":
        head += 4 * cfg.width * cfg.heads * cfg.head_dim + 2 * cfg.width * cfg.mlp_dim
    return stem + cfg.depth * (mixing + (2 + cfg.gated_mlp) * cfg.width * cfg.mlp_dim) + head


def _head_widths(cfg: ModelConfig) -> list[int]:
    parts = {"flatten": math.prod(grid_shape(cfg)), "token_mean": 2}.get(cfg.pool, 1)
    widths = [cfg.width * parts]
    widths += [cfg.representation_dim] if cfg.representation_dim is not None else []
    return [*widths, *cfg.head_mlp, cfg.num_classes]


def training(cfg: ModelConfig) -> int:
    """FLOPs of one image's part of a training step: forward, and backward at twice its cost.

    Of a run that trains some of the parameters it is more than is computed, and low-rank products aren't counted.
    """
    return 3 * forward(cfg)


# Dense bfloat16 FLOP/s of one device, by what JAX's device_kind or CUDA's device name starts with, the longer name
# first. From the makers' data sheets (NVIDIA's without sparsity) and Google Cloud's TPU pages.
_PEAKS = {
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device of this kind; None where that isn't known."""
    if "MIG" in device_kind:  # a part of a GPU
        return None
    return next((peak for name, peak in _PEAKS.items() if re.match(rf"{name}(?!\w)", device_kind)), None)


def utilization(flops_per_second: float, device_kind: str, devices: int, dtype: str) -> float | None:
    """Model FLOPs utilization, a fraction (Chowdhery et al. 2022, PaLM, appendix B).

    None on a device whose peak isn't known, and for a computation in float32, which has another peak.
    """
    most = peak(device_kind)
    return flops_per_second / (most * devices) if most is not None and dtype == "bfloat16" else None
