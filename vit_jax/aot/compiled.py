"""What XLA makes of a program: memory, FLOPs, bytes, collectives. Figures are kept, as compiling takes minutes."""

import dataclasses
import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jaxlib

from vit_jax.aot import hlo
from vit_jax.aot.machines import GIB, Machine
from vit_jax.aot.programs import Traced
from vit_jax.system.disk import cache_root


@dataclass(frozen=True)
class Figures:
    """Of one compiled program, on each device; sizes in bytes."""

    seconds: float = 0.0  # that compiling took, or that it took when it was done
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

    The same is: the same text before XLA optimises it, the same machine and the same versions.
    """
    lowered = program.trace().lower()
    versions = f"{jax.__version__} {jaxlib.__version__} {machine} {_VERSION}"
    key = hashlib.sha256(f"{versions}\n{lowered.as_text()}".encode()).hexdigest()[:32]
    kept = cache_root(cache_dir) / "aot" / f"{key}.json"
    try:
        return Figures(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        found = _compile(lowered, program.steps)
    _keep(found, kept)
    return found


_VERSION = 2  # of what is counted


def _keep(found: Figures, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(found)))
    except OSError:  # then it is compiled again
        return


def _compile(lowered: Any, steps: int) -> Figures:
    before = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return Figures(time.monotonic() - before, missing=_missing(str(error), error))
    seconds = time.monotonic() - before
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    program = hlo.parse(compiled.as_text())
    return Figures(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0),
        temporaries=memory.temp_size_in_bytes,
        traffic=sum(one.size for one in hlo.traffic(program)),
        parts=hlo.by_part(program, part_of),
        collectives=dict(hlo.collectives(program)),
        xla_flops=cost.get("flops"),
        xla_bytes=cost.get("bytes accessed"),
    )


def _missing(text: str, error: Exception) -> int:
    """Bytes by which a program is too large, as a TPU's compiler tells; any other error is raised again."""
    found = re.search(r"Exceeded hbm capacity by ([\d.]+)([KMG])", text)
    if not found:
        raise error
    return int(float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[found[2]])


def part_of(one: hlo.Traffic) -> str:
    """The part of a training step that an operation belongs to: "augment", "stem", "attention backward", "update"."""
    names = re.split(r"[/()]+", one.scope)
    for part in ("fetch", "augment", "update"):
        if part in names:
            return part
    direction = " backward" if "transpose" in names else ""
    for part in ("stem", "attention", "mlp", "head"):
        if part in names:
            return part + direction
    if any(re.match(r"block_\d+|norm", name) for name in names):
        return f"norms and sums{direction}"
    return "rest"
