"""Devices that needn't be here, for XLA to compile for (JAX's ahead-of-time topologies)."""

import os
import sys
from importlib import util
from typing import Any

import jax
from jax.experimental import topologies

from vit_jax.aot.machines import Machine
from vit_jax.errors import UserError

# What each needs to be installed: a module, and the extra that brings it.
_NEEDED = {"gpu": ("jax_plugins.xla_cuda13", "cuda13"), "tpu": ("libtpu", "tpu")}


def settle_environment(machines: list[Machine]) -> None:
    """Keeps JAX on the CPU and the compilers from looking for devices; to be called before JAX is used.

    Raises UserError where what compiles for a machine isn't installed.
    """
    for machine in machines:
        module, extra = _NEEDED[machine.platform]
        if not _is_installed(module):
            raise UserError(
                f"--target={machine.name}: its compiler isn't installed; a machine without such a device can have it, "
                f'beside what is here: {sys.executable} -m pip install "jax[{extra}]=={jax.__version__}"'
            )
    jax.config.update("jax_platforms", "cpu")
    # Without a GPU, XLA can't try which of its matmuls is the fastest, and has none of its own for some shapes; cuBLAS,
    # which it takes otherwise, has one for all.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false".strip()
    # Else libtpu asks a server of Google's cloud what it is part of, and won't be loaded twice on a machine.
    tpu = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}
    for name, value in {**tpu, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_MIN_LOG_LEVEL": "3"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _is_installed(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def devices_of(machine: Machine) -> list[Any]:
    """The machine's devices, as JAX describes those that it doesn't have."""
    if machine.platform == "tpu":
        more = {"chips_per_host_bounds": (2, 4, 1)} if machine.description.endswith(":2x4") else {}
        found = topologies.get_topology_desc(platform="tpu", topology_name=machine.description, **more)
    else:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=machine.description, topology=f"1x1x{machine.devices}"
        )
    return list(found.devices)
