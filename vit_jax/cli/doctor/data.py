"""The cache of decoded data sets and compiled steps, and where CIFAR-10 and CIFAR-100 are."""

import os
import platform
import re
import shlex
import shutil
import stat
import time
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path

from vit_jax.cli.doctor.finding import Finding, size
from vit_jax.cli.doctor.machine import LEAST_DISK
from vit_jax.cli.doctor.versions import setup_with_tensorflow
from vit_jax.data import cache
from vit_jax.data.sources import tfds
from vit_jax.system.disk import expanded

_ELSEWHERE = "name another folder with VIT_JAX_CACHE or --config.data.cache_dir"
_STALE = 3600  # seconds after which an unfinished folder was left by a program that was killed


def data_cache(root: Path) -> list[Finding]:
    """Whether decoded data sets can be kept in the cache's folder, and which are."""
    parent = next(path for path in (root, *root.parents) if path.exists())
    if not parent.is_dir():
        return [Finding("problem", "data cache", f"{root} can't be made: {parent} is no folder", _ELSEWHERE)]
    sets = [path.parent for path in sorted(root.glob("*-*/index.json")) if "-damaged-" not in path.parent.name]
    names = Counter(path.name.rpartition("-")[0] for path in sets)
    held = ", ".join(name if n == 1 else f"{name} ({n} times)" for name, n in names.items())
    held = f"{held}; {size(sum(map(_bytes, sets)))}" if sets else "no data set yet"
    if not os.access(parent, os.W_OK | os.X_OK):
        status = "warning" if sets else "problem"
        findings = [Finding(status, "data cache", f"{root} can't be written, and has {held}", _ELSEWHERE)]
    elif root.exists():
        findings = [Finding("ok", "data cache", f"{root} has {held}")]
    else:
        findings = [Finding("ok", "data cache", f"{root}, which the first run makes")]
    free = shutil.disk_usage(parent).free
    if free < LEAST_DISK:
        found = f"{size(free)} free on its disk; CIFAR-10 takes 180 MiB, and its download as much again"
        findings.append(Finding("warning", "data cache", found, f"make room, or {_ELSEWHERE}"))
    if useless := _leftovers(root):
        found = f"{size(sum(map(_bytes, useless)))} of damaged and unfinished data sets, which nothing reads"
        findings.append(Finding("warning", "data cache", found, shlex.join(["rm", "-r", *map(str, useless)])))
    return findings


def _leftovers(root: Path) -> list[Path]:
    """What the cache set aside or never ended, by the names that it gives alone: the folder may hold other things."""
    names = {path: path.name for path in (root.iterdir() if root.is_dir() else ())}
    damaged = [path for path, name in names.items() if re.fullmatch(r"\w+-[0-9a-f]{16}-damaged-\d+", name)]
    begun = [path for path, name in names.items() if re.fullmatch(r"\.\w+-[0-9a-f]{16}\.[0-9a-f]{32}", name)]
    return sorted((*damaged, *(path for path in begun if time.time() - path.stat().st_mtime > _STALE)))


def compiled(root: Path, env: Mapping[str, str]) -> list[Finding]:
    """What the compilation cache holds, and whether others could change it."""
    given = env.get("JAX_COMPILATION_CACHE_DIR", "")
    folder = expanded(given) if given else root / "compiled"
    if "://" in given:
        return [Finding("ok", "compiled steps", f"in {given}")]
    if not folder.is_dir():
        return [Finding("ok", "compiled steps", "none yet: the first start of each config compiles")]
    if given and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):  # the cache's own folder is closed by each run
        found = f"others may write into {folder}, and what is loaded from it runs"
        return [Finding("warning", "compiled steps", found, shlex.join(["chmod", "go-w", str(folder)]))]
    return [Finding("ok", "compiled steps", f"{size(_bytes(folder))} in {folder}, which may be deleted at any time")]


def tfds_places(places: list[Path]) -> list[Finding]:
    """A warning for each place of TensorFlow Datasets that was named and isn't there."""
    return [
        Finding("warning", "TFDS_DATA_DIR", f"{place} does not exist", "mend it, or unset it")
        for place in places[:-1]  # the last is TFDS's default, which needn't
        if not place.exists()
    ]


def cifar(name: str, root: Path, places: list[Path], installed: Container[str]) -> list[Finding]:
    """Where cifar10 or cifar100 is: decoded in the cache at `root`, or prepared by TFDS in one of the places.

    That it isn't here is a warning for CIFAR-10 alone, on which most of the configs train.
    """
    title = tfds.TITLES[name]
    missing = [] if "tensorflow" in installed or "tensorflow-cpu" in installed else ["TensorFlow"]
    missing += [] if "tensorflow-datasets" in installed else ["TensorFlow Datasets"]
    if decoded := cache.newest(root, name):
        return [Finding("ok", title, f"decoded in {decoded}")]
    folder = tfds.prepared(name, places)
    if folder and not missing:
        return [Finding("ok", title, f"prepared in {folder}; the first run decodes it")]
    status = "warning" if folder or name == "cifar10" else "ok"
    nowhere = f"not in {', '.join(map(str, places))}, nor in the cache"
    found = f"prepared in {folder}, not decoded" if folder else nowhere
    if missing:
        found += f", and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        install = setup_with_tensorflow(platform.python_version())
        return [Finding(status, title, found, f"{install}; or {tfds.ways_around(name, tfds=False)}")]
    remedy = f"the first run that uses it downloads it, some 160 MiB; without a network, {tfds.ways_around(name)}"
    return [Finding(status, title, found, remedy)]


def _bytes(path: Path) -> int:
    """Without what lies in folders that are closed to this user: unlike disk.size_of, it raises for none."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
