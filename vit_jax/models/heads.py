"""From encoded tokens (B, N, D) to logits (B, C). K heads, E head dim."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.config import ModelConfig
from vit_jax.models import inits
from vit_jax.models.activations import ACTIVATIONS
from vit_jax.models.backend import Compute
from vit_jax.models.dropout import Dropout
from vit_jax.models.layers import Dense, LayerNorm, Mlp


class AttentionPool(nn.Module):
    """Multi-head attention pooling: one learned query attends to the tokens (Zhai et al. 2022, "MAP").

    (B, N, D) -> (B, D).
    """

    cfg: ModelConfig
    compute: Compute
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, (b, _, d) = self.cfg, x.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, d), jnp.float32)
        q = Dense((cfg.heads, cfg.head_dim), self.compute, inits.heads(cfg, 1), name="query")(probe)[0]  # (K, E)
        kv = Dense((2, cfg.heads, cfg.head_dim), self.compute, inits.heads(cfg, 2), name="kv")(x)  # (B, N, 2, K, E)
        scores = jnp.einsum(
            "ke,bnke->bkn", q * cfg.head_dim**-0.5, kv[:, :, 0], preferred_element_type=jnp.float32
        )  # (B, K, N)
        weights = jax.nn.softmax(scores).astype(self.compute.dtype)
        y = jnp.einsum("bkn,bnke->bke", weights, kv[:, :, 1]).reshape(b, 1, -1)  # (B, 1, K*E)
        y = Dense((d,), self.compute, inits.dense(cfg), name="out")(y)
        z = LayerNorm(cfg.norm_eps, self.compute, name="norm")(y)
        return (y + Mlp(cfg, self.compute, self.train, name="mlp")(z))[:, 0]  # (B, D)


class SequencePool(nn.Module):
    """The mean of the tokens weighted by a softmax over a linear score of each: (B, N, D) -> (B, D).

    SeqPool of CCT (Hassani et al. 2021).
    """

    cfg: ModelConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scores = Dense((1,), self.compute, inits.score(self.cfg), name="score")(x)[..., 0]  # (B, N)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(self.compute.dtype)
        return jnp.einsum("bn,bnd->bd", weights, x)


class Head(nn.Module):
    """Pools, then classifies: (B, prefix + N, D) -> logits (B, C) float32, and the intermediates.

    Without classes it gives what would be classified. With a distillation token (Touvron et al. 2021, DeiT) logits are
    the mean of two classifiers', one of each token.
    """

    cfg: ModelConfig
    compute: Compute
    train: bool
    prefix: int  # class and register tokens before the patch tokens

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        cfg, aux = self.cfg, {}
        patches = x[:, self.prefix :]  # (B, N, D)
        tokens = x
        if cfg.pool == "token":
            x = x[:, 0]
        elif cfg.pool == "token_mean":  # DINOv2's (Oquab et al. 2023), of its linear classifiers
            x = jnp.concatenate([x[:, 0], patches.mean(axis=1)], axis=-1)  # (B, 2*D)
        elif cfg.pool == "mean":
            x = patches.mean(axis=1)
        elif cfg.pool == "sequence":
            x = SequencePool(cfg, self.compute, name="pool")(patches)
        elif cfg.pool == "map":
            x = AttentionPool(cfg, self.compute, self.train, name="pool")(patches)
        else:  # flatten
            x = patches.reshape(patches.shape[0], -1)  # (B, N*D)
        if cfg.norm_after_pool:
            x = LayerNorm(cfg.norm_eps, self.compute, name="norm")(x)
        aux["pooled"] = x
        if cfg.representation_dim is not None:
            x = nn.tanh(Dense((cfg.representation_dim,), self.compute, inits.dense(cfg), name="representation")(x))
        x = Dropout(cfg.head_dropout, self.train)(x)
        for i, width in enumerate(cfg.head_mlp):
            x = Dense((width,), self.compute, inits.dense(cfg), name=f"dense_{i}")(x)
            x = ACTIVATIONS[cfg.activation](x, self.compute)
            x = Dropout(cfg.head_dropout, self.train)(x)
        aux["pre_logits"] = x
        if not cfg.num_classes:
            return x.astype(jnp.float32), aux
        exact = dataclasses.replace(self.compute, dtype=jnp.float32)
        logits = Dense((cfg.num_classes,), exact, inits.logits(cfg), name="logits")(x)
        if cfg.distill_token:
            second = Dense((cfg.num_classes,), exact, inits.logits(cfg), name="logits_distill")(tokens[:, 1])
            aux |= {"logits_token": logits, "logits_distill": second}
            logits = (logits + second) / 2
        return logits, aux
