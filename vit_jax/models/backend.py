"""What depends on the platform: dtype, attention, barriers, memory. How a CPU's cores are used is in steps/cpu.py.

Only the dtype changes results beyond rounding; it is written into the run's config.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.config import ModelConfig

# Bytes of attention scores that a CPU device works on at a time: what stays in a core's share of the cache. Around it
# (a quarter to twice) all sizes were alike, the whole batch at once slower (RECORDS.md).
_SCORE_BYTES = 2.7e6


def compute_dtype(name: str) -> Any:
    """The dtype that a config's name stands for; "auto" is bfloat16 where it is fast (not on a CPU)."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]


def attention(cfg: ModelConfig, dtype: Any) -> str:
    """The way of computing attention that a config's name stands for: "auto" is the fastest that can."""
    if cfg.attention != "auto":
        return cfg.attention
    if cfg.token_mlp_dim is not None:  # an MLP-Mixer has none
        return "xla"
    platform = jax.default_backend()
    if platform == "cpu":
        return "chunked"
    fits = dtype == jnp.bfloat16 and cfg.head_dim % 8 == 0 and cfg.head_dim <= 128 and not cfg.attention_dropout
    return "cudnn" if platform == "gpu" and fits and _has_fused_attention() else "xla"


def attention_chunk(batch_size: int, heads: int, tokens: int) -> int:
    """Examples that chunked attention takes at a time, over all of JAX's devices: a divisor of `batch_size`.

    `batch_size` is what the model is applied to: a micro-batch in training.
    """
    devices = jax.device_count() if batch_size % jax.device_count() == 0 else 1
    own, most = batch_size // devices, max(int(_SCORE_BYTES / (4 * heads * tokens**2)), 1)
    return devices * max(n for n in range(1, min(own, most) + 1) if own % n == 0)


def barrier(values: Any) -> Any:
    """Keeps XLA from fusing across it, where its choice of what to fuse is worse than none: on a CPU."""
    return jax.lax.optimization_barrier(values) if jax.default_backend() == "cpu" else values


def resident_copies() -> int:
    """Copies of a resident data set in one memory: one for each CPU device, as these share the host's; else 1."""
    return jax.local_device_count() if jax.default_backend() == "cpu" else 1


def _has_fused_attention() -> bool:
    """Whether cuDNN's fused attention runs on this GPU: NVIDIA's from Ampere on."""
    device = jax.devices()[0]
    return "nvidia" in device.device_kind.lower() and float(getattr(device, "compute_capability", 0)) >= 8
