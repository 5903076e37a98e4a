"""The ResNet in front of hybrid models (Dosovitskiy et al. 2021, section 3.1): BiT's, with standardised kernels.

Bottleneck units (He et al. 2016), group normalisation and weight standardisation (Kolesnikov et al. 2020, "Big
Transfer"), with the padding and the epsilons of the published hybrids. B batch, H/W pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.config import ModelConfig

_EXPANSION = 4  # a bottleneck unit's outputs to its inner channels
_EPSILON = 1e-5  # of weight standardisation, beside the standard deviation


def stage_widths(cfg: ModelConfig) -> list[int]:
    """Inner channels of each stage's units."""
    return [cfg.stem.widths[0] * 2**i for i in range(len(cfg.stem.units))]


def norm_eps(cfg: ModelConfig) -> float:
    """Of the group norms."""
    return cfg.norm_eps if cfg.stem.norm_eps is None else cfg.stem.norm_eps


def output_channels(cfg: ModelConfig) -> int:
    """Of the last stage, or of the root where there is none."""
    return _EXPANSION * stage_widths(cfg)[-1] if cfg.stem.units else cfg.stem.widths[0]


def output_side(cfg: ModelConfig, side: int) -> int:
    """Pixels along an axis of the output, from those of the image; "SAME" padding rounds up."""
    for _ in range(1 + max(len(cfg.stem.units), 1)):  # root, its pooling, and each stage but the first
        side = -(-side // 2)
    return side


def macs(cfg: ModelConfig, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one image (H, W, C)."""

    def halved(shape: tuple[int, int]) -> tuple[int, int]:
        return -(-shape[0] // 2), -(-shape[1] // 2)

    shape = halved(image_shape[:2])
    total = shape[0] * shape[1] * 7 * 7 * image_shape[2] * cfg.stem.widths[0]
    shape, channels = halved(shape), cfg.stem.widths[0]
    for stage, (units, width) in enumerate(zip(cfg.stem.units, stage_widths(cfg), strict=True)):
        for unit in range(units):
            before = shape[0] * shape[1]
            if stage and not unit:
                shape = halved(shape)
            after, wide = shape[0] * shape[1], _EXPANSION * width
            total += before * channels * width + after * (9 * width * width + width * wide)
            if not unit:
                total += after * channels * wide
            channels = wide
    return total


class StandardizedConv(nn.Module):
    """A convolution (B, H, W, I) -> (B, H/stride, W/stride, O) without bias.

    Each output channel's kernel has mean 0 and deviation 1.
    """

    features: int
    size: int
    stride: int
    variance_eps: float | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        if self.variance_eps is None:
            kernel = kernel / (kernel.std(axis=(0, 1, 2)) + _EPSILON)
        else:
            kernel = kernel * jax.lax.rsqrt(kernel.var(axis=(0, 1, 2)) + self.variance_eps)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class ResidualUnit(nn.Module):
    """A bottleneck: (B, H, W, I) -> (B, H/stride, W/stride, 4 * width)."""

    width: int
    stride: int
    epsilon: float
    variance_eps: float | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = _EXPANSION * self.width

        def convolution(x: jax.Array, name: str, features: int, size: int, stride: int = 1) -> jax.Array:
            x = StandardizedConv(features, size, stride, self.variance_eps, self.dtype, name=f"conv_{name}")(x)
            # A unit begins as the identity (Goyal et al. 2017): the last norm's scale is 0.
            scale = nn.initializers.zeros if name == "2" else nn.initializers.ones
            norm = nn.GroupNorm(epsilon=self.epsilon, dtype=self.dtype, scale_init=scale, name=f"norm_{name}")
            return norm(x)

        shortcut = x
        if x.shape[-1] != wide or self.stride != 1:
            shortcut = convolution(x, "shortcut", wide, 1, self.stride)
        y = jax.nn.relu(convolution(x, "0", self.width, 1))
        y = jax.nn.relu(convolution(y, "1", self.width, 3, self.stride))
        return jax.nn.relu(shortcut + convolution(y, "2", wide, 1))


class ResNet(nn.Module):
    """Root and stages: images (B, H, W, C) -> (B, H/4, W/4, ...) with one stage or none; each further one halves."""

    cfg: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, eps, kernels = self.cfg, norm_eps(self.cfg), self.cfg.stem.variance_eps
        x = StandardizedConv(cfg.stem.widths[0], 7, 2, kernels, self.dtype, name="root")(x)
        x = jax.nn.relu(nn.GroupNorm(epsilon=eps, dtype=self.dtype, name="root_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, (units, width) in enumerate(zip(cfg.stem.units, stage_widths(cfg), strict=True)):
            for unit in range(units):
                stride = 2 if stage and not unit else 1
                x = ResidualUnit(width, stride, eps, kernels, self.dtype, name=f"stage_{stage}_unit_{unit}")(x)
        return x
