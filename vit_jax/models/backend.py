"""What depends on the platform: dtype, attention, barriers, memory. How a CPU's cores are used is in steps/cpu.py.

All of it is decided for a target that is passed in, so that a program for a GPU or a TPU can be traced and looked at on
a machine that has none. Only the dtype changes results beyond rounding; it is written into the run's config.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.system.processor import lacks_avx512, multiplies_bfloat16

# Bytes of attention scores that a CPU device works on at a time: what stays in a core's share of the cache. Around it
# (a quarter to twice) all sizes were alike, the whole batch at once slower (RECORDS.md).
_SCORE_BYTES = 2.7e6


@dataclass(frozen=True)
class Target:
    """The devices that something is made for, all of one kind; they needn't be at hand."""

    platform: str  # as JAX names its backends: cpu | gpu | tpu
    device_kind: str = ""  # likewise: "NVIDIA H100 80GB HBM3"
    devices: int = 1  # of all processes
    local_devices: int = 1  # of this one
    compute_capability: float = 0.0  # of an NVIDIA GPU: 9.0; others have none
    fast_bfloat16: bool = False  # of a CPU: whether a step is faster in it than in float32
    slow_convolutions: bool = False  # of a CPU: whether those of XLA in float32 are slower than matmuls of windows


def target_at_hand() -> Target:
    """The devices that JAX uses in this process; asked once, where a run starts."""
    device = jax.devices()[0]
    capability = float(getattr(device, "compute_capability", 0) or 0) if _is_nvidia(device.device_kind) else 0.0
    # From 0.12 on XLA's CPU uses the matrix units (RECORDS.md).
    fast = device.platform == "cpu" and multiplies_bfloat16() and jax.__version_info__ >= (0, 12)
    # Without them a step of two small models takes three quarters of the time there; with AVX-512, more (RECORDS.md).
    slow = device.platform == "cpu" and lacks_avx512() and jax.__version_info__ >= (0, 12)
    counts = jax.device_count(), jax.local_device_count()
    return Target(jax.default_backend(), device.device_kind, *counts, capability, fast, slow)


@dataclass(frozen=True)
class Compute:
    """How a module computes: what was decided for its target. Parameters, always float32, don't depend on it."""

    dtype: Any = jnp.float32
    barriers: bool = False  # whether XLA is kept from fusing as it likes (`barrier`)
    rounds_saved: bool = False  # whether what is kept for the backward pass is kept in `dtype`, not in float32
    rows_kept: bool = False  # whether XLA is kept from laying tokens out with the batch innermost (`in_rows`)
    rows_alone: bool = False  # whether matmuls are fast only along the rows of what is in memory
    windows: bool = False  # whether convolutions are matmuls of windows (models/convolution.py)
    devices: int = 1  # over which a batch is split
    forward_mode: bool = False  # operations as plain formulas, which have derivatives of every mode


def compute_for(dtype: Any, target: Target, forward_mode: bool) -> Compute:
    return Compute(
        dtype,
        # XLA's choice of what to fuse is worse than none on a CPU alone.
        barriers=target.platform == "cpu" and not forward_mode,
        # XLA leaves roundings to bfloat16 out where it can. For a TPU it then keeps the MLP's hidden values at twice
        # the size; for a GPU it keeps what they are computed from, and saying otherwise costs one more copy.
        rounds_saved=target.platform == "tpu" and not forward_mode,
        # Learned positions are summed over the batch in their gradient. For that one sum XLA's GPU lays out the tokens
        # of all blocks as (N, D, B), and transposes them before and after each matmul. Over several devices JAX before
        # 0.12 would gather all their tokens to say so.
        rows_kept=target.platform == "gpu" and (target.devices == 1 or jax.__version_info__ >= (0, 12)),
        # XLA's kernels for AMX take no transposed left side: six times as long without.
        rows_alone=multiplies_rows(dtype, target) and not forward_mode,
        windows=convolves_windows(dtype, target) and not forward_mode,
        devices=target.devices,
        forward_mode=forward_mode,
    )


def compute_dtype(name: str, target: Target) -> Any:
    """The dtype that a config's name stands for; "auto" is bfloat16 where it is faster."""
    if name == "auto":
        name = "bfloat16" if target.platform != "cpu" or target.fast_bfloat16 else "float32"
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]


def multiplies_rows(dtype: Any, target: Target) -> bool:
    """Whether matmuls are fast only along the rows of what is in memory."""
    return target.fast_bfloat16 and dtype == jnp.bfloat16


def convolves_windows(dtype: Any, target: Target) -> bool:
    """Whether convolutions are fast only as matmuls of windows: on matrix units, and in float32 without AVX-512."""
    return multiplies_rows(dtype, target) or (target.slow_convolutions and dtype == jnp.float32)


def attention(cfg: ModelConfig, dtype: Any, target: Target, tokens: int) -> str:
    """The way of computing so many tokens' attention that a config's name stands for: "auto" is the fastest that can.

    Raises UserError for cuDNN's where it can't.
    """
    if cfg.attention == "cudnn" and target.platform != "gpu":
        raise UserError(f'config.model.attention="cudnn" needs an NVIDIA GPU; this is {target.platform}: use "auto"')
    if cfg.attention == "cudnn" and not cudnn_takes(tokens):
        raise UserError(
            f'config.model.attention="cudnn" takes an even number of tokens; this model has {tokens}: use "auto"'
        )
    if cfg.attention != "auto":
        return cfg.attention
    if cfg.token_mlp_dim is not None:  # an MLP-Mixer has none
        return "xla"
    if target.platform == "cpu":
        # Small products one after the other waste matrix units; elsewhere the cache counts for more (RECORDS.md).
        return "recomputed" if multiplies_rows(dtype, target) else "chunked"
    # cuDNN's fused attention: NVIDIA's GPUs from Ampere on.
    fits = dtype == jnp.bfloat16 and cfg.head_dim % 8 == 0 and cfg.head_dim <= 128 and not cfg.attention_dropout
    fits &= cudnn_takes(tokens)
    return "cudnn" if target.platform == "gpu" and target.compute_capability >= 8 and fits else "recomputed"


def cudnn_takes(tokens: int) -> bool:
    """Whether cuDNN's attention has gradients for so many tokens (JAX refuses odd numbers: a class token, say)."""
    return tokens % 2 == 0


def attention_chunk(batch_size: int, heads: int, tokens: int, devices: int) -> int:
    """Examples that chunked attention takes at a time, over all devices: a divisor of `batch_size`.

    `batch_size` is what the model is applied to: a micro-batch in training.
    """
    devices = devices if batch_size % devices == 0 else 1
    own, most = batch_size // devices, max(int(_SCORE_BYTES / (4 * heads * tokens**2)), 1)
    return devices * max(n for n in range(1, min(own, most) + 1) if own % n == 0)


def barrier(values: Any, wanted: bool) -> Any:
    """Keeps XLA from fusing across it, where that is wanted."""
    return jax.lax.optimization_barrier(values) if wanted else values


def in_rows(x: jax.Array, wanted: bool) -> jax.Array:
    """Keeps XLA from storing an array with its axes in another order than x has them, where that is wanted."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim)))) if wanted else x


def resident_copies(target: Target) -> int:
    """Copies of a resident data set in one memory: one for each CPU device, as these share the host's; else 1."""
    return target.local_devices if target.platform == "cpu" else 1


def _is_nvidia(device_kind: str) -> bool:
    return "nvidia" in device_kind.lower()
