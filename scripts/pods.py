"""Pods on paper: what ViTs for 224 pixels need on accelerators that aren't here, by their compiled training steps.

python scripts/pods.py --json=runs/pods.json --chart=docs/pods.png
python scripts/pods.py --models=B/16 --targets=v5e-16

Each model on each target with its state whole on every device and with it shared by all (config.train.mesh), blocks in
a loop (config.model.scan), bfloat16, so many images a device. Nothing is run: times are the roofline's, without what
devices send each other. It needs what `vit-jax compile` needs (docs/compile.md).
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vit_jax.aot.compiled import figures_of  # noqa: E402 - after the path
from vit_jax.aot.forecast import forecast, largest_step  # noqa: E402
from vit_jax.aot.machines import GIB, Machine, machine  # noqa: E402
from vit_jax.aot.programs import run_on  # noqa: E402
from vit_jax.aot.topology import settle_environment  # noqa: E402
from vit_jax.config import Config, base_config, from_config_dict  # noqa: E402

MODELS = ("B/16", "L/16", "g/14")
TARGETS = ("v5e-16", "v5e-256", "h100x8", "h100x64")


def config_of(model: str, batch_size: int, mesh: str | None) -> Config:
    """A run of 224 pixels, AdamW, recomputed blocks; of CIFAR-10, of which the shapes alone count."""
    config = base_config()
    config.model.variant, config.model.image_size = model, 224
    config.model.scan = config.model.remat = True
    config.train.batch_size, config.train.mesh, config.train.length = batch_size, mesh, "100 steps"
    config.eval.batch_size = batch_size
    return from_config_dict(config)


def row_of(model: str, one: Machine, shared: bool, images: int) -> dict[str, Any]:
    """What the step of a model needs on a machine, its state whole or shared by all devices."""
    batch_size = images * one.devices
    run = run_on(config_of(model, batch_size, f"fsdp={one.devices}" if shared else None), one)
    run = dataclasses.replace(run, programs=tuple(program for program in run.programs if program.steps))
    print(f"{model} on {one.name}, {'shared' if shared else 'whole'} ...", file=sys.stderr, flush=True)
    step = largest_step(forecast(run, figures_of))
    figures = step.figures
    sent = {kind: size for kind, size in figures.collectives.items() if kind.endswith(" bytes")}
    return {
        "model": model,
        "target": one.name,
        "devices": one.devices,
        "state": "shared" if shared else "whole",
        "batch_size": batch_size,
        "compile_seconds": figures.seconds,
        "state_gib": run.state_bytes / GIB,
        "needed_gib": step.needed / GIB,
        "capacity_gib": step.capacity / GIB,
        "fits": step.fits,
        "ms": None if step.seconds is None else 1e3 * step.seconds,
        "mfu": step.utilization,
        "sent_gib": {kind.removesuffix(" bytes"): size / GIB for kind, size in sent.items()},
        "gflops": step.flops / 1e9,
    }


def exponent(rows: list[dict[str, Any]], along: str, of: str) -> float | None:
    """k of `of` ~ `along`**k, by least squares in logarithms; None of fewer than two points."""
    points = np.log([(row[along], row[of]) for row in rows if row[of]]).reshape(-1, 2)  # (N, 2)
    return float(np.polyfit(*points.T, 1)[0]) if len(set(points[:, 0])) > 1 else None


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| model | on | state | images a step | state, GiB | needs, of GiB | ms | MFU | sent by a device, GiB |"]
    lines.append("|" + "---|" * 9)
    for row in rows:
        sent = ", ".join(f"{size:.2f} {kind}" for kind, size in row["sent_gib"].items() if size >= 0.005)
        time = "-" if row["ms"] is None else f"{row['ms']:.0f}"
        mfu = "-" if row["mfu"] is None else f"{100 * row['mfu']:.0f} %"
        needs = f"{row['needed_gib']:.1f} of {row['capacity_gib']:.1f}{'' if row['fits'] else ': does not fit'}"
        lines.append(
            f"| {row['model']} | {row['target']} | {row['state']} | {row['batch_size']:,} | {row['state_gib']:.2f} | "
            f"{needs} | {time} | {mfu} | {sent} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Memory that a device needs by the number of devices, for each model, whole and shared."""
    from matplotlib.figure import Figure

    kinds = {"TPU v5e": "v5e", "H100": "h100"}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True)
    for axis, (title, start) in zip(axes, kinds.items(), strict=True):
        own = [row for row in rows if row["target"].startswith(start)]
        for i, model in enumerate(dict.fromkeys(row["model"] for row in own)):
            for state, style in (("whole", "--"), ("shared", "-")):
                line = [r for r in own if (r["model"], r["state"]) == (model, state)]
                counts, needed = [r["devices"] for r in line], [r["needed_gib"] for r in line]
                axis.plot(counts, needed, style, color=f"C{i}", marker="o", label=f"{model}, {state}")
        if own:
            axis.axhline(own[0]["capacity_gib"], color="grey", linewidth=0.8)
        axis.set(title=f"{title}, computed", xlabel="devices", xscale="log", yscale="log")
        axis.set_xticks(sorted({r["devices"] for r in own}), [str(n) for n in sorted({r["devices"] for r in own})])
    axes[0].set_ylabel("GiB that a step needs on each")
    axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="variants, separated by commas")
    parser.add_argument("--targets", default=",".join(TARGETS), help="machines, as vit-jax compile takes them")
    parser.add_argument("--images", type=int, default=32, help="images of a step on each device")
    parser.add_argument("--json", help="also write the rows there")
    parser.add_argument("--chart", help="also draw the memory there")
    args = parser.parse_args()
    machines = [machine(name) for name in args.targets.split(",")]
    settle_environment(machines)
    rows = [
        row_of(model, one, shared, args.images)
        for model in args.models.split(",")
        for one in machines
        for shared in (False, True)
    ]
    print(table(rows))
    for state in ("whole", "shared"):
        for generation in ("v5e", "h100"):
            own = [row for row in rows if row["state"] == state and row["target"].startswith(generation)]
            for of in ("state_gib", "needed_gib"):
                by = {m: exponent([r for r in own if r["model"] == m], "devices", of) for m in args.models.split(",")}
                told = ", ".join(f"{model} {k:.2f}" for model, k in by.items() if k is not None)
                if told:
                    print(f"{of} ~ devices**k, {generation}, {state}: {told}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    if args.chart:
        draw(rows, Path(args.chart))
    return 0


if __name__ == "__main__":
    sys.exit(main())
