"""Initial values of parameters: three named sets. D width, K heads, E head dim.

"vit" is the Vision Transformer's (Dosovitskiy et al. 2021): Xavier uniform, each of query, key and value scaled by
its own fan-out, LeCun normal patches and a classifier of zeros. "keras2" is what the layers of Keras 2 give by
default, quirks included: their MultiHeadAttention takes the kernel (D, K, E) for a convolution of D positions and so
makes queries, keys and values about 4 times smaller, from which a run without warmup learns faster (RECORDS.md).

"cct" is that of Compact Transformers (Hassani et al. 2021; github.com/SHI-Labs/Compact-Transformers,
src/utils/transformers.py and tokenizer.py): normal of deviation 0.02 for every dense layer, the classifier included,
0.2 for positions, He normal for convolutions and patches. PyTorch's trunc_normal_ there cuts at -2 and 2, not at two
deviations: it cuts nothing off. A class token, zeros there, has a position of its own, which here is part of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import initializers

from vit_jax.config import ModelConfig

Initializer = Callable[..., jax.Array]


def dense(cfg: ModelConfig) -> Initializer:
    """Of a kernel (D, F) that has no other place below."""
    return initializers.normal(0.02) if cfg.init == "cct" else initializers.xavier_uniform()


def heads(cfg: ModelConfig, parts: int) -> Initializer:
    """Xavier uniform for a kernel (D, K, E), or (D, parts, K, E) with each part scaled by its own fan-out."""
    if cfg.init == "cct":
        return dense(cfg)
    first = 2 if parts > 1 else 1
    return initializers.variance_scaling(
        1.0, "fan_avg", "uniform", in_axis=0, out_axis=(first, first + 1), batch_axis=(1,) if parts > 1 else ()
    )


def qkv(cfg: ModelConfig) -> Initializer:
    """Of the fused projections (D, 3, K, E)."""
    if cfg.init == "keras2":
        return _uniform((6 / ((cfg.heads + cfg.head_dim) * cfg.width)) ** 0.5)
    return heads(cfg, 3)


def attention_out(cfg: ModelConfig) -> Initializer:
    """Of the projection back (K*E, D)."""
    if cfg.init == "keras2":
        return _uniform((6 / ((cfg.head_dim + cfg.width) * cfg.heads)) ** 0.5)
    return dense(cfg)


def convolution(cfg: ModelConfig) -> Initializer:
    """Of a stem's kernel (H, W, in, out): He et al. 2015, cut at two deviations but in CCT."""
    return _he_normal() if cfg.init == "cct" else initializers.he_normal()


def patches(cfg: ModelConfig) -> Initializer:
    return {"vit": initializers.lecun_normal(), "keras2": initializers.xavier_uniform(), "cct": _he_normal()}[cfg.init]


def posemb(cfg: ModelConfig) -> Initializer:
    return {"vit": initializers.normal(0.02), "keras2": _uniform(0.05), "cct": initializers.normal(0.2)}[cfg.init]


def prefix(cfg: ModelConfig) -> Initializer:
    """Of class token and registers (prefix, D)."""
    return posemb(cfg) if cfg.init == "cct" else initializers.normal(0.02)


def score(cfg: ModelConfig) -> Initializer:
    """Of sequence pooling (D, 1)."""
    return dense(cfg) if cfg.init == "cct" else initializers.truncated_normal(0.02)


def logits(cfg: ModelConfig) -> Initializer:
    return initializers.zeros if cfg.init == "vit" else dense(cfg)


def _he_normal() -> Initializer:
    return initializers.variance_scaling(2.0, "fan_in", "normal")


def _uniform(limit: float) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
