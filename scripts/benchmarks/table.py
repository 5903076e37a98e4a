"""Rows of figures as text, and the machine that they were measured on."""

import argparse
import importlib.metadata
import os
import time
from typing import Any

import numpy as np

from vit_jax.system import processor
from vit_jax.system.environment import git_commit

_PACKAGES = ("jax", "flax", "tensorflow-cpu", "keras", "torch")


def machine() -> dict[str, Any]:
    """Processor, cores, versions and commit."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": processor.name(),
        "instruction_sets": processor.instruction_sets(),
        "cores": processor.cores(),
        "copied_gb_per_second": _copied(),
        "versions": versions,
        "git_commit": git_commit(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def _copied() -> float:
    """10^9 bytes that one core copies in a second between arrays that no cache holds: the memory's speed."""
    source, target, seconds = np.ones(2**25), np.ones(2**25), []
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - began)
    return source.nbytes / min(seconds) / 1e9


def heading(mode: str, args: argparse.Namespace, facts: dict[str, Any]) -> str:
    """What was measured, and on what `machine`."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"\n{mode} of {args.model}, {args.rounds} rounds; {facts['cores']} cores of {facts['cpu']} "
        f"({', '.join(facts['instruction_sets']) or 'instruction sets unknown'}), "
        f"copying {facts['copied_gb_per_second']:.1f} GB/s; "
        f"commit {facts['git_commit']}; {versions}; GLIBC_TUNABLES={facts['glibc_tunables'] or 'unset'}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Columns in the order in which the rows first name them; lists, which are the raw figures, are left out."""
    columns = []
    for row in rows:
        columns += [key for key, value in row.items() if key not in columns and not isinstance(value, list)]
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    lines = [columns, *cells]
    return "\n".join(
        "  ".join(f"{cell:>{w}}" if i else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
