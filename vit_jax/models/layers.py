"""The parts of an encoder block. B batch, N tokens, D width, K heads, E head dim, F mlp."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.models import attention, backend, inits, ops
from vit_jax.models.activations import ACTIVATIONS
from vit_jax.models.backend import Compute
from vit_jax.models.dropout import Dropout, words_of
from vit_jax.models.posembs import rotate


class Dense(nn.Module):
    """x (..., D) -> (..., *features), by a kernel (D, *features)."""

    features: tuple[int, ...]
    compute: Compute
    kernel_init: inits.Initializer
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], *self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.features, jnp.float32).reshape(-1) if self.bias else None
        out = ops.dense(x, kernel.reshape(x.shape[-1], -1), bias, self.compute)  # (..., F)
        if self.has_variable("params", "lora_a"):  # beside the kernel, of config.optim.lora_rank (steps/lora.py)
            a: jax.Array = self.get_variable("params", "lora_a")
            b: jax.Array = self.get_variable("params", "lora_b")
            out = out + ops.low_rank(x, a, b, self.compute)
        return out.reshape(*x.shape[:-1], *self.features)  # (..., *features)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with a scale and a bias for each channel."""

    epsilon: float
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return ops.layer_norm(x.astype(self.compute.dtype), scale, bias, self.epsilon, self.compute)


class Attention(nn.Module):
    """Multi-head self-attention, x (B, N, D) -> (B, N, D); also the weights (B, K, N, N), not with cuDNN."""

    cfg: ModelConfig
    compute: Compute
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, angles: np.ndarray | None) -> tuple[jax.Array, jax.Array | None]:
        cfg = self.cfg
        projections = Dense((3, cfg.heads, cfg.head_dim), self.compute, inits.qkv(cfg), cfg.qkv_bias, name="qkv")
        qkv = projections(x)  # (B, N, 3, K, E)
        changed = cfg.qk_norm or angles is not None
        parts = attention.slices if cfg.attention == "cudnn" and not changed else attention.split
        q, k, v = parts(qkv)  # (B, N, K, E) each
        if cfg.qk_norm:  # Henry et al. 2020; per head, as in ViT-22B (Dehghani et al. 2023)
            q = LayerNorm(cfg.norm_eps, self.compute, name="q_norm")(q)
            k = LayerNorm(cfg.norm_eps, self.compute, name="k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)

        rate = cfg.attention_dropout if self.train else 0.0
        words = words_of(self.make_rng("dropout")) if rate else jnp.zeros(2, jnp.uint32)
        # Parameters are made where there is no cuDNN, too; and another size of images may have an odd number of tokens.
        if cfg.attention == "cudnn" and backend.cudnn_takes(x.shape[1]) and not self.is_initializing():
            out = attention.cudnn(q, k, v)  # (B, N, K, E)
        elif cfg.attention == "chunked":
            size = backend.attention_chunk(len(x), cfg.heads, x.shape[1], self.compute.devices)
            if changed:
                qkv = jnp.stack([q, k, v], axis=2)  # (B, N, 3, K, E)
            out = attention.chunked(qkv, words, rate, size)
        elif cfg.attention == "recomputed":
            out = attention.recomputed(q, k, v, words, rate)
        else:
            out = attention.plain(q, k, v, words, rate)
        out = out.reshape(*x.shape[:2], cfg.heads * cfg.head_dim)  # (B, N, K*E)
        # The weights are for pictures: a compiled function that doesn't give them back never computes them.
        weights = attention.weights_of(q, k) if cfg.attention != "cudnn" else None
        return Dense((x.shape[-1],), self.compute, inits.attention_out(cfg), name="out")(out), weights


class Mlp(nn.Module):
    """x (B, N, D) -> (B, N, D) through F hidden channels, `hidden` or, without one, cfg.mlp_dim.

    `gated`: the activation is of a layer of its own, and multiplied with the hidden channels (Shazeer 2020, "GLU
    Variants Improve Transformer").
    """

    cfg: ModelConfig
    compute: Compute
    train: bool
    hidden: int | None = None
    gated: bool = False
    normed: bool = False  # Shleifer et al. 2021, "NormFormer"; as EVA-02 has it

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, width = self.cfg, x.shape[-1]
        activation = ACTIVATIONS[cfg.activation]
        hidden = (self.hidden or cfg.mlp_dim,)
        y = Dense(hidden, self.compute, inits.dense(cfg), name="dense_0")(x)  # (B, N, F)
        if self.gated:
            x = y * activation(Dense(hidden, self.compute, inits.dense(cfg), name="gate")(x), self.compute)
        else:
            x = activation(y, self.compute)
        x = Dropout(cfg.mlp_dropout, self.train)(x)
        if self.normed:
            x = LayerNorm(cfg.norm_eps, self.compute, name="norm")(x)
        x = Dense((width,), self.compute, inits.dense(cfg), name="dense_1")(x)
        if cfg.mlp_output_activation:
            x = activation(x, self.compute)
        return Dropout(cfg.mlp_dropout, self.train)(x)


class Block(nn.Module):
    """A pre-norm encoder block (Dosovitskiy et al. 2021), x (B, N, D) -> (B, N, D) and its intermediates.

    It mixes tokens by attention or, where `cfg.token_mlp_dim` is given, by an MLP over them.

    `drop_path_share` () of the rate of stochastic depth is in force.
    """

    cfg: ModelConfig
    compute: Compute
    train: bool
    drop_path: float

    @nn.compact
    def __call__(
        self, x: jax.Array, angles: np.ndarray | None, drop_path_share: float | jax.Array = 1.0
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        cfg, aux = self.cfg, {}
        y = LayerNorm(cfg.norm_eps, self.compute, name="norm_0")(x)
        if cfg.token_mlp_dim is not None:  # Tolstikhin et al. 2021, "MLP-Mixer"
            mixer = Mlp(cfg, self.compute, self.train, cfg.token_mlp_dim, name="token_mlp")
            y = mixer(y.swapaxes(1, 2)).swapaxes(1, 2)  # (B, D, N) and back
        else:
            y, weights = Attention(cfg, self.compute, self.train, name="attention")(y, angles)
            if weights is not None:
                aux["attn_weights"] = weights
        aux["attn"] = y
        x = x + self._branch(y, "scale_0", drop_path_share)
        y = LayerNorm(cfg.norm_eps, self.compute, name="norm_1")(x)
        y = aux["mlp"] = Mlp(cfg, self.compute, self.train, gated=cfg.gated_mlp, normed=cfg.mlp_norm, name="mlp")(y)
        x = aux["out"] = x + self._branch(y, "scale_1", drop_path_share)
        return x, aux

    def _branch(self, y: jax.Array, name: str, drop_path_share: float | jax.Array) -> jax.Array:
        """LayerScale (Touvron et al. 2021, CaiT) and stochastic depth on a residual branch (B, N, D)."""
        if self.cfg.layer_scale is not None:
            init = nn.initializers.constant(self.cfg.layer_scale)
            y = (y * self.param(name, init, (y.shape[-1],), jnp.float32)).astype(y.dtype)
        return Dropout(self.drop_path, self.train, broadcast_axes=(1, 2))(y, drop_path_share)
