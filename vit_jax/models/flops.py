"""Floating-point operations of a forward pass, counted from the model's shape."""

from vit_jax.config import ModelConfig
from vit_jax.models.stems import conv_sides, grid_size


def forward(cfg: ModelConfig) -> int:
    """FLOPs of one image's forward pass: 2 for each multiply-add of matmuls, convolutions and attention.

    Norms, activations and softmax are left out, as usual (Hoffmann et al. 2022, appendix F); the backward pass
    costs twice as much again. `cfg` must be resolved.
    """
    macs, channels = 0, 3
    if cfg.stem.kind == "conv":
        for width, (side, _) in zip(cfg.stem.widths, conv_sides(cfg), strict=True):
            macs += side * side * cfg.stem.kernel_size**2 * channels * width
            channels = width
    patches, width = grid_size(cfg) ** 2, cfg.width
    if cfg.stem.kind == "patch" or cfg.stem.project:
        macs += patches * cfg.patch_size**2 * channels * width

    tokens = patches + cfg.registers + (cfg.pool == "token")
    inner = cfg.heads * cfg.head_dim
    macs += cfg.depth * tokens * (4 * width * inner + 2 * tokens * inner + 2 * width * cfg.mlp_dim)

    if cfg.pool == "map":
        macs += 2 * patches * width * inner + 2 * patches * inner + inner * width + 2 * width * cfg.mlp_dim
    widths = [width * patches if cfg.pool == "flatten" else width]
    widths += [cfg.representation_dim] if cfg.representation_dim is not None else []
    widths += [*cfg.head_mlp, cfg.num_classes]
    macs += sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    return 2 * macs
