"""The CPU at hand: its name, what it computes with, and how much of it this process gets. Imports nothing large."""

import os
import platform
import re
from pathlib import Path

# By the kernel's flag, the strongest first.
_SETS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bfloat16", "avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}


def cores(system: Path = Path("/")) -> int:
    """The cores that this process may keep busy: those that it may run on, no more than its container has the time of.

    `system`: where /proc and /sys lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    time = quota(system)
    return allowed if time is None else max(min(allowed, int(time)), 1)


def quota(system: Path = Path("/")) -> float | None:
    """How many cores' time a container gets, by control groups of version 2 or 1; None: no limit.

    The group's own limit, or that of one around it.
    """
    groups = system / "sys/fs/cgroup"
    own = re.findall(r"^\d+:([^:]*):/(.*)$", content(system / "proc/self/cgroup"), re.MULTILINE)
    found = []
    for controllers, place in [*own, ("", ""), ("cpu", "")]:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / "cpu" if controllers else groups
        while (root / place).is_dir():
            found.append(_limit(root / place))
            if not place:
                break
            place = place.rpartition("/")[0]
    return min((limit for limit in found if limit is not None), default=None)


def _limit(group: Path) -> float | None:
    values = content(group / "cpu.max").split()
    values = values or [content(group / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if len(values) != 2 or not all(value.isdigit() and int(value) for value in values):  # "max", or -1
        return None
    return int(values[0]) / int(values[1])


def name(system: Path = Path("/")) -> str:
    """As the kernel names it, like "AMD EPYC 9654"."""
    match = re.search(r"^model name\s*: (.*)$", content(system / "proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def instruction_sets(system: Path = Path("/")) -> tuple[str, ...]:
    """Those that decide on a matmul's speed, the strongest first; () where the kernel doesn't say."""
    flags = _flags(system)
    return tuple(text for flag, text in _SETS.items() if flag in flags)


def multiplies_bfloat16(system: Path = Path("/")) -> bool:
    """Whether it has units for matrices of bfloat16 (AMX)."""
    return "amx_bf16" in _flags(system)


def lacks_avx512(system: Path = Path("/")) -> bool:
    """Whether it is an x86 that computes with AVX2 at most."""
    flags = _flags(system)
    return "avx2" in flags and "avx512f" not in flags


def _flags(system: Path) -> list[str]:
    match = re.search(r"^(?:flags|Features)\s*: (.*)$", content(system / "proc/cpuinfo"), re.MULTILINE)
    return match[1].split() if match else []


def content(file: Path) -> str:
    """Of a file of the kernel's; "" where there is none, as on other systems."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
