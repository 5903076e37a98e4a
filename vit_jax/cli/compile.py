"""Compiles a config for accelerators that needn't be here, and says whether it fits and how fast it can be at most."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from vit_jax.aot.compiled import Figures, figures_of
from vit_jax.aot.forecast import Forecast, estimated_batch, forecast, largest_batch
from vit_jax.aot.machines import GIB, Machine, machine
from vit_jax.aot.programs import Run, run_on
from vit_jax.aot.topology import settle_environment
from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.system.progress import doing, percent, say, say_table

_HEADER = ("program", "GiB", "GB moved", "GFLOPs", "ms by FLOPs", "ms by bytes", "MFU <=", "images/s <=")


def machines_of(names: list[str]) -> list[Machine]:
    """The machines of --target, JAX being kept off the devices that are here. Raises UserError for what can't be."""
    if not names:
        raise UserError("--target is missing: what to compile for, like --target=h100 or --target=v5e-4")
    found = [machine(name) for name in dict.fromkeys(names)]
    settle_environment(found)
    return found


def compile_for(config: Config, name: str, machines: list[Machine], batch: str | None, to: str | None) -> None:
    """Says the figures of all programs of a config on each machine, and writes them `to` a JSON file.

    `batch` is a number in the place of the config's own, or "largest", which searches for the largest that fits.
    """
    rows = []
    for one in machines:
        at = partial(run_on, config, one)
        run = at(int(batch) if batch and batch != "largest" else None)
        if batch == "largest":
            size, found = largest_batch(at, run, _compile)
            if not found:
                raise UserError(f"not even {8 * one.devices} images fit on {one.name}")
            run = at(size)
        else:
            found = forecast(run, _compile)
        _say(run, found, batch == "largest")
        rows.append(_row(name, run, found))
        if to:
            Path(to).write_text(json.dumps(rows, indent=1) + "\n")


def _compile(program: Any, one: Machine) -> Figures:
    with doing(f"Compiling: {program.name}, {one.name}"):
        return figures_of(program, one)


def _say(run: Run, found: list[Forecast], searched: bool) -> None:
    one, batch = run.machine, run.config.train.batch_size
    model, devices = run.config.model, f"{one.devices} x " if one.devices > 1 else ""
    say(
        f"\n{one.name}: {devices}{one.device_kind}, {batch:,} images a step, {model.dtype}, attention {model.attention}"
    )
    say_table("Of one device", [_cells(each) for each in found], _HEADER)
    step = found[0]
    figures = step.figures
    if figures.missing:
        say(f"The step does not fit: the compiler found no way to make it {_gib(figures.missing)} smaller.")
    else:
        say(
            f"Memory of the step: state {_gib(run.state_bytes)}, images {_gib(run.data_bytes)}, temporaries "
            f"{_gib(figures.temporaries)}; of {_gib(one.memory)}, {_verdict(found)}."
        )
    if searched:
        say(f"The largest batch seen to fit: {batch:,} images.")
    elif not figures.missing:
        say(f"The largest batch is about {estimated_batch(run, found):,} images; --batch=largest looks for it.")
    parts = ", ".join(f"{name} {percent(size / figures.traffic)}" for name, size in list(figures.parts.items())[:6])
    if figures.traffic:
        say(f"The step's traffic: {parts}.")
    if figures.collectives:
        kinds = [(kind, n) for kind, n in figures.collectives.items() if not kind.endswith(" bytes")]
        told = ", ".join(f"{n} {kind} ({figures.collectives[f'{kind} bytes'] / 2**20:.1f} MiB)" for kind, n in kinds)
        say(f"Collectives of the step: {told}.")
    if figures.xla_flops and figures.xla_bytes:
        say(
            f"XLA's own counts of the step: {figures.xla_flops / 1e9:,.1f} GFLOPs; {figures.xla_bytes / 1e9:.2f} GB "
            "accessed, those in scratch memory included."
        )
    say(f"Compiled in {', '.join(f'{each.figures.seconds:.0f} s' for each in found)}.")
    if one.platform == "gpu":
        say("Of a GPU's memory, the three quarters that JAX takes are counted (XLA_PYTHON_CLIENT_MEM_FRACTION).")


def _verdict(found: list[Forecast]) -> str:
    most = max(found, key=lambda one: one.needed)
    if all(one.fits for one in found):
        return f"all programs fit, {_gib(most.capacity - most.needed)} are left"
    return f"{most.program} does not fit, by {_gib(most.needed - most.capacity)}"


def _cells(one: Forecast) -> tuple[str, ...]:
    return (
        one.program,
        _number(one.needed / GIB),
        _number(one.figures.traffic / 1e9),
        _number(one.flops / 1e9),
        _number(1e3 * one.seconds_by_flops) if one.seconds_by_flops else "-",
        _number(1e3 * one.seconds_by_bytes),
        percent(one.utilization) if one.utilization else "-",
        f"{one.images / one.seconds:,.0f}" if one.seconds else "-",
    )


def _number(value: float) -> str:
    """With three digits, about."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _row(config: str, run: Run, found: list[Forecast]) -> dict[str, Any]:
    """What --json has of one machine."""
    return {
        "config": config,
        "target": run.machine.name,
        "device_kind": run.machine.device_kind,
        "devices": run.machine.devices,
        "batch_size": run.config.train.batch_size,
        "dtype": run.config.model.dtype,
        "attention": run.config.model.attention,
        "state_bytes": run.state_bytes,
        "data_bytes": run.data_bytes,
        "largest_batch_estimate": estimated_batch(run, found) if not found[0].figures.missing else None,
        "programs": [
            {
                "program": one.program,
                "images": one.images,
                "fits": one.fits,
                "needed_bytes": one.needed,
                "capacity_bytes": one.capacity,
                "flops": one.flops,
                "seconds_by_flops": one.seconds_by_flops,
                "seconds_by_bytes": one.seconds_by_bytes,
                "utilization": one.utilization,
                **dataclasses.asdict(one.figures),
            }
            for one in found
        ],
    }
