"""What XLA makes of a program: memory, FLOPs, bytes, collectives. Figures are kept, as compiling takes minutes."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vit_jax.aot import hlo
from vit_jax.aot.machines import GIB, Machine
from vit_jax.aot.programs import Traced
from vit_jax.errors import RunError
from vit_jax.system.disk import cache_root, write_whole

_COMPILERS = ("libtpu", "jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13", "nvidia-cuda-nvcc")


@dataclass(frozen=True)
class Figures:
    """Of one compiled program, on each device; sizes in bytes."""

    seconds: float = 0.0  # that compiling took
    remembered: bool = False  # it was done before
    arguments: int = 0
    outputs: int = 0  # beside what takes the place of arguments
    temporaries: int = 0
    missing: int = 0  # where the compiler found no way to make it fit: so much
    traffic: float = 0.0  # read from and written to the memory, by hlo.py
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # of the traffic
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    xla_flops: float | None = None
    xla_bytes: float | None = None

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries


def figures_of(program: Traced, machine: Machine, cache_dir: str | None = None) -> Figures:
    """Compiles a program for a machine, or remembers the figures of the same program.

    The same is: the same text before XLA optimises it, the same machine, versions and flags of XLA. Raises RunError for
    one that can't be compiled, whatever its size.
    """
    try:
        lowered = program.trace().lower()
        kept = cache_root(cache_dir) / "aot" / f"{_key(lowered.as_text(), machine)}.json"
        found = _kept(kept) or _compile(lowered, machine.devices)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"{machine.name}: XLA can't compile the {program.name}: {said[:300]}") from error
    if not found.remembered:
        # Else it is compiled again the next time.
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(dataclasses.asdict(found)))
    return found


_VERSION = 4  # of what is counted


def _key(text: str, machine: Machine) -> str:
    """Of a program's figures: what they depend on."""
    variables = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    versions = []
    for name in ("jax", "jaxlib", *_COMPILERS):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return hashlib.sha256(f"{_VERSION} {machine} {variables} {versions}\n{text}".encode()).hexdigest()[:32]


def _kept(path: Path) -> Figures | None:
    try:
        return Figures(**json.loads(path.read_text()) | {"remembered": True})
    except (OSError, ValueError, TypeError):
        return None


def _compile(lowered: Any, devices: int) -> Figures:
    before = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        missing = missing_of(str(error))
        if missing is None:
            raise
        return Figures(time.monotonic() - before, missing=missing)
    seconds = time.monotonic() - before
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    program = hlo.parse(compiled.as_text())
    parts = hlo.by_part(program, part_of)
    return Figures(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0),
        temporaries=memory.temp_size_in_bytes,
        traffic=sum(parts.values()),
        parts=parts,
        collectives=dict(hlo.collectives(program, devices)),
        xla_flops=cost.get("flops"),
        xla_bytes=cost.get("bytes accessed"),
    )


def missing_of(text: str) -> int | None:
    """Bytes by which a program is too large, as a TPU's compiler tells in one of two ways; None of any other error."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
    if found := re.search(r"Exceeded hbm capacity by ([\d.]+)([KMGT]?)", text):
        return int(float(found[1]) * units[found[2]])
    if found := re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", text):
        return int(float(found[1]) * units[found[2]] - float(found[3]) * units[found[4]])
    return None


def part_of(one: hlo.Traffic) -> str:
    """The part of a training step that an operation belongs to: "augment", "stem", "attention backward", "update"."""
    names = re.split(r"[/()]+", one.scope)
    for part in ("fetch", "augment", "update"):
        if part in names:
            return part
    direction = " backward" if "transpose(" in one.scope else ""
    for part in ("stem", "attention", "mlp", "head"):
        if part in names:
            return part + direction
    if any(re.match(r"block_\d+|blocks|norm", name) for name in names):
        return f"norms and sums{direction}"
    return "rest"
