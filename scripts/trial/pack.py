"""What is carried to the machine, made here: small wheels and the data's pieces, one folder for each call."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import carry_data
from packaging.markers import Marker

from trial.child import REPOSITORY
from vit_jax.errors import UserError
from vit_jax.system.environment import git_commit

# What vit_jax needs and a machine with jax, torch and timm may lack or have too old. scikit-learn is too large (it is
# for the digits alone), and Pillow comes with matplotlib.
WHEELS = (
    "ml-collections", "absl-py", "pyyaml", "flax", "optax", "orbax-checkpoint", "rich", "markdown-it-py", "mdurl",
    "pygments", "safetensors",
)  # fmt: skip
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
_MARGIN = 1.5  # MiB of a call's limit that stay free


def locked(lock: str, python: str) -> list[str]:
    """NAME==VERSION and the hashes of WHEELS as requirements.lock has them for this Python, like "3.12"."""
    found = []
    entry = r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?((?:[ \\]*\n\s+--hash=\S+)*)"
    for name, version, marker, hashes in re.findall(entry, lock, re.MULTILINE):
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        if name in WHEELS and (not marker or Marker(marker.strip()).evaluate(environment)):
            found.append(" ".join([f"{name}=={version}", *re.findall(r"--hash=\S+", hashes)]))
    if len(found) != len(WHEELS):
        raise UserError(f"requirements.lock names {len(found)} of the {len(WHEELS)} packages to carry: {found}")
    return found


def download(entries: list[str], python: str, folder: Path) -> None:
    """Fetches wheels for x86-64 Linux by hash; raises UserError with what pip said where it can't."""
    platforms = [f"--platform={platform}_x86_64" for platform in _PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", "--implementation=cp", *platforms, f"--dest={folder}"]
    folder.mkdir(parents=True)
    wanted = folder / "requirements.txt"
    wanted.write_text("\n".join(entries) + "\n")
    command += ["--require-hashes", f"--requirement={wanted}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wanted.unlink()
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the wheels can't be fetched ({said}); a network and pip in this Python are needed")


def pack(folder: Path, python: str, limit: float, predicted: list[Path]) -> list[Path]:
    """Fills folder/1, folder/2 and so on, each to be carried by the call of that number; gives them.

    `predicted` are files of `vit-jax compile --json`. `limit` is what a call may carry in all, in MiB, the working tree
    included. Raises UserError where the data isn't prepared or the wheels can't be fetched.
    """
    for file in predicted:
        if not file.is_file():
            raise UserError(f"--predicted: there is no file {file}; vit-jax compile --json={file} writes one")
    shutil.rmtree(folder, ignore_errors=True)
    first = folder / "1"
    download(locked((REPOSITORY / "requirements.lock").read_text(), python), python, first / "wheels")
    if predicted:
        rows = [row for file in predicted for row in json.loads(file.read_text())]
        (first / "predicted.json").write_text(json.dumps(rows))
    free = limit - _MARGIN - _tree() - _mebibytes(first)
    cut = carry_data.cut("cifar10", folder / "cut", free)
    for number, piece in enumerate(cut, 1):
        (folder / f"{number}" / "pieces").mkdir(parents=True)
        piece.rename(folder / f"{number}" / "pieces" / piece.name)
    (folder / "cut").rmdir()
    facts = {"commit": git_commit(), "python": python, "pieces": len(cut)}
    (first / "pack.json").write_text(json.dumps(facts) + "\n")
    return [folder / f"{number}" for number in range(1, len(cut) + 1)]


def _tree() -> float:
    """MiB of the files that git tracks: what travels with each call by itself."""
    names = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, check=True)
    return sum((REPOSITORY / name).stat().st_size for name in names.stdout.split("\0") if name) / 2**20


def _mebibytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
