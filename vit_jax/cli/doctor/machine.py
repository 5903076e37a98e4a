"""Cores, memory and disk, also where a container is given less of them than the machine has."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from vit_jax.cli.doctor.finding import Finding, number, size
from vit_jax.cli.doctor.versions import numbers

LEAST_DISK = 2**30  # bytes; ViT-S/4 with AdamW writes 250 MiB for each of up to four checkpoints

_LEAST_MEMORY = 2 * 2**30  # bytes; CIFAR-10 on a CPU takes about so many, the quickstart half
_HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"
_LOSS = "about a quarter fewer images/s on a CPU"


def cores() -> int:
    """The cores that this process may run on (vit_jax/steps/cpu.py knows, too, but needs JAX)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processors_and_memory(system: Path, cores: int) -> list[Finding]:
    """What there is of both, and how much of it others use. `system`: where /proc and /sys lie."""
    groups = system / "sys/fs/cgroup"
    return [_processors(system, groups, cores), *_memory(system, groups)]


def _processors(system: Path, groups: Path, cores: int) -> Finding:
    quota, load = _quota(groups), float((_content(system / "proc/loadavg") or "0").split()[0])
    if quota is not None and quota < cores:
        found = f"{cores}, but this container gets the time of {quota:g}: more threads than that slow a run down"
        return Finding("warning", "cores", found, f"start under: taskset -c 0-{max(round(quota), 1) - 1}")
    if load > 0.75 * cores:
        found = f"{cores}, and in the last minute {load:.1f} programs computed at a time: a run would be slower"
        return Finding("warning", "cores", found, "top names them")
    return Finding("ok", "cores", str(cores))


def _memory(system: Path, groups: Path) -> list[Finding]:
    free = _free_memory(system, groups)
    if free is None:
        return []
    if free < _LEAST_MEMORY:
        found = f"{size(free)} available; CIFAR-10 on a CPU takes about {size(_LEAST_MEMORY)}"
        return [Finding("warning", "memory", found, "stop other programs, or train with a smaller batch")]
    return [Finding("ok", "memory", f"{size(free)} available")]


def _quota(groups: Path) -> float | None:
    """How many cores' time a container gets, by control groups of version 2 or 1; None: no limit."""
    first = _content(groups / "cpu.max").split()
    second = [_content(groups / "cpu" / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    quota, period = map(number, first if len(first) == 2 else second)
    return quota / period if quota and period else None


def _free_memory(system: Path, groups: Path) -> int | None:
    """Bytes that are available, also within a container's limit; None where there is no telling."""
    match = re.search(r"^MemAvailable: +(\d+) kB", _content(system / "proc/meminfo"), re.MULTILINE)
    free = [1024 * int(match[1])] if match else []
    for names in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        limit, used = (number(_content(groups / name)) for name in names)
        free += [max(limit - used, 0)] if limit is not None and used is not None else []
    return min(free, default=None)


def _content(file: Path) -> str:
    """Of a file of the kernel's; "" where there is none, as on other systems."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def huge_pages(platform: str, env: Mapping[str, str], system: Path, libc: tuple[str, str]) -> list[Finding]:
    """On a Linux CPU: whether large arrays lie in huge pages. `libc`: name and version of the C library."""
    modes, tunables = _content(system / _HUGE_PAGES), env.get("GLIBC_TUNABLES", "")
    if platform != "cpu" or libc[0] != "glibc" or not modes:
        return []
    if "[never]" in modes:
        remedy = f"have an administrator write madvise into /{_HUGE_PAGES}"
        return [Finding("warning", "huge pages", f"the kernel has them off: {_LOSS}", remedy)]
    if "[always]" in modes:
        return [Finding("ok", "huge pages", "the kernel uses them wherever it can")]
    if numbers(libc[1]) < (2, 35):
        found = f"glibc {libc[1]} can't ask for them, 2.35 is the first that can: {_LOSS}"
        return [Finding("warning", "huge pages", found, "take a newer system")]
    if not re.search(r"glibc\.malloc\.hugetlb=[12]", tunables):
        remedy = f'export GLIBC_TUNABLES="{f"{tunables}:" if tunables else ""}glibc.malloc.hugetlb=1"'
        remedy += "" if tunables else ", or start with ./scripts/train.sh, which does so"
        return [Finding("warning", "huge pages", f"not asked for: {_LOSS}", remedy)]
    if "malloc" in env.get("LD_PRELOAD", ""):
        found = f"LD_PRELOAD={env['LD_PRELOAD']} allocates in place of glibc, of which GLIBC_TUNABLES asks for them"
        return [Finding("warning", "huge pages", found, "unset LD_PRELOAD, or have that library use them")]
    return [Finding("ok", "huge pages", f"GLIBC_TUNABLES={tunables}")]


def working_folder(folder: Path) -> list[Finding]:
    """Whether runs can be written into a folder. Raises OSError where it is gone."""
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return [Finding("warning", "disk", f"{folder} can't be written", "name a --workdir elsewhere")]
    if free < LEAST_DISK:
        status = "problem" if free < LEAST_DISK / 10 else "warning"
        return [Finding(status, "disk", f"{size(free)} free in {folder}", "make room, or name a --workdir elsewhere")]
    return [Finding("ok", "disk", f"{size(free)} free in {folder}")]
