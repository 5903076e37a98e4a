"""Pods on paper: what ViTs need on accelerators that aren't here, by their compiled training steps.

python scripts/pods.py --json=runs/pods.json --chart=docs/pods.png
python scripts/pods.py --models=B/16 --targets=v5e-16 --images=32

Each model on each target, its state whole on every device, shared by all, and by neighbours (config.train.mesh): the
GPUs of a machine, a side of a TPU slice's grid. Blocks are in a loop and recomputed (config.model.scan, remat),
bfloat16, AdamW, 224 pixels. Nothing is run. Of the first target of each generation also with other numbers of images a
device, and other image sizes. It needs what `vit-jax compile` needs (docs/compile.md); a second call compiles nothing.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vit_jax.aot.compiled import figures_of  # noqa: E402 - after the path
from vit_jax.aot.forecast import forecast, largest_step  # noqa: E402
from vit_jax.aot.machines import GIB, Machine, machine  # noqa: E402
from vit_jax.aot.programs import run_on  # noqa: E402
from vit_jax.aot.topology import settle_environment  # noqa: E402
from vit_jax.cli.listing import parameters  # noqa: E402
from vit_jax.config import Config, base_config, from_config_dict  # noqa: E402

MODELS = ("B/16", "L/16", "g/14")
TARGETS = ("v5e-16", "v5e-256", "h100x8", "h100x64")
SIZES = (112, 224, 448)  # pixels, of the first model
PIXELS = 224

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    model: str
    target: str
    state: str  # whole | by all | by neighbours
    images: int  # of a step on each device
    pixels: int = PIXELS


def cases_of(models: list[str], targets: list[str], images: int) -> list[Case]:
    """All models on all targets."""
    return [Case(model, target, state, images) for model in models for target in targets for state in states_of(target)]


def growth_cases(rows: list[Row], images: list[int], sizes: tuple[int, ...]) -> list[Case]:
    """Of the first target of each generation: with more images what fits with fewer, the first model in other sizes."""
    cases = [case_of(row) for row in rows if row["fits"]]
    first = {generation_of(case.target): case.target for case in reversed(cases)}.values()
    cases, model = [case for case in cases if case.target in first], rows[0]["model"]
    more = [dataclasses.replace(case, images=count) for case in cases for count in images]
    sized = [case for case in cases if case.model == model and case.state != "by neighbours"]
    return more + [dataclasses.replace(case, pixels=size) for case in sized for size in sizes if size != PIXELS]


def neighbours(one: Machine) -> int:
    """Devices between which sending is fastest: a machine's GPUs; along one side of a TPU slice's grid.

    Of a reduce-scatter over more of a slice, XLA makes an all-reduce.
    """
    return min(8, one.devices) if one.platform == "gpu" else int(one.description.split("x")[-1])


def states_of(target: str) -> list[str]:
    one = machine(target)
    return ["whole", "by all"] + ["by neighbours"] * (1 < neighbours(one) < one.devices)


def generation_of(target: str) -> str:
    """ "v5e-16" -> "v5e", "h100x8" -> "h100" """
    return target.split("-")[0].split("x")[0]


def config_of(case: Case, one: Machine) -> Config:
    """A run of CIFAR-10, of which the shapes alone count."""
    sharers = {"whole": 1, "by all": one.devices, "by neighbours": neighbours(one)}[case.state]
    config = base_config()
    config.model.variant, config.model.image_size = case.model, case.pixels
    config.model.scan = config.model.remat = True
    config.train.mesh = None if sharers == 1 else f"data={one.devices // sharers},fsdp={sharers}"
    config.train.batch_size = config.eval.batch_size = case.images * one.devices
    config.train.length = "100 steps"
    return from_config_dict(config)


def row_of(case: Case) -> Row:
    """What the step needs; sizes in GiB, of one device."""
    one = machine(case.target)
    run = run_on(config_of(case, one), one)
    run = dataclasses.replace(run, programs=tuple(program for program in run.programs if program.steps))
    print(f"{case} ...", file=sys.stderr, flush=True)
    step = largest_step(forecast(run, figures_of))
    received = {
        kind.removesuffix(" received"): size
        for kind, size in step.figures.collectives.items()
        if kind.endswith(" received")
    }
    rates = {kind: wires(kind, one, case.state) for kind in received}
    seconds = sum(size / (rates[kind] or 1.0) for kind, size in received.items())
    return {
        **dataclasses.asdict(case),
        "devices": one.devices,
        "parameters": parameters(run.config.model),
        "compile_seconds": step.figures.seconds,
        "state_gib": run.state_bytes / GIB,
        "needed_gib": step.needed / GIB,
        "capacity_gib": step.capacity / GIB,
        "fits": step.fits,
        "flops_ms": step.seconds_by_flops and 1e3 * step.seconds_by_flops,
        "memory_ms": step.seconds_by_bytes and 1e3 * step.seconds_by_bytes,
        "received_gib": {kind: size / GIB for kind, size in received.items()},
        "wires_ms": 1e3 * seconds if step.fits and None not in rates.values() else None,
    }


def wires(kind: str, one: Machine, state: str) -> float | None:
    """Bytes/s that a device receives at most in a collective, by the makers' data sheets; None where unknown here.

    A v5e chip's four links together have 1,600 Gbit/s, those along one side of the grid half of it. An H100's NVLink
    has 450 GB/s in each direction. Between machines of eight H100s there are eight links of 400 Gbit/s: what comes over
    them goes around inside, 400 GB/s for each GPU, but 50 GB/s where each has numbers of its own to sum.
    """
    generation, by_side = generation_of(one.name), state == "by neighbours"
    if generation == "v5e":
        return 1e11 if by_side else 2e11
    if generation == "h100":
        outside = 5e10 if by_side else 4e11
        return 4.5e11 if one.devices <= 8 or (by_side and kind != "all-reduce") else outside
    return None


def exponent(rows: list[Row], along: str, of: Callable[[Row], float | None]) -> float | None:
    """k of `of` ~ `along`**k, by least squares in logarithms; None of fewer than two points."""
    points = np.log([(row[along], of(row)) for row in rows if of(row)]).reshape(-1, 2)  # (N, 2)
    return float(np.polyfit(*points.T, 1)[0]) if len(set(points[:, 0])) > 1 else None


def largest_batches(rows: list[Row]) -> dict[Case, int]:
    """About how many images a device can take, in eights: memory grows with them as on its generation's first target.

    From the two numbers of images compiled there; that TPUs' compilers find more room where it is short isn't counted.
    """
    found, base, by = {}, rows[0]["images"], {case_of(row): row for row in rows}
    for case, row in by.items():
        if (case.images, case.pixels) != (base, PIXELS):
            continue
        for state in (case.state, "by all"):  # an image takes as much whoever shares the state
            alike = (case.model, state, generation_of(case.target))
            more = [
                one
                for one in by
                if one.images > base and (one.model, one.state, generation_of(one.target)) == alike and by[one]["fits"]
            ]
            if more:
                most = max(more, key=lambda one: one.images)
                less = by[dataclasses.replace(most, images=base)]
                slope = (by[most]["needed_gib"] - less["needed_gib"]) / (most.images - base)
                room = row["capacity_gib"] - row["needed_gib"]
                if slope > 0:
                    found[case] = max(int(base + room / slope) // 8 * 8, 0)
                break
    return found


def case_of(row: Row) -> Case:
    return Case(**{name: row[name] for name in Case.__dataclass_fields__})


def table(rows: list[Row]) -> str:
    """The rows as Markdown, with the largest batches."""
    names = ["model", "on", "state", "pixels", "images a device", "state, GiB", "needs, of GiB", "fit at most, images"]
    names += ["ms by FLOPs", "by memory", "by wires", "received, GiB"]
    lines, batches = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)], largest_batches(rows)
    for row in rows:
        received = ", ".join(f"{size:.2f} {kind}" for kind, size in row["received_gib"].items() if size >= 0.005)
        times = ["-" if row[f"{by}_ms"] is None else f"{row[f'{by}_ms']:.0f}" for by in ("flops", "memory", "wires")]
        needs = f"{row['needed_gib']:.1f} of {row['capacity_gib']:.1f}{'' if row['fits'] else ': does not fit'}"
        sizes = [f"{row['pixels']}", f"{row['images']}", f"{row['state_gib']:.2f}", needs]
        most = batches.get(case_of(row))
        cells = [row["model"], row["target"], row["state"], *sizes, "" if most is None else f"{most:,}"]
        lines.append("| " + " | ".join([*cells, *times, received or "-"]) + " |")
    return "\n".join(lines)


def growth(rows: list[Row]) -> str:
    """With which exponents the figures grow with devices, parameters and pixels, as Markdown."""
    base = rows[0]["images"]
    ofs: dict[str, Callable[[Row], float | None]] = {
        "state": lambda row: row["state_gib"],
        "memory": lambda row: row["needed_gib"],
        "ms by FLOPs": lambda row: row["flops_ms"],
        "by memory": lambda row: row["memory_ms"],
        "received": lambda row: sum(row["received_gib"].values()) if row["fits"] else None,
    }
    lines = ["| with | on | state | " + " | ".join(ofs) + " |", "|" + "---|" * (3 + len(ofs))]
    for along in ("devices", "parameters", "pixels"):
        for state in ("whole", "by all"):
            for where in dict.fromkeys(
                row["target"] if along != "devices" else generation_of(row["target"]) for row in rows
            ):
                own = [row for row in rows if row["state"] == state and row["images"] == base]
                own = [row for row in own if where in (row["target"], generation_of(row["target"]))]
                if along != "pixels":
                    own = [row for row in own if row["pixels"] == PIXELS]
                if along != "parameters":
                    own = [row for row in own if row["model"] == rows[0]["model"]]
                found = [exponent(own, along, of) for of in ofs.values()]
                if any(k is not None for k in found):
                    cells = ["-" if k is None else f"{round(k, 2) + 0.0:.2f}" for k in found]  # no "-0.00"
                    lines.append(f"| {along} | {where} | {state} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def largest_models(rows: list[Row]) -> str:
    """Which models fit at the fewest images, and how many parameters would, as Markdown.

    The latter along the line, in logarithms, of the two largest models: beyond these it is extrapolated.
    """
    base, fit = rows[0]["images"], largest_batches(rows)
    lines = ["| on | state | largest that fits | its images a device | parameters that fit, about |", "|" + "---|" * 5]
    plain = [row for row in rows if (row["images"], row["pixels"]) == (base, PIXELS)]
    for target, state in dict.fromkeys((row["target"], row["state"]) for row in plain):
        own = sorted(
            (row for row in plain if (row["target"], row["state"]) == (target, state)),
            key=lambda row: row["parameters"],
        )
        fitting = [row for row in own if row["fits"]]
        k = exponent(own[-2:], "parameters", lambda row: row["needed_gib"])
        if fitting and k:
            most = own[-1]["parameters"] * (own[-1]["capacity_gib"] / own[-1]["needed_gib"]) ** (1 / k)
            told = f"{most / 1e9:,.1f} billion{', extrapolated' if fitting[-1] is own[-1] else ''}"
            cells = [target, state, fitting[-1]["model"], f"{fit.get(case_of(fitting[-1]), base):,}", told]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Memory that a device needs, by devices, parameters and pixels; a row of charts for each generation."""
    from matplotlib.figure import Figure

    base, titles = rows[0]["images"], {"v5e": "TPU v5e", "h100": "H100"}
    model, generations = rows[0]["model"], list(dict.fromkeys(generation_of(row["target"]) for row in rows))
    figure = Figure(figsize=(9, 2.9 * len(generations)), layout="constrained")
    figure.suptitle("Memory of a device, computed. Dashed: state whole, solid: shared by all, dotted: by neighbours")
    axes = figure.subplots(len(generations), 3, sharey="row", squeeze=False)
    for i, generation in enumerate(generations):
        own = [row for row in rows if generation_of(row["target"]) == generation and row["images"] == base]
        plain = [row for row in own if row["pixels"] == PIXELS]
        sized = [row for row in own if (row["model"], row["target"]) == (model, own[0]["target"])]
        sized = [row for row in sized if row["state"] != "by neighbours"]  # of which there is one size
        charts = [("devices", "model", plain), ("parameters", "target", plain), ("pixels", "model", sized)]
        for axis, (along, by, found) in zip(axes[i], charts, strict=True):
            for j, name in enumerate(dict.fromkeys(row[by] for row in found)):
                for state, style in (("whole", "--"), ("by all", "-"), ("by neighbours", ":")):
                    points = sorted((r[along], r["needed_gib"]) for r in found if (r[by], r["state"]) == (name, state))
                    x, y = [x for x, _ in points], [y for _, y in points]
                    label = name if state == "by all" else None
                    axis.plot(x, y, style, color=f"C{j}", marker="o", markersize=4, label=label)
            axis.axhline(own[0]["capacity_gib"], color="grey", linewidth=0.8)
            axis.set(xscale="log", yscale="log", xlabel=along)
            axis.minorticks_off()
            axis.margins(x=0.15)
            values = sorted({row[along] for row in found})
            axis.set_xticks(values, [f"{x / 1e6:,.0f} M" if along == "parameters" else f"{x}" for x in values])
            axis.legend(fontsize=7)
        axes[i, 0].set(ylabel="GiB", title=titles.get(generation, generation))
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="variants, separated by commas")
    parser.add_argument("--targets", default=",".join(TARGETS), help="machines, as vit-jax compile takes them")
    parser.add_argument("--images", default="32,128", help="images of a step on each device, the fewest first")
    parser.add_argument("--json", help="also write the rows there")
    parser.add_argument("--chart", help="also draw the memory there")
    args = parser.parse_args()
    targets = args.targets.split(",")
    settle_environment([machine(name) for name in targets])
    fewest, *more = [int(count) for count in args.images.split(",")]
    rows = [row_of(case) for case in cases_of(args.models.split(","), targets, fewest)]
    rows += [row_of(case) for case in growth_cases(rows, more, SIZES)]
    print(f"{table(rows)}\n\n{largest_models(rows)}\n\n{growth(rows)}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    if args.chart:
        draw(rows, Path(args.chart))
    return 0


if __name__ == "__main__":
    sys.exit(main())
