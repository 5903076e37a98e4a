"""From images (B, H, W, C) to a grid of tokens (B, N, D). P patch size, C channels: 3, or 1 of grey images."""

from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.models import inits, ops, resnet
from vit_jax.models.activations import ACTIVATIONS
from vit_jax.models.backend import Compute
from vit_jax.models.convolution import convolution
from vit_jax.models.layers import Dense, LayerNorm
from vit_jax.models.pooling import max_pool

Array = TypeVar("Array", np.ndarray, jax.Array)

WHITENING = "stem/whitening/kernel"  # the path of the kernel that isn't trained


def image_shape(cfg: ModelConfig) -> tuple[int, int, int]:
    """Of the images that the model sees: height and width in pixels, channels."""
    return cfg.image_size, cfg.image_width or cfg.image_size, cfg.channels


def conv_sides(cfg: ModelConfig, side: int) -> list[tuple[int, int]]:
    """For each convolution of the stem: pixels along an axis of its output, before and after pooling.

    `side` is of the image along that axis.
    """
    stem, sides, side = cfg.stem, [], side // (cfg.stem.whiten or 1)
    for i in range(len(stem.widths)):
        conv = -(-side // value_at(stem.strides, i, 1))  # "SAME" padding rounds up
        side = -(-conv // 2) if stem.pool else conv // value_at(stem.pools, i, 1)
        sides.append((conv, side))
    return sides


def input_channels(cfg: ModelConfig) -> int:
    """Of the first convolution: the image's, or those of the whitening layer."""
    return 2 * cfg.stem.whiten**2 * cfg.channels if cfg.stem.whiten else cfg.channels


def window_entries(cfg: ModelConfig) -> int:
    """The most entries that the windows of one image take in a convolution of the stem; 0 where it has none."""
    if cfg.stem.kind != "conv":
        return 0
    channels = (input_channels(cfg), *cfg.stem.widths)
    rows, columns = (conv_sides(cfg, side) for side in image_shape(cfg)[:2])
    return max(row * column * c for (row, _), (column, _), c in zip(rows, columns, channels, strict=False)) * (
        cfg.stem.kernel_size**2
    )


def value_at(values: tuple, i: int, default: Any) -> Any:
    """Of a key with a value for each convolution, or none for all to have the default."""
    return values[i] if values else default


def patch_input_side(cfg: ModelConfig, side: int) -> int:
    """Pixels along an axis of what is cut into patches: the image, of `side`, or the output of the convolutions."""
    if cfg.stem.kind == "resnet":
        return resnet.output_side(cfg, side)
    return conv_sides(cfg, side)[-1][1] if cfg.stem.kind == "conv" else side


def grid_shape(cfg: ModelConfig) -> tuple[int, int]:
    """Rows and columns of tokens."""
    height, width = (patch_input_side(cfg, side) // cfg.patch_size for side in image_shape(cfg)[:2])
    return height, width


def prefix_tokens(cfg: ModelConfig) -> int:
    """How many tokens come before those of patches: class token, DeiT's second one, registers."""
    return (cfg.pool in ("token", "token_mean")) + cfg.distill_token + cfg.registers


def patchify(images: Array, patch_size: int) -> Array:
    """Cuts (B, H, W, C) into (B, N, P*P*C): patches row by row; in each, rows, columns, then channels."""
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c)  # (B, H/P, P, W/P, P, C)
    return x.swapaxes(2, 3).reshape(b, (h // p) * (w // p), p * p * c)  # (B, N, P*P*C)


class PatchStem(nn.Module):
    """Linear patches: the strided convolution of Dosovitskiy et al. 2021, as a reshape and one matmul."""

    cfg: ModelConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        patches = patchify(x, self.cfg.patch_size)  # (B, N, P*P*C)
        return Dense((self.cfg.width,), self.compute, inits.patches(self.cfg), name="proj")(patches)


class ResNetStem(nn.Module):
    """Linear patches of a ResNet's output: the hybrids of Dosovitskiy et al. 2021."""

    cfg: ModelConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = resnet.ResNet(self.cfg, self.compute.dtype, name="resnet")(x)
        return PatchStem(self.cfg, self.compute, name="patches")(x)


class Whitening(nn.Module):
    """Fixed linear patches whose channels are uncorrelated and of variance 1, and their negatives.

    (B, H, W, C) -> (B, H/P, W/P, 2*P*P*C): the first layer of Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds"), here
    with stride P. Its kernel is `whitening_kernel` of the train images, a parameter that is never trained.
    """

    cfg: ModelConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p, (b, h, w, c) = self.cfg.stem.whiten, x.shape
        size = p * p * c
        kernel = self.param("kernel", lambda _: jnp.concatenate([jnp.eye(size), -jnp.eye(size)], axis=1))
        patches = patchify(x, p).reshape(-1, size)  # (B*N, P*P*C)
        out = ops.dense(patches, jax.lax.stop_gradient(kernel), None, self.compute)
        return out.reshape(b, h // p, w // p, 2 * size)


def whitening_kernel(images: np.ndarray, patch_size: int, epsilon: float = 5e-4) -> np.ndarray:
    """Kernel (P*P*C, 2*P*P*C) float32 of `Whitening`, from normalised images (N, H, W, C) float32.

    Its columns are the eigenvectors of the patches' second moments over the square root of (eigenvalue + epsilon).
    """
    h, w = (side // patch_size * patch_size for side in images.shape[1:3])
    patches = patchify(images[:, :h, :w], patch_size)  # (N, patches, P*P*C)
    patches = patches.reshape(-1, patches.shape[-1])
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    kernel = vectors / np.sqrt(values + epsilon)
    return np.concatenate([kernel, -kernel], axis=1).astype(np.float32)


class Convolution(nn.Module):
    """(B, H, W, I) -> (B, H/stride, W/stride, O); the bias is added, and its gradient summed, in float32."""

    features: int
    size: int
    stride: int
    has_bias: bool
    kernel_init: inits.Initializer
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = convolution(x, kernel, self.stride, self.compute)
        if not self.has_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return (x + bias).astype(self.compute.dtype)


class ConvStem(nn.Module):
    """Convolutions before the patches (Xiao et al. 2021), behind a fixed whitening layer where `whiten` says so.

    Each is convolution, `pools`, norm, activation, its input added where `residual` says so, and, if asked for, 3x3 max
    pooling with stride 2. With `project=False` and that pooling it is the tokenizer of CCT (Hassani et al. 2021), whose
    last convolution gives the tokens.
    """

    cfg: ModelConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stem = self.cfg.stem
        if stem.whiten:
            x = Whitening(self.cfg, self.compute, name="whitening")(x)
        for i, width in enumerate(stem.widths):
            y = self._convolution(x, i, width)
            x = x + y if value_at(stem.residual, i, False) else y
            if stem.pool:
                x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        if stem.project:
            return PatchStem(self.cfg, self.compute, name="patches")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])  # (B, N, D)

    def _convolution(self, x: jax.Array, i: int, width: int) -> jax.Array:
        stem = self.cfg.stem
        stride, has_bias = value_at(stem.strides, i, 1), stem.bias and stem.norm == "none"
        kernel_init = inits.convolution(self.cfg)
        x = Convolution(width, stem.kernel_size, stride, has_bias, kernel_init, self.compute, name=f"conv_{i}")(x)
        if (pool := value_at(stem.pools, i, 1)) > 1:
            x = max_pool(x, pool, self.compute)  # (B, H/pool, W/pool, C)
        if stem.norm == "layer":
            x = LayerNorm(self.cfg.norm_eps, self.compute, name=f"norm_{i}")(x)
        elif stem.norm == "group":
            x = nn.GroupNorm(epsilon=self.cfg.norm_eps, dtype=self.compute.dtype, name=f"norm_{i}")(x)
        return ACTIVATIONS[stem.activation](x, self.compute)
