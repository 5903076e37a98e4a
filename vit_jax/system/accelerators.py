"""Which build of JAX a machine can use: for the CPU, for NVIDIA's CUDA 12 or 13, or for TPUs.

scripts/setup.sh runs this file before anything is installed, so it imports the standard library alone. Nothing is asked
of a network.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

# JAX's CUDA builds: the oldest driver (major version), the lowest compute capability. CUDA 13 left out what is older
# than Turing; docs.jax.dev/en/latest/installation.html has both.
CUDA_BUILDS = {"cuda13": (580, 7.5), "cuda12": (525, 5.2)}

# Google's network cards have its PCI vendor id, too: only these are TPUs (jax/_src/hardware_utils.py).
_GOOGLE = "0x1ae0"
_TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076", "0x0083", "0x007c")
_WSL = "usr/lib/wsl/lib"  # where WSL2 keeps nvidia-smi, which isn't always in PATH
_PATIENCE = 20.0  # seconds for nvidia-smi; a driver that starts takes up to about five


class Build(NamedTuple):
    name: str  # cpu | cuda12 | cuda13 | tpu, as the locks and the extras are called
    reason: str


class Answer(NamedTuple):
    """Of a program: what it printed, or why there is nothing: it isn't there, hangs or fails."""

    text: str = ""
    trouble: str = ""


def ask(*command: str, timeout: float = _PATIENCE) -> Answer:
    """What a program prints."""
    name = Path(command[0]).name
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
        )
    except OSError as error:
        return Answer(trouble=f"{name} can't be run: {error.strerror}")
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()  # and not waited for: what hangs in a driver doesn't end
        return Answer(trouble=f"{name} does not answer within {timeout:g} s")
    if child.returncode:
        said = next((line.strip() for line in (out + err).splitlines() if line.strip()), "")
        return Answer(trouble=f"{name} fails{f': {said[:200]}' if said else ''}")
    return Answer(out)


def nvidia_smi(root: Path) -> str | None:
    """The path of NVIDIA's program, which its driver brings; None where there is none. `root` is where /usr lies."""
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=str(root / _WSL))


def cuda_build(driver: str, capability: float | None) -> Build | None:
    """The newest CUDA build for a driver ("580.82") and the least of the GPUs (None: not known); None: none fits."""
    short = ""
    for name, (oldest, lowest) in CUDA_BUILDS.items():
        if _major(driver) < oldest:
            short = f"; {name} needs driver {oldest} or newer"
        elif capability is not None and capability < lowest:
            short = f", compute capability {capability}; {name} needs {lowest}"
        else:
            return Build(name, f"NVIDIA driver {driver}{short}")
    return None


def least_capability(smi: str, timeout: float = _PATIENCE) -> float | None:
    """The lowest compute capability of the GPUs; None where the driver, an old one, doesn't tell."""
    rows = ask(smi, "--query-gpu=compute_cap", "--format=csv,noheader", timeout=timeout).text.split()
    return min((float(row) for row in rows if re.fullmatch(r"\d+\.\d+", row)), default=None)


def tpu_chips(root: Path) -> int:
    """How many TPU chips are attached by PCI, counted as JAX does. `root` is where /sys lies."""
    return sum(
        _content(card / "vendor") == _GOOGLE and _content(card / "device") in _TPUS
        for card in root.glob("sys/bus/pci/devices/*.0")
    )


def best_build(root: Path, timeout: float = _PATIENCE) -> Build:
    """The build for the accelerator that is here and works; for the CPU otherwise, with the reason.

    `root` is where /dev, /sys and /usr lie, `timeout` in seconds for each question to nvidia-smi.
    """
    if sys.platform != "linux":
        return Build("cpu", "JAX has builds for accelerators on Linux only")
    build = _nvidia_build(root, timeout)
    if build.name == "cpu" and (chips := tpu_chips(root)):
        return Build("tpu", f"{chips} TPU chip{'s' if chips > 1 else ''}")
    return build


def be_quiet_without_accelerator(root: Path = Path("/")) -> None:
    """Has JAX's builds for accelerators compute quietly on the CPU of a machine that has none. Before JAX starts one.

    They do so by themselves, but only after trying, with tracebacks (CUDA) and errors (TPU) that are of no concern.
    `root` is where /dev and /sys lie.
    """
    nvidia = any((root / "dev" / name).exists() for name in ("nvidia0", "nvidiactl", "dxg"))  # by which JAX decides
    if not nvidia:
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    chips = tpu_chips(root) or any(root.glob("dev/accel*")) or any(root.glob("dev/vfio/[0-9]*"))
    other = find_spec("jax_plugins") and (nvidia or (root / "dev/kfd").exists())  # a GPU that JAX has a part for
    if find_spec("libtpu") and not other and not chips:
        import jax

        if not jax.config.values["jax_platforms"]:
            jax.config.update("jax_platforms", "cpu")


def _nvidia_build(root: Path, timeout: float) -> Build:
    smi = nvidia_smi(root)
    if smi is None:
        if (root / "dev/nvidia0").exists():
            return Build("cpu", "an NVIDIA GPU is here, but no nvidia-smi: install NVIDIA's driver")
        return Build("cpu", "no NVIDIA driver and no TPU is here")
    answer = ask(smi, "--query-gpu=driver_version", "--format=csv,noheader", timeout=timeout)
    if answer.trouble:
        return Build("cpu", f"{answer.trouble}: mend NVIDIA's driver")
    driver = next(iter(answer.text.split()), "")
    if not re.match(r"\d+\.", driver):
        return Build("cpu", f"nvidia-smi names no driver, but says: {' '.join(answer.text.split())[:200] or 'nothing'}")
    if build := cuda_build(driver, least_capability(smi, timeout)):
        return build
    oldest = min(oldest for oldest, _ in CUDA_BUILDS.values())
    if _major(driver) < oldest:
        return Build("cpu", f"NVIDIA driver {driver} is older than {oldest}, JAX's oldest: install a newer one")
    return Build("cpu", "the GPU is older than any that JAX computes on")


def _major(driver: str) -> int:
    match = re.match(r"\d+", driver)
    return int(match[0]) if match else 0


def _content(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    print(*best_build(Path("/")))
