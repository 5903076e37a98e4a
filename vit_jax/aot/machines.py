"""Accelerators by name, as their makers describe them: "h100x8", "v5e-16"."""

import re
from dataclasses import dataclass
from functools import partial

from vit_jax.errors import UserError
from vit_jax.models.backend import Target

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """Devices of one kind."""

    name: str  # "h100x8"
    platform: str  # gpu | tpu
    device_kind: str  # as JAX names it
    devices: int
    memory: int  # bytes of a device that a program can have
    bandwidth: float  # bytes/s of a device's memory
    description: str  # for XLA: an NVIDIA GPU's target configuration (text proto), a TPU slice's topology ("v5e:2x4")
    compute_capability: float = 0.0

    @property
    def target(self) -> Target:
        return Target(self.platform, self.device_kind, self.devices, self.devices, self.compute_capability)


@dataclass(frozen=True)
class _Gpu:
    """What XLA asks of an NVIDIA GPU (GpuDeviceInfoProto), and JAX's name for it."""

    kind: str
    capability: tuple[int, int]
    memory: int  # bytes
    bandwidth: float  # bytes/s
    cores: int  # streaming multiprocessors
    fpus: int  # in each
    threads: int  # likewise, at most
    shared: int  # bytes, likewise
    l2: int  # bytes
    clock: float  # GHz


# Memory as the driver tells it; the rest from NVIDIA's data sheets and architecture papers.
_hopper = partial(_Gpu, capability=(9, 0), cores=132, fpus=128, threads=2048, shared=233472, l2=52428800, clock=1.98)
_ampere = partial(_Gpu, capability=(8, 0), cores=108, fpus=64, threads=2048, shared=167936, l2=41943040, clock=1.41)
_ada = partial(_Gpu, capability=(8, 9), fpus=128, threads=1536, shared=102400)
_GPUS = {
    "h100": _hopper("NVIDIA H100 80GB HBM3", memory=84929347584, bandwidth=3.35e12),
    "h200": _hopper("NVIDIA H200", memory=150754820096, bandwidth=4.8e12),
    "a100-40": _ampere("NVIDIA A100-SXM4-40GB", memory=42298834944, bandwidth=1.555e12),
    "a100-80": _ampere("NVIDIA A100-SXM4-80GB", memory=85100068864, bandwidth=2.039e12),
    "l4": _ada("NVIDIA L4", memory=23580639232, bandwidth=3e11, cores=58, l2=50331648, clock=2.04),
    "rtx4090": _ada(
        "NVIDIA GeForce RTX 4090", memory=25393692672, bandwidth=1.008e12, cores=128, l2=75497472, clock=2.52
    ),
}

# Of which JAX takes so much at the start (XLA_PYTHON_CLIENT_MEM_FRACTION).
GPU_SHARE = 0.75


@dataclass(frozen=True)
class _Tpu:
    """A generation of TPUs: Google Cloud's slices by the number in their names, as grids of chips."""

    kind: str
    memory: int  # bytes of a chip that a program can have, as the compiler says
    bandwidth: float  # bytes/s
    slices: dict[int, str]


_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
# Named by their cores, of which a chip has two.
_CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"}
_TPUS = {
    "v5e": _Tpu("TPU v5 lite", int(15.75 * GIB), 8.19e11, _GRIDS),
    "v5p": _Tpu("TPU v5", int(95.74 * GIB), 2.765e12, _CUBES),
    "v6e": _Tpu("TPU v6 lite", int(31.25 * GIB), 1.64e12, _GRIDS),
}


def machine(name: str) -> Machine:
    """The devices that a name stands for; without a number, the fewest. Raises UserError for one that isn't known."""
    given, name = name, name.lower()
    if name in _GPUS:
        return _gpu(name, _GPUS[name], 1)
    if (found := re.fullmatch(r"(.+)x([1-9]\d{0,3})", name)) and found[1] in _GPUS:
        return _gpu(name, _GPUS[found[1]], int(found[2]))
    if (found := re.fullmatch(r"(v\d\w)(?:-(\d+))?", name)) and found[1] in _TPUS:
        return _tpu(name, found[1], int(found[2] or min(_TPUS[found[1]].slices)))
    gpus = ", ".join(_GPUS)
    slices = ", ".join(f"{name}-{min(tpu.slices)} to {name}-{max(tpu.slices)}" for name, tpu in _TPUS.items())
    raise UserError(f"--target={given}: not known; there are {gpus}, several of them as h100x8, and {slices}")


def _gpu(name: str, gpu: _Gpu, devices: int) -> Machine:
    major, minor = gpu.capability
    description = (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
        f"shared_memory_per_core: {gpu.shared} threads_per_core_limit: {gpu.threads} core_count: {gpu.cores} "
        f"fpus_per_core: {gpu.fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        f"memory_bandwidth: {gpu.bandwidth:.0f} l2_cache_size: {gpu.l2} clock_rate_ghz: {gpu.clock} "
        f"device_memory_size: {gpu.memory} shared_memory_per_block_optin: {gpu.shared - 1024} "
        f"cuda_compute_capability {{ major: {major} minor: {minor} }} registers_per_core_limit: 65536 "
        'registers_per_block_limit: 65536 } platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
        f'runtime_version {{ major: 13 }} device_description_str: "{gpu.kind}"'
    )
    memory = int(gpu.memory * GPU_SHARE)
    capability = major + minor / 10
    return Machine(name, "gpu", gpu.kind, devices, memory, gpu.bandwidth, description, capability)


def _tpu(name: str, generation: str, number: int) -> Machine:
    tpu = _TPUS[generation]
    if number not in tpu.slices:
        known = ", ".join(f"{generation}-{one}" for one in tpu.slices)
        raise UserError(f"--target={name}: there is no slice of {number}; there are {known}")
    grid = tpu.slices[number]
    chips = number // 2 if tpu.slices is _CUBES else number
    return Machine(name, "tpu", tpu.kind, chips, tpu.memory, tpu.bandwidth, f"{generation}:{grid}")
