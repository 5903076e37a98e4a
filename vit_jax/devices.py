"""How many devices JAX makes of a CPU's cores."""

import contextlib
import os

import jax

from vit_jax.config import Config
from vit_jax.models import flops, resolve
from vit_jax.models.checks import check_model

# On two cores, two devices beat one by up to a quarter: the loops between matmuls then run on both, too. Below this
# work for each in a step, handing it out costs more than it gives (4 GFLOP in a step: even; RECORDS.md).
_LEAST_FLOPS = 2e9

# More were never measured, and each device holds its own copy of the state.
_MOST = 8


def use_cpu_cores(config: Config) -> None:
    """Gives JAX a CPU device for each core: as many as divide the batch and have enough to do in a step.

    To be called before anything else uses JAX. $JAX_NUM_CPU_DEVICES, or the same in $XLA_FLAGS, stays. Elsewhere than
    on a CPU it has no effect. Raises UserError for a config that describes no model.
    """
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if given or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    model = resolve(config.model, config.model.num_classes or 1000)
    check_model(model)
    with contextlib.suppress(RuntimeError):  # JAX is in use already
        jax.config.update("jax_num_cpu_devices", count(config, flops.training(model), cores()))


def cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count(config: Config, flops_per_image: float, cores: int) -> int:
    """How many devices `cores` cores should be for a step of this config: at least 1."""
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    if batch_size <= 0 or accumulate <= 0:  # a mistake that is told elsewhere
        return 1
    micro_batch = batch_size // accumulate
    most = min(cores, _MOST, int(flops_per_image * micro_batch / _LEAST_FLOPS))
    return max((n for n in range(1, most + 1) if micro_batch % n == 0), default=1)
