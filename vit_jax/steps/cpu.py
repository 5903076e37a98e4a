"""How a step is spread over a CPU: devices from its cores, micro-batches that fit its caches."""

import contextlib
import ctypes
import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.config import Config, ModelConfig
from vit_jax.models import flops, resolve
from vit_jax.models.backend import Target, compute_dtype, convolves_windows, multiplies_rows
from vit_jax.models.checks import check_model
from vit_jax.models.stems import grid_shape, window_entries
from vit_jax.steps.partition import devices_named
from vit_jax.system.processor import cores

# On two cores, two devices beat one by up to a quarter: the loops between matmuls then run on both, too. Below this
# work for each in a step, handing it out costs more than it gives (4 GFLOP in a step: even; RECORDS.md).
_LEAST_FLOPS = 2e9

# Entries of the widest activations of a micro-batch, on each device, that a core's caches and its share of the memory's
# speed take well: in float32, and in bfloat16 on matrix units, which want both their sides nearer. And a device's work
# in a micro-batch, for each entry of the kernels, that makes up for adding up one more set of gradients (RECORDS.md).
_ACTIVATIONS = {"float32": 6e5, "bfloat16": 3e5}
_LEAST_FLOPS_PER_ENTRY = 1750

# Likewise of a part of an evaluation, which keeps nothing for a backward pass.
_SEEN_ACTIVATIONS = {"float32": 6e5, "bfloat16": 1.1e6}

# On 16 cores 8 were as fast as 4 and faster than 16 (RECORDS.md), and each device holds its own copy of the state.
_MAX_DEVICES = 8


def use_cpu_cores(config: Config, processes: int = 1) -> None:
    """Gives JAX a CPU device for each core: as many as divide this process' share of the batch and have enough to do.

    With a config.train.mesh that names their number they are as many, whatever the cores.

    To be called before anything else uses JAX. $JAX_NUM_CPU_DEVICES, or the same in $XLA_FLAGS, stays. Elsewhere than
    on a CPU it has no effect. Raises UserError for a config that describes no model.
    """
    if cores() < (os.cpu_count() or 1):
        # Else XLA starts a thread for each core that it sees, and a container is stopped whenever its time is spent.
        os.environ.setdefault("PJRT_NPROC", str(cores()))
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if given or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    # The data's class count isn't known yet, and hardly matters.
    model = resolve(config.model, config.model.num_classes or 1000)
    check_model(model)
    with contextlib.suppress(RuntimeError):  # JAX is in use already
        named = devices_named(config.train.mesh)
        count = named // processes if named else device_count(config, flops.training(model), cores(), processes)
        jax.config.update("jax_num_cpu_devices", max(count, 1))


def give_memory_back() -> None:
    """Gives the memory that was freed back to the system, where the C library is glibc.

    It keeps some of it in a heap for each thread, more with every epoch, though nothing is lost (RECORDS.md).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def device_count(config: Config, flops_per_image: float, cores: int, processes: int = 1) -> int:
    """How many devices `cores` cores should be for a step of this config, one of so many processes: at least 1."""
    batch_size = config.train.batch_size // processes
    accumulate = 1 if config.train.accumulate is None else config.train.accumulate
    if batch_size <= 0 or accumulate <= 0:  # a mistake that is told elsewhere
        return 1
    # By the work of the whole step, not of a micro-batch: a run whose number of micro-batches has been chosen since
    # gets the same devices again.
    most = min(cores, _MAX_DEVICES, int(flops_per_image * batch_size / _LEAST_FLOPS))
    return _largest_divisor(batch_size // accumulate, most)


def with_micro_batches(config: Config, target: Target) -> Config:
    """The config with `train.accumulate` filled in, where it is open. `config.model` must be resolved."""
    if config.train.accumulate is not None:
        return config
    train = dataclasses.replace(config.train, accumulate=micro_batches(config, target))
    return dataclasses.replace(config, train=train)


def micro_batches(config: Config, target: Target) -> int:
    """In how many parts a step takes its batch where the config leaves it open: 1 elsewhere than on a CPU.

    The gradient is that of the whole batch up to rounding; dropout's masks are others than with another number. Behind
    a convolution stem it is 1, unless that consists of matmuls: XLA's convolutions are slow inside a loop on a CPU (ten
    times, measured). `config.model` must be resolved.
    """
    cfg, share = config.model, config.train.batch_size // target.devices
    dtype = compute_dtype(cfg.dtype, target)
    rows, windows = multiplies_rows(dtype, target), convolves_windows(dtype, target)
    if target.platform != "cpu" or not (cfg.stem.kind == "patch" or (cfg.stem.kind == "conv" and windows)):
        return 1
    work = flops.training(cfg) * share / flops.kernel_entries(cfg)
    most = min(
        share * _widest(cfg) / _ACTIVATIONS["bfloat16" if rows else "float32"],
        work / _LEAST_FLOPS_PER_ENTRY,
    )
    return _largest_divisor(share, most)


def evaluation_parts(cfg: ModelConfig, dtype: Any, images: int) -> int:
    """In how many parts a CPU device takes its `images` of an evaluation. `cfg` must be resolved.

    Behind a ResNet 1: its convolutions were not measured in a loop.
    """
    if cfg.stem.kind == "resnet":
        return 1
    most = images * _widest(cfg) / _SEEN_ACTIVATIONS[jnp.dtype(dtype).name]
    return _largest_divisor(images, most)


def _widest(cfg: ModelConfig) -> int:
    """Entries of the widest activations of an image: those of its tokens, or the windows of the stem's convolutions."""
    channels = max(cfg.mlp_dim, 0 if cfg.token_mlp_dim else 3 * cfg.heads * cfg.head_dim)
    return max(math.prod(grid_shape(cfg)) * channels, window_entries(cfg))


def _largest_divisor(count: int, most: float) -> int:
    """Of `count`, up to `most`; 1 where there is no other."""
    return max((n for n in range(1, int(most) + 1) if count % n == 0), default=1)
