"""The parts of an encoder block. B batch, N tokens, D width, K heads, E head dim, F mlp."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.hashing import fmix32
from vit_jax.models import inits
from vit_jax.models.posembs import rotate

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


class Dense(nn.Module):
    """x (..., D) -> (..., *features), computed as one plain matmul on the flattened leading axes.

    On a CPU, XLA runs the weight gradient of a flattened (B*N, D) input as a single large matmul, where it
    loses a fifth of the whole step to a batched one for (B, N, D). The kernel is (D, *features).
    """

    features: tuple[int, ...]
    dtype: Any
    kernel_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], *self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.features, jnp.float32)
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # (B*N, D)
        out = flat @ kernel.reshape(x.shape[-1], -1).astype(self.dtype) + bias.reshape(-1).astype(self.dtype)
        return out.reshape(*x.shape[:-1], *self.features)


def random_keep(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """A boolean mask of `shape`, each entry True with probability 1 - rate.

    The bits are a hash of each entry's index and two random words of the key: two rounds of a 32-bit
    finalizer. They fuse into the loop that uses the mask, where a counter-based generator's
    would be written out and read back and cost more than a whole block. Their balance and independence between
    entries, keys and layers are tested; they are meant for dropout, not for statistics.
    """
    words = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
    bits = fmix32(fmix32(index ^ words[0]) ^ words[1])
    return bits >= np.uint32(rate * 2**32)


class Dropout(nn.Module):
    """Sets entries to 0 with probability `rate` and scales the others up (Srivastava et al. 2014).

    `broadcast_axes` share one decision: all but the batch axis for stochastic depth (Huang et al. 2016).
    """

    rate: float
    train: bool
    broadcast_axes: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.train or self.rate == 0:
            return x
        shape = tuple(1 if axis in self.broadcast_axes else size for axis, size in enumerate(x.shape))
        keep = random_keep(self.make_rng("dropout"), self.rate, shape)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


class Attention(nn.Module):
    """Multi-head self-attention, x (B, N, D) -> (B, N, D); also the weights (B, K, N, N) unless fused."""

    cfg: ModelConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, angles: np.ndarray | None) -> tuple[jax.Array, jax.Array | None]:
        cfg = self.cfg
        qkv = Dense((3, cfg.heads, cfg.head_dim), self.dtype, inits.qkv(cfg), name="qkv")(x)  # (B, N, 3, K, E)
        q, k, v = (qkv[:, :, i] for i in range(3))  # (B, N, K, E) each
        if cfg.qk_norm:  # Henry et al. 2020; per head, as in ViT-22B (Dehghani et al. 2023)
            q = nn.LayerNorm(epsilon=cfg.norm_eps, dtype=self.dtype, name="q_norm")(q)
            k = nn.LayerNorm(epsilon=cfg.norm_eps, dtype=self.dtype, name="k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if cfg.attention == "cudnn":
            weights = None
            out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")  # (B, N, K, E)
        else:
            # Scores and softmax in float32: in bfloat16 they cost three times the error.
            scores = jnp.einsum(
                "bnke,bmke->bknm", q * cfg.head_dim**-0.5, k, preferred_element_type=jnp.float32
            )  # (B, K, N, N)
            weights = jax.nn.softmax(scores)
            kept = Dropout(cfg.attention_dropout, self.train)(weights).astype(self.dtype)
            out = jnp.einsum("bknm,bmke->bnke", kept, v)  # (B, N, K, E)
        out = out.reshape(*x.shape[:2], cfg.heads * cfg.head_dim)  # (B, N, K*E)
        return Dense((x.shape[-1],), self.dtype, inits.attention_out(cfg), name="out")(out), weights


class Mlp(nn.Module):
    """x (B, N, D) -> (B, N, D) through F hidden channels."""

    cfg: ModelConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, width = self.cfg, x.shape[-1]
        activation = ACTIVATIONS[cfg.activation]
        x = activation(Dense((cfg.mlp_dim,), self.dtype, name="dense_0")(x))  # (B, N, F)
        x = Dropout(cfg.mlp_dropout, self.train)(x)
        x = Dense((width,), self.dtype, name="dense_1")(x)
        if cfg.mlp_output_activation:
            x = activation(x)
        return Dropout(cfg.mlp_dropout, self.train)(x)


class Block(nn.Module):
    """A pre-norm encoder block (Dosovitskiy et al. 2021), x (B, N, D) -> (B, N, D) and its intermediates."""

    cfg: ModelConfig
    dtype: Any
    train: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, angles: np.ndarray | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        cfg, aux = self.cfg, {}
        y = nn.LayerNorm(epsilon=cfg.norm_eps, dtype=self.dtype, name="norm_0")(x)
        y, weights = Attention(cfg, self.dtype, self.train, name="attention")(y, angles)
        aux["attn"] = y
        if weights is not None:
            aux["attn_weights"] = weights
        x = x + self._branch(y, "scale_0")
        y = nn.LayerNorm(epsilon=cfg.norm_eps, dtype=self.dtype, name="norm_1")(x)
        y = aux["mlp"] = Mlp(cfg, self.dtype, self.train, name="mlp")(y)
        x = aux["out"] = x + self._branch(y, "scale_1")
        return x, aux

    def _branch(self, y: jax.Array, name: str) -> jax.Array:
        """LayerScale (Touvron et al. 2021, CaiT) and stochastic depth on a residual branch (B, N, D)."""
        if self.cfg.layer_scale is not None:
            init = nn.initializers.constant(self.cfg.layer_scale)
            y = y * self.param(name, init, (y.shape[-1],), jnp.float32).astype(y.dtype)
        return Dropout(self.drop_path, self.train, broadcast_axes=(1, 2))(y)
