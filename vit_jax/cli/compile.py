"""Compiles a config for accelerators that needn't be here, and says whether it fits and how fast it can be."""

import dataclasses
import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from vit_jax.aot.compiled import Figures, figures_of
from vit_jax.aot.forecast import Forecast, estimated_batch, forecast, largest_batch, largest_step, unit_of
from vit_jax.aot.machines import GIB, Machine, machine
from vit_jax.aot.programs import Run, run_on
from vit_jax.aot.topology import settle_environment
from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.pretrained.start import with_model
from vit_jax.steps import durations
from vit_jax.system.compilation import use_deterministic_ops
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import doing, percent, say, say_table

_HEADER = ("program", "images", "GiB", "GB moved", "GFLOPs", "ms by FLOPs", "ms by bytes", "MFU", "images/s")


def machines_of(names: list[str]) -> list[Machine]:
    """The machines of --target, JAX being kept off the devices that are here. Raises UserError for what can't be."""
    if not names:
        raise UserError("--target is missing: what to compile for, like --target=h100 or --target=v5e-4")
    found = [machine(name) for name in dict.fromkeys(names)]
    settle_environment(found)
    return found


def compile_for(
    config: Config, typed: tuple[str, ...], given: Collection[str], targets: list[str], batch: str | None,
    to: str | None,
) -> None:  # fmt: skip
    """Says the figures of all programs of a config on each target, and writes them `to` a JSON file.

    `typed` are --config and its keys as they were typed, `given` the keys of config.model among them. `batch` is a
    number in the place of the config's own, or "largest", which searches for the largest that fits.
    """
    if to and Path(to).is_dir():
        raise UserError(f"--json={to}: that is a folder; name a file in it")
    machines = machines_of(targets)
    config = with_model(config, None, given)
    if config.train.deterministic:
        use_deterministic_ops()
    rows, number = [], int(batch) if batch and batch != "largest" else None
    # What can't be on one of them is told before anything is compiled.
    for run in [run_on(config, one, number) for one in machines]:
        if batch == "largest":
            run, found = _search(config, run.machine)
        else:
            found = forecast(run, _compile)
        _say(run, found, batch == "largest")
        rows.append(_row(typed, run, found))
        if to:
            Path(to).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(to), json.dumps(rows, indent=1) + "\n")


def _search(config: Config, one: Machine) -> tuple[Run, list[Forecast]]:
    """The run with the largest batch that fits. How long it trains doesn't matter, and mustn't limit the batch."""
    if durations.seconds_of(config.train.length, "config.train.length") is None:
        config = dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, length="1 epoch"),
            optim=dataclasses.replace(config.optim, warmup="0 steps"),
        )
    at = partial(run_on, config, one)
    run = at(None)
    size, found = largest_batch(at, run, _compile)
    if not found:
        raise UserError(f"{one.name}: none of the batches that were tried fits; without --batch, it says by how much")
    return at(size), found


def _compile(program: Any, one: Machine) -> Figures:
    with doing(f"Compiling: {program.name}, {one.name}"):
        return figures_of(program, one)


def _say(run: Run, found: list[Forecast], searched: bool) -> None:
    one, batch = run.machine, run.config.train.batch_size
    model, devices = run.config.model, f"{one.devices} x " if one.devices > 1 else ""
    say(
        f"\n{one.name}: {devices}{one.device_kind}, {batch:,} images a step, {model.dtype}, attention {model.attention}"
    )
    say_table("Of one device, by the roofline; images/s of all", [_cells(each) for each in found], _HEADER)
    step = largest_step(found)
    figures = step.figures
    if figures.missing:
        say(f"The {step.program} does not fit: the compiler found no way to make it {_gib(figures.missing)} smaller.")
    else:
        say(
            f"Memory of the {step.program}: state {_gib(run.state_bytes)}, images {_gib(run.data_bytes)}, temporaries "
            f"{_gib(figures.temporaries)}; of {_gib(one.memory)}, {_verdict(found)}."
        )
    _say_batch(run, found, searched)
    if figures.traffic:
        parts = [f"{name} {percent(size / figures.traffic)}" for name, size in list(figures.parts.items())[:6]]
        say(f"What moves most in the {step.program}: {', '.join(parts)}.")
    if figures.collectives:
        kinds = [(kind, n) for kind, n in figures.collectives.items() if " " not in kind]
        told = ", ".join(f"{n} {kind} ({figures.collectives[f'{kind} bytes'] / 2**20:,.1f} MiB)" for kind, n in kinds)
        say(f"Collectives of the {step.program}: {told}.")
    if figures.xla_flops and figures.xla_bytes:
        say(
            f"XLA's own counts of the {step.program}: {_number(figures.xla_flops / 1e9)} GFLOPs; "
            f"{_number(figures.xla_bytes / 1e9)} GB accessed, scratch memory included."
        )
    times = [f"{each.figures.seconds:.0f} s{' (cached)' if each.figures.remembered else ''}" for each in found]
    say(f"Compiled in {', '.join(times)}.")
    if one.platform == "gpu":
        say(
            "Of a GPU's memory, the three quarters that JAX takes are counted (XLA_PYTHON_CLIENT_MEM_FRACTION); of what"
        )
        say("moves, what its caches hold, too. Not to be compared with a TPU.")
    else:
        say("What stays in a TPU's scratch memory doesn't count as moved. Not to be compared with a GPU.")


def _say_batch(run: Run, found: list[Forecast], searched: bool) -> None:
    batch, whole = run.config.train.batch_size, run.num_train // unit_of(run) * unit_of(run)
    if searched:
        limit = f"the {run.num_train:,} train images are the limit" if batch == whole else "the largest seen to fit"
        say(f"The largest batch: {batch:,} images, {limit}.")
    elif largest_step(found).figures.missing:
        return
    elif run.state_bytes + run.data_bytes >= run.machine.memory:
        say("The state and the train images alone do not fit; no batch does.")
    elif (about := estimated_batch(run, found)) == whole:
        say(f"All {run.num_train:,} train images would fit in one batch.")
    else:
        say(f"The largest batch is about {about:,} images; --batch=largest looks for it.")


def _verdict(found: list[Forecast]) -> str:
    most = max(found, key=lambda one: one.needed)
    if all(one.fits for one in found):
        return f"all programs fit, {_gib(most.capacity - most.needed)} are left"
    return f"{most.program} does not fit, by {_gib(most.needed - most.capacity)}"


def _cells(one: Forecast) -> tuple[str, ...]:
    return (
        one.program,
        f"{one.images:,}",
        _number(one.needed / GIB),
        "-" if one.figures.missing else _number(one.figures.traffic / 1e9),
        _number(one.flops / 1e9),
        _number(1e3 * one.seconds_by_flops) if one.seconds_by_flops else "-",
        _number(1e3 * one.seconds_by_bytes) if one.seconds_by_bytes is not None else "-",
        percent(one.utilization) if one.utilization else "-",
        f"{one.images / one.seconds:,.0f}" if one.seconds and one.seconds_by_flops else "-",
    )


def _number(value: float) -> str:
    """With three digits, about."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"


def _row(typed: tuple[str, ...], run: Run, found: list[Forecast]) -> dict[str, Any]:
    """What --json has of one machine."""
    names = [text.partition("=")[2] for text in typed if text.startswith("--config=")]
    return {
        "config": names[-1],
        "changed": [text for text in typed if not text.startswith("--config=")],
        "target": run.machine.name,
        "device_kind": run.machine.device_kind,
        "devices": run.machine.devices,
        "batch_size": run.config.train.batch_size,
        "dtype": run.config.model.dtype,
        "attention": run.config.model.attention,
        "state_bytes": run.state_bytes,
        "data_bytes": run.data_bytes,
        "largest_batch_estimate": None if largest_step(found).figures.missing else estimated_batch(run, found),
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
                "compile_seconds": one.figures.seconds,
                "traffic_bytes": one.figures.traffic,
                **{k: v for k, v in dataclasses.asdict(one.figures).items() if k not in ("seconds", "traffic")},
            }
            for one in found
        ],
    }
