"""What a run uses on the machine at hand where its config leaves the choice: each choice by platform, in one place.

None of them changes what is computed beyond rounding, but for the dtype, which is written into the run's config.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.config import ModelConfig

# Bytes of attention scores that a CPU device works on at a time: what stays in a core's share of the cache. Around it
# (a quarter to twice) all sizes were alike, the whole batch at once slower (RECORDS.md).
_SCORES = 2.7e6


def compute_dtype(name: str) -> Any:
    """The dtype that a config's name stands for; "auto" is bfloat16 where it is fast (not on a CPU)."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]


def attention(cfg: ModelConfig, dtype: Any) -> str:
    """The way of computing attention that a config's name stands for: "auto" is the fastest that can."""
    if cfg.attention != "auto":
        return cfg.attention
    platform = jax.default_backend()
    if platform == "cpu":
        return "chunked"
    fits = dtype == jnp.bfloat16 and cfg.head_dim % 8 == 0 and cfg.head_dim <= 128 and not cfg.attention_dropout
    return "cudnn" if platform == "gpu" and fits and _is_nvidia() else "xla"


def attention_chunk(batch_size: int, heads: int, tokens: int) -> int:
    """Examples that chunked attention takes at a time, over all devices: a divisor of the batch."""
    devices = jax.device_count() if batch_size % jax.device_count() == 0 else 1
    own, most = batch_size // devices, max(int(_SCORES / (4 * heads * tokens**2)), 1)
    return devices * max(n for n in range(1, min(own, most) + 1) if own % n == 0)


def barrier(values: Any) -> Any:
    """Keeps XLA from fusing across it, where its choice of what to fuse is worse than none: on a CPU."""
    return jax.lax.optimization_barrier(values) if jax.default_backend() == "cpu" else values


def resident_copies() -> int:
    """How often the memory of the host holds the data set that is kept on the devices."""
    return jax.local_device_count() if jax.default_backend() == "cpu" else 1


def _is_nvidia() -> bool:
    return "nvidia" in jax.devices()[0].device_kind.lower()
