"""Python and the libraries: what is missing, too old or too new, and pairs that are known not to work."""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path

from vit_jax.cli.doctor.finding import Finding

SETUP = "run ./scripts/setup.sh, which installs the locked versions into .venv"
CUDA_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")

_TRIED = ("3.11", "3.12", "3.13", "3.14")

_NEEDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "absl-py", "rich")
_WITHOUT = {
    "tensorflow": "what isn't in the cache yet can't be read from TensorFlow Datasets, and images can't be streamed",
    "tensorflow-datasets": "CIFAR that isn't in the cache yet can't be read from TensorFlow Datasets",
    "importlib-resources": "CIFAR that isn't in the cache yet can't be read from TensorFlow Datasets",
    "pyarrow": "parquet files can't be read",
    "clu": "no events for TensorBoard; metrics.jsonl has the same figures",
    "tensorboard": "no events for TensorBoard; metrics.jsonl has the same figures",
    "matplotlib": "no pictures",
    "pillow": "folders of images and the embedded digits can't be read",
    "scikit-learn": "the embedded digits, which the quickstart trains on, can't be read",
}
# What setup.cfg leaves out where TensorFlow has no wheel.
_WITH_TENSORFLOW = ("tensorflow", "tensorflow-datasets", "importlib-resources", "pyarrow", "clu", "tensorboard")
_OTHER_PYTHON = "VIT_JAX_PYTHON=/path/to/python3.13 ./scripts/setup.sh"

Needs = Mapping[str, list[tuple[str, str]]]


def bytecode(package: ModuleSpec | None, never_written: bool) -> list[Finding]:
    """A warning where each start compiles the sources of all libraries, if it does so for this one.

    pip keeps what it compiles, uv only if it is asked to; then Python does at the first import, unless it may not
    (PYTHONDONTWRITEBYTECODE, which many containers set, or a folder that others own).
    """
    if package is None or package.origin is None or Path(cache_from_source(package.origin)).exists():
        return []
    site = Path(package.origin).parents[1]
    if not never_written and os.access(site, os.W_OK):
        return []
    found = "each start compiles the sources of all libraries, which takes seconds"
    remedy = shlex.join([sys.executable, "-m", "compileall", "-q", str(site)])
    if os.access(site, os.W_OK):
        return [Finding("warning", "bytecode", f"{found}: PYTHONDONTWRITEBYTECODE is set", remedy)]
    return [Finding("warning", "bytecode", f"{found}: {site} can't be written", f"as its owner: {remedy}")]


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that are installed here, by name, without importing them."""
    found = {}
    names = {*_NEEDED, *_WITHOUT, "tensorflow-cpu", *CUDA_PLUGINS, "libtpu", "vit-jax"}
    with contextlib.suppress(metadata.PackageNotFoundError):
        names |= {_name(text) for text in metadata.requires("vit-jax") or ()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name) or "broken"  # an installation that was broken off
    return found


def needs(installed: Mapping[str, str]) -> Needs:
    """For each library: which of those installed needs which versions of it: {"jaxlib": [("jax", "<=0.10.2")]}.

    Empty where `packaging`, which understands such texts, isn't installed.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for who in installed:
        for text in metadata.requires(who) or ():
            requirement = Requirement(text)
            extra = "tpu" if _name(text) == "libtpu" else ""  # which version of it fits, only that extra says
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                found.setdefault(_name(text), []).append((who, str(requirement.specifier)))
    return found


def libraries(installed: Mapping[str, str], needs: Needs, python: str) -> list[Finding]:
    """A finding for Python and each library, then those for pairs that don't work."""
    own = [name for name, by in needs.items() if any(who == "vit-jax" for who, _ in by)]
    names = dict.fromkeys((*_NEEDED, *_WITHOUT, *(name for name in own if name != "tensorflow-cpu")))
    names |= dict.fromkeys(name for name in (*CUDA_PLUGINS, "libtpu") if name in installed)
    findings = [_python(python)]
    if numbers(python) >= (3, 14) and not {"tensorflow", "tensorflow-cpu"} & installed.keys():
        names = dict.fromkeys(name for name in names if name not in _WITH_TENSORFLOW or name in installed)
        found = f"no wheel for Python {python}; {_WITHOUT['tensorflow']}; {_WITHOUT['tensorboard']}"
        findings.append(Finding("warning", "tensorflow", found, _OTHER_PYTHON))
    findings += [_library(name, installed, needs) for name in names]
    if not own:
        found = "which versions it needs isn't known: it is not installed, or packaging isn't"
        findings.append(Finding("warning", "vit-jax", found, SETUP))
    return [*findings, *_bad_pairs(installed, python)]


def _python(version: str) -> Finding:
    minor = ".".join(version.split(".")[:2])
    if numbers(version) < (3, 11):
        found = f"{version}; {', '.join(_TRIED[:-1])} or {_TRIED[-1]} is needed"
        return Finding("problem", "Python", found, _OTHER_PYTHON)
    if minor not in _TRIED:
        found = f"{version}; {', '.join(_TRIED[:-1])} and {_TRIED[-1]} have been tried"
        return Finding("warning", "Python", found, _OTHER_PYTHON)
    return Finding("ok", "Python", f"{version}, {sys.executable}")


def _library(name: str, installed: Mapping[str, str], needs: Needs) -> Finding:
    names = (name, "tensorflow-cpu") if name == "tensorflow" else (name,)
    name = next((name for name in names if name in installed), name)
    if name not in installed:
        if name in _WITHOUT:
            return Finding("warning", name, f"not installed: {_WITHOUT[name]}", SETUP)
        return Finding("problem", name, "not installed", SETUP)
    unmet = [f"{who} needs {name}{spec}" for who, spec in needs.get(name, ()) if not _within(installed[name], spec)]
    if unmet:
        # This one surely doesn't import with another jax; others may well work.
        status = "problem" if name == "jaxlib" else "warning"
        remedy = setup_for("tpu") if name == "libtpu" else SETUP
        return Finding(status, name, f"{installed[name]}, but {'; '.join(unmet)}", remedy)
    return Finding("ok", name, installed[name])


def _bad_pairs(installed: Mapping[str, str], python: str) -> list[Finding]:
    at = {name: numbers(version) for name, version in installed.items()}
    findings = []
    if at.get("jax", ()) >= (0, 11):
        if numbers(python) < (3, 12):
            found = f"JAX {installed['jax']} needs Python 3.12 or newer; this is {python}"
            findings.append(Finding("problem", "jax and Python", found, SETUP))
        if "flax" in at and at["flax"] < (0, 12, 12):
            found = f"Flax {installed['flax']} doesn't import with JAX {installed['jax']}; from 0.12.12 on it does"
            findings.append(Finding("problem", "jax and flax", found, SETUP))
    if {"tensorflow", "tensorflow-cpu"} <= at.keys():
        remedy = "uninstall both, then install tensorflow-cpu again"
        found = "tensorflow and tensorflow-cpu are both installed, and overwrite each other's files"
        findings.append(Finding("warning", "tensorflow", found, remedy))
    plugins = [name for name in CUDA_PLUGINS if name in at]
    if len(plugins) > 1:
        found = f"{' and '.join(plugins)} are both installed; JAX takes one of them"
        findings.append(Finding("warning", "CUDA", found, "uninstall one of them"))
    for name in plugins:
        if "jaxlib" in at and at[name] != at["jaxlib"]:
            found = f"{name} {installed[name]} doesn't fit jaxlib {installed['jaxlib']}: JAX won't use it"
            findings.append(Finding("problem", "CUDA", found, setup_for(name.split("-")[1])))
    return findings


def setup_with_tensorflow(python: str) -> str:
    """What installs TensorFlow, too: for Python 3.14 it has no wheel."""
    return _OTHER_PYTHON if numbers(python) >= (3, 14) else SETUP


def setup_for(accelerator: str) -> str:
    """The command that installs JAX for cpu, cuda12, cuda13 or tpu into .venv."""
    return f"VIT_JAX_ACCELERATOR={accelerator} ./scripts/setup.sh"


def _name(requirement: str) -> str:
    """ "ml_collections>=1.1" -> "ml-collections" """
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def numbers(version: str) -> tuple[int, ...]:
    """ "0.12.0rc1" -> (0, 12, 0)"""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _within(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
