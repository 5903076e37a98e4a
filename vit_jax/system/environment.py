"""What a figure depends on besides the config: versions, device, commit."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax

import vit_jax
from vit_jax.system import processor

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that compute."""
    return {"vit_jax": vit_jax.__version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def programs() -> dict[str, str]:
    """What processes that compute together must have in common, by name: versions, and a digest of this code."""
    found = {f"the version of {name}": version for name, version in versions().items() if name != "python"}
    digest = hashlib.sha256()
    for file in sorted(Path(vit_jax.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return {**found, "vit_jax's code (sha256)": digest.hexdigest()[:12]}


def device() -> str:
    """Like "1 x NVIDIA H200" or "2 x cpu (AMD EPYC 9654, AVX-512 bfloat16, AVX-512, 2 cores)"."""
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        sets = ", ".join(processor.instruction_sets()[:2])
        kind = f"cpu ({processor.name()}, {sets + ', ' if sets else ''}{processor.cores()} cores)"
    return f"{len(devices)} x {kind}"


def git_commit() -> str | None:
    """The commit that the code is at, with "-dirty" where it was changed; None outside a git checkout."""
    here = Path(__file__)
    try:
        # Installed into a folder within another project's checkout it is no part of that.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *args: str) -> str:
    """What git prints."""
    command = ["git", "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
