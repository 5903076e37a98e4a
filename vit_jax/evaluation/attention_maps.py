"""Where a model attends to, computed from attention weights. B images, T tokens (prefix + N)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.config import AugmentConfig, ModelConfig
from vit_jax.data.augment import preprocess
from vit_jax.models import VisionTransformer
from vit_jax.models.stems import image_shape


def has_weights(cfg: ModelConfig) -> bool:
    """Whether a model of this config has attention weights: an MLP-Mixer has none."""
    return cfg.token_mlp_dim is None


def weights_of(module: VisionTransformer, params: Any, images: np.ndarray, augment: AugmentConfig) -> list[np.ndarray]:
    """The attention weights of each block, the first first, averaged over the heads: (B, T, T) float32 each.

    `images` (B, H, W, C) uint8 as stored. Whatever way the module computes attention, here it is the plain one: cuDNN's
    gives no weights. Raises ValueError for a model that has none.
    """
    if not has_weights(module.cfg):
        raise ValueError("an MLP-Mixer has no attention")
    plain = module.clone(cfg=dataclasses.replace(module.cfg, attention="xla", scan=False))

    def apply(params: Any, images: jax.Array) -> list[jax.Array]:
        x = preprocess(images, augment, image_shape(plain.cfg)[:2])  # (B, H, W, C) of the model
        aux = plain.apply({"params": params}, x, train=False)[1]
        return [aux[f"block_{i:02d}"]["attn_weights"].mean(axis=1) for i in range(plain.cfg.depth)]

    return [np.asarray(block) for block in jax.jit(apply)(params, images)]


def rollout(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020): how much of each token goes into each token after the last block.

    `weights`: each block's, the first first, (B, T, T) with rows that sum to 1 (averaged over heads) -> (B, T, T), rows
    that sum to 1. Half of each block is the identity: that is its residual connection.
    """
    tokens = weights[0].shape[-1]
    rolled = np.broadcast_to(np.eye(tokens), weights[0].shape)
    for block in weights:
        rolled = (0.5 * block + 0.5 * np.eye(tokens)) @ rolled  # (B, T, T)
    return rolled


def seen_by_output(attention: np.ndarray, prefix: int, class_token: bool) -> np.ndarray:
    """What the model's output attends to, of attention (B, T, T) -> (B, N), which sums to 1 over the image's tokens.

    With a class token, the first of the `prefix` tokens, that is its row; without, the mean of the rows of the image's
    tokens. Class token and registers have no place in the image: what goes to them is left out.
    """
    rows = attention[:, 0] if class_token else attention[:, prefix:].mean(axis=1)  # (B, T)
    patches = rows[:, prefix:]  # (B, N)
    return patches / patches.sum(axis=1, keepdims=True)
