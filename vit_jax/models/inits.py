"""Initial values of parameters: two named sets. D width, K heads, E head dim.

"vit" is the Vision Transformer's (Dosovitskiy et al. 2021): Xavier uniform, each of query, key and value scaled by
its own fan-out, LeCun normal patches and a classifier of zeros. "keras2" is what the layers of Keras 2 give by
default, quirks included: their MultiHeadAttention takes the kernel (D, K, E) for a convolution of D positions and so
makes queries, keys and values about 4 times smaller, from which a run without warmup learns faster (RECORDS.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import initializers

from vit_jax.config import ModelConfig

Initializer = Callable[..., jax.Array]


def heads(parts: int) -> Initializer:
    """Xavier uniform for a kernel (D, K, E), or (D, parts, K, E) with each part scaled by its own fan-out."""
    first = 2 if parts > 1 else 1
    return initializers.variance_scaling(
        1.0, "fan_avg", "uniform", in_axis=0, out_axis=(first, first + 1), batch_axis=(1,) if parts > 1 else ()
    )


def qkv(cfg: ModelConfig) -> Initializer:
    """Of the fused projections (D, 3, K, E)."""
    if cfg.init == "keras2":
        return _uniform((6 / ((cfg.heads + cfg.head_dim) * cfg.width)) ** 0.5)
    return heads(3)


def attention_out(cfg: ModelConfig) -> Initializer:
    """Of the projection back (K*E, D)."""
    if cfg.init == "keras2":
        return _uniform((6 / ((cfg.head_dim + cfg.width) * cfg.heads)) ** 0.5)
    return initializers.xavier_uniform()


def patches(cfg: ModelConfig) -> Initializer:
    return initializers.xavier_uniform() if cfg.init == "keras2" else initializers.lecun_normal()


def posemb(cfg: ModelConfig) -> Initializer:
    return _uniform(0.05) if cfg.init == "keras2" else initializers.normal(0.02)


def logits(cfg: ModelConfig) -> Initializer:
    return initializers.xavier_uniform() if cfg.init == "keras2" else initializers.zeros


def _uniform(limit: float) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
