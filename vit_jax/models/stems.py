"""From images (B, H, W, 3) to a square grid of tokens (B, N, D). P patch size."""

from typing import Any

import flax.linen as nn
import jax

from vit_jax.config import ModelConfig
from vit_jax.models import inits
from vit_jax.models.layers import ACTIVATIONS, Dense, LayerNorm


def conv_sides(cfg: ModelConfig) -> list[tuple[int, int]]:
    """For each convolution of the stem: pixels a side of its output, before and after pooling."""
    sides, side = [], cfg.image_size
    for stride in cfg.stem.strides or (1,) * len(cfg.stem.widths):
        conv = -(-side // stride)  # "SAME" padding rounds up
        side = -(-conv // 2) if cfg.stem.pool else conv
        sides.append((conv, side))
    return sides


def patch_input_size(cfg: ModelConfig) -> int:
    """Pixels a side of what is cut into patches: the image, or the output of the convolutions."""
    return conv_sides(cfg)[-1][1] if cfg.stem.kind == "conv" else cfg.image_size


def grid_size(cfg: ModelConfig) -> int:
    """Tokens along each side of the image."""
    return patch_input_size(cfg) // cfg.patch_size


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts (B, H, W, C) into (B, N, P*P*C): patches row by row; in each, rows, columns, then channels."""
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c)  # (B, H/P, P, W/P, P, C)
    return x.swapaxes(2, 3).reshape(b, (h // p) * (w // p), p * p * c)  # (B, N, P*P*C)


class PatchStem(nn.Module):
    """Linear patches: the strided convolution of Dosovitskiy et al. 2021, as a reshape and one matmul."""

    cfg: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        patches = patchify(x, self.cfg.patch_size)  # (B, N, P*P*C)
        return Dense((self.cfg.width,), self.dtype, inits.patches(self.cfg), name="proj")(patches)


class ConvStem(nn.Module):
    """Convolutions before the patches (Xiao et al. 2021).

    Each is convolution, norm, activation and, if asked for, 3x3 max pooling with stride 2. With `project=False`
    and pooling it is the tokenizer of CCT (Hassani et al. 2021), whose last convolution gives the tokens.
    """

    cfg: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stem = self.cfg.stem
        size = (stem.kernel_size, stem.kernel_size)
        for i, width in enumerate(stem.widths):
            stride = stem.strides[i] if stem.strides else 1
            x = nn.Conv(
                width,
                size,
                (stride, stride),
                use_bias=stem.bias and stem.norm == "none",
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            if stem.norm == "layer":
                x = LayerNorm(self.cfg.norm_eps, self.dtype, name=f"norm_{i}")(x)
            elif stem.norm == "group":
                x = nn.GroupNorm(epsilon=self.cfg.norm_eps, dtype=self.dtype, name=f"norm_{i}")(x)
            x = ACTIVATIONS[stem.activation](x)
            if stem.pool:
                x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        if stem.project:
            return PatchStem(self.cfg, self.dtype, name="patches")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])  # (B, N, D)
