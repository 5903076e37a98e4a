"""Cores, memory and disk, also where a container is given less of them than the machine has."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from vit_jax.cli.doctor.finding import Finding, number, size
from vit_jax.cli.doctor.versions import numbers
from vit_jax.system.processor import content, instruction_sets, quota

LEAST_DISK = 2**30  # bytes; ViT-S/4 with AdamW writes 250 MiB for each of up to four checkpoints

_LEAST_MEMORY = 2 * 2**30  # bytes; CIFAR-10 on a CPU takes about so many, the quickstart half
_HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"
_LOSS = "up to a tenth fewer images/s on a CPU"


def processors_and_memory(system: Path, cores: int) -> list[Finding]:
    """What there is of both, and how much of it others use. `system`: where /proc and /sys lie."""
    groups = system / "sys/fs/cgroup"
    return [_processors(system, cores), *_memory(system, groups)]


def _processors(system: Path, cores: int) -> Finding:
    load = float((content(system / "proc/loadavg") or "0").split()[0])
    if load > 0.75 * cores:
        found = f"{cores}, and in the last minute {load:.1f} programs computed at a time: a run would be slower"
        return Finding("warning", "cores", found, "top names them")
    time, sets = quota(system), instruction_sets(system)
    found = f"{cores}" + (f" ({', '.join(sets)})" if sets else "")
    return Finding("ok", "cores", found if time is None else f"{found}: this container gets the time of {time:g}")


def _memory(system: Path, groups: Path) -> list[Finding]:
    free = _free_memory(system, groups)
    if free is None:
        return []
    if free < _LEAST_MEMORY:
        found = f"{size(free)} available; CIFAR-10 on a CPU takes about {size(_LEAST_MEMORY)}"
        return [Finding("warning", "memory", found, "stop other programs, or train with a smaller batch")]
    return [Finding("ok", "memory", f"{size(free)} available")]


def _free_memory(system: Path, groups: Path) -> int | None:
    """Bytes that are available, also within a container's limit; None where there is no telling."""
    match = re.search(r"^MemAvailable: +(\d+) kB", content(system / "proc/meminfo"), re.MULTILINE)
    free = [1024 * int(match[1])] if match else []
    for names in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        limit, used = (number(content(groups / name)) for name in names)
        free += [max(limit - used, 0)] if limit is not None and used is not None else []
    return min(free, default=None)


def huge_pages(platform: str, env: Mapping[str, str], system: Path, libc: tuple[str, str]) -> list[Finding]:
    """On a Linux CPU: whether large arrays lie in huge pages. `libc`: name and version of the C library."""
    modes, tunables = content(system / _HUGE_PAGES), env.get("GLIBC_TUNABLES", "")
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
