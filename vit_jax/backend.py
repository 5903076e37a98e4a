"""What a run uses on the machine at hand where its config leaves the choice: each choice by platform, in one place.

None of them changes what is computed beyond rounding, but for the dtype, which is written into the run's config.
"""

import contextlib
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.config import ModelConfig

# Examples that each CPU device takes at a time in attention: the scores of 8 x 4 heads x 144 x 144 are 2.6 MB. On two
# cores 4 to 16 were alike, all at once slower (RECORDS.md).
_CHUNK = 8

# On two cores two devices beat one by a tenth to a quarter: loops between matmuls then run on both, too. More than 8
# were never measured; each holds its own copy of the state.
_MOST_CPU_DEVICES = 8


def use_cpu_cores(batch_size: int, accumulate: int = 1) -> None:
    """Gives JAX a CPU device for each core, as many as divide the batch. Call before anything else uses JAX.

    $JAX_NUM_CPU_DEVICES, or the same in $XLA_FLAGS, stays. Elsewhere than on a CPU this has no effect.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform_device_count" in flags:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    micro_batch = batch_size // accumulate if accumulate > 0 else 0
    count = max(n for n in range(1, min(cores, _MOST_CPU_DEVICES) + 1) if micro_batch % n == 0)
    with contextlib.suppress(RuntimeError):  # JAX is in use already
        jax.config.update("jax_num_cpu_devices", count)


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


def attention_chunk(batch_size: int) -> int:
    """Examples that chunked attention takes at a time, over all devices: a divisor of the batch."""
    return math.gcd(batch_size, _CHUNK * jax.device_count())


def resident_copies() -> int:
    """How often the memory of the host holds the data set that is kept on the devices."""
    return jax.local_device_count() if jax.default_backend() == "cpu" else 1


def _is_nvidia() -> bool:
    return "nvidia" in jax.devices()[0].device_kind.lower()
