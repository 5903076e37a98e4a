"""Whether JAX starts, uses the GPU or TPU that there is, and computes right."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vit_jax.cli.doctor.finding import Finding, number
from vit_jax.cli.doctor.probe import SIDE, Probe
from vit_jax.cli.doctor.versions import CUDA_PLUGINS, SETUP, setup_for
from vit_jax.system.accelerators import ask, cuda_build, least_capability, nvidia_smi

_DEVIATION = 1e-4  # of a float32 matmul; right ones are about 1e-6

# What helps where JAX can't start, by what it says.
_REMEDIES = (
    ("for environment|Unknown flag", "mend that variable"),
    ("TPU is already in use", "end the program that has the TPU: sudo lsof -w /dev/accel* /dev/vfio/* names it"),
    ("importing", SETUP),
    ("RESOURCE_EXHAUSTED|out of memory", "another program has the device's memory: nvidia-smi names it"),
    ("no answer", "the driver may hang: if nvidia-smi doesn't answer either, start the machine anew"),
    ("SIGILL", "jaxlib is built for processors with AVX; take a machine that has one"),
)
_TO_CPU = (("JAX_PLATFORMS", ("cpu",)), ("JAX_PLATFORM_NAME", ("cpu",)))
_AWAY_FROM_GPU = (*_TO_CPU, ("CUDA_VISIBLE_DEVICES", ("", "-1")))


class Gpu(NamedTuple):
    """An NVIDIA GPU as its driver describes it; None is what it doesn't tell."""

    name: str
    driver: str
    total: int | None  # MiB
    used: int | None  # MiB, by any program
    parted: bool  # into MIG instances


class Nvidia(NamedTuple):
    present: bool  # one of NVIDIA's GPUs is here, whether or not its driver answers
    gpus: tuple[Gpu, ...] = ()
    instances: int = 0  # of MIG
    capability: float | None = None  # the lowest compute capability; None: the driver doesn't tell


def nvidia_gpus(system: Path = Path("/")) -> Nvidia:
    """NVIDIA's GPUs in this machine, whether or not JAX uses them."""
    smi = nvidia_smi(system)
    fields = "name,driver_version,memory.total,memory.used,mig.mode.current"
    table = ask(smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits").text if smi else ""
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    gpus = tuple(Gpu(r[0], r[1], number(r[2]), number(r[3]), r[4] == "Enabled") for r in rows if len(r) == 5)
    if not smi or not gpus:
        return Nvidia((system / "dev/nvidia0").exists())
    instances = sum(line.strip().startswith("MIG ") for line in ask(smi, "-L").text.splitlines())
    return Nvidia(True, gpus, instances, least_capability(smi))


def devices(
    seen: Probe, nvidia: Nvidia, installed: Mapping[str, str], env: Mapping[str, str], tpus: int = 0
) -> list[Finding]:
    """What JAX computes on, what else there would be, and whether a matmul comes out right. `tpus`: chips here."""
    if seen.error:
        return [Finding("problem", "JAX", f"can't compute here: {seen.error}", _how_to_start(seen.error, env))]
    if seen.platform == "cpu" and nvidia.present:
        return [_unused_gpu(seen, nvidia, installed, env), _arithmetic(seen)]
    if seen.platform == "cpu" and tpus:
        return [_unused_tpu(seen, tpus, installed, env), _arithmetic(seen)]
    kinds = ", ".join(f"{n} x {kind}" for kind, n in Counter(seen.kinds).items())
    found = "the CPU; a run makes a device of each core where that pays" if seen.platform == "cpu" else kinds
    more = _used_gpu(seen, nvidia, installed, env) if seen.platform == "gpu" else []
    return [Finding("ok", "devices", found), *more, _arithmetic(seen)]


def _how_to_start(error: str, env: Mapping[str, str]) -> str:
    # JAX says this in several ways, one of which is an AssertionError without a word.
    if env.get("JAX_PLATFORMS") and "starting a device" in error:
        return f"unset JAX_PLATFORMS, which is {env['JAX_PLATFORMS']}: JAX then takes the best device that there is"
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, error)), SETUP)


def _arithmetic(seen: Probe) -> Finding:
    if not seen.deviation < _DEVIATION:  # NaN isn't, either
        found = f"a matmul deviates by {seen.deviation:.0e} of its largest entry: a device computes wrong"
        remedy = "trust no result of it; unset XLA_FLAGS and look again, then have the device tested"
        return Finding("problem", "arithmetic", found, remedy)
    found = f"a float32 matmul, {SIDE} x {SIDE}, is right to {seen.deviation:.0e} and takes {1e3 * seen.seconds:.2f} ms"
    return Finding("ok", "arithmetic", found)


def _unused_gpu(seen: Probe, nvidia: Nvidia, installed: Mapping[str, str], env: Mapping[str, str]) -> Finding:
    here = f"JAX computes on the CPU, though {nvidia.gpus[0].name if nvidia.gpus else 'an NVIDIA GPU'} is here"

    def problem(reason: str, remedy: str) -> Finding:
        return Finding("problem", "devices", f"{here}: {reason}", remedy)

    if name := _kept_off(env, _AWAY_FROM_GPU):
        return Finding("warning", "devices", f"{here}: {name}={env[name]} says so", f"unset {name} to use the GPU")
    if not nvidia.gpus:
        remedy = "install NVIDIA's driver, or start the container with its GPUs (docker run --gpus all)"
        return problem("nvidia-smi doesn't answer", remedy)
    if all(gpu.parted for gpu in nvidia.gpus) and not nvidia.instances:
        remedy = "have an administrator make one (nvidia-smi mig -cgi ... -C), or turn MIG off"
        return problem("it is to be parted (MIG), but has no part", remedy)
    driver = nvidia.gpus[0].driver
    build = cuda_build(driver, nvidia.capability)
    if build is None:
        remedy = "install a newer driver, then VIT_JAX_ACCELERATOR=cuda13 ./scripts/setup.sh"
        return problem(f"driver {driver} is older than 525, or the GPU than any that JAX computes on", remedy)
    plugins = [name for name in CUDA_PLUGINS if name in installed]
    if not plugins:
        return problem("JAX is installed without CUDA", setup_for(build.name))
    if build.name == "cuda12" and "jax-cuda12-plugin" not in plugins:
        return problem(f"JAX is installed for cuda13, and here is {build.reason}", setup_for(build.name))
    # CUDA libraries in there go before JAX's own.
    remedy = "unset LD_LIBRARY_PATH" if env.get("LD_LIBRARY_PATH") else "install a newer driver"
    return problem(f"its CUDA part doesn't start. It says: {seen.said or 'nothing'}", remedy)


def _unused_tpu(seen: Probe, tpus: int, installed: Mapping[str, str], env: Mapping[str, str]) -> Finding:
    here = f"JAX computes on the CPU, though {tpus} TPU chip{'s are' if tpus > 1 else ' is'} here"
    if name := _kept_off(env, _TO_CPU):
        return Finding("warning", "devices", f"{here}: {name}={env[name]} says so", f"unset {name} to use the TPU")
    if "libtpu" not in installed:
        return Finding("problem", "devices", f"{here}: JAX is installed without libtpu", setup_for("tpu"))
    found = f"{here}: libtpu doesn't start. It says: {seen.said or 'nothing'}"
    return Finding("problem", "devices", found, "end the program that has it: sudo lsof -w /dev/accel* /dev/vfio/*")


def _kept_off(env: Mapping[str, str], variables: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """The variable that keeps JAX off an accelerator; "" where none does."""
    return next((name for name, values in variables if name in env and env[name].lower() in values), "")


def _used_gpu(seen: Probe, nvidia: Nvidia, installed: Mapping[str, str], env: Mapping[str, str]) -> list[Finding]:
    findings = []
    whole = sum(not gpu.parted for gpu in nvidia.gpus)
    if len(seen.kinds) < whole and "CUDA_VISIBLE_DEVICES" not in env:
        found = f"JAX uses {len(seen.kinds)} of {whole} GPUs"
        findings.append(Finding("warning", "devices", found, "see what nvidia-smi says of the others"))
    if whole < len(nvidia.gpus):
        found = "JAX has a part of a GPU; the peak of one isn't known, so that runs don't tell their MFU"
        findings.append(Finding("ok", "MIG", found))
    for i, gpu in enumerate(nvidia.gpus):
        if gpu.total and gpu.used and gpu.used > gpu.total / 10:
            found = f"{gpu.used:,} of {gpu.total:,} MiB of GPU {i} are in use, and JAX takes three quarters of all"
            remedy = "stop what nvidia-smi names, or export XLA_PYTHON_CLIENT_MEM_FRACTION=0.4, say"
            findings.append(Finding("warning", "GPU memory", found, remedy))
    if seen.capability is not None and seen.capability < 8:
        found = f"runs compute in it on a GPU; before compute capability 8.0 it is slow, and here is {seen.capability}"
        findings.append(Finding("warning", "bfloat16", found, "train with --config.model.dtype=float32"))
    if "tensorflow" in installed:
        found = "the build for GPUs: runs keep it off the GPU, but its CUDA libraries may be others than JAX's"
        remedy = "install tensorflow-cpu in its place: it only reads and writes files here"
        findings.append(Finding("warning", "tensorflow", found, remedy))
    return findings
