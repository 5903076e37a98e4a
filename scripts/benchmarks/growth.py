"""How the time of a training step grows with one size of the model at a time, beside its FLOP count."""

import argparse
import math
import statistics
import sys
from typing import Any

from benchmarks.shapes import sized
from benchmarks.training import CONTESTANTS, needed
from vit_jax.models import flops

# What is varied, from 64 tokens, width 192, batch 64, depth 4. Tokens come from the patch size on 32 x 32 pixels.
SERIES = {
    "tokens": ("patch_size", [(16, 8), (64, 4), (256, 2)]),
    "width": ("width", [(64, 64), (192, 192), (384, 384), (768, 768)]),
    "batch": ("batch_size", [(32, 32), (64, 64), (256, 256), (1024, 1024)]),
    "depth": ("depth", [(2, 2), (6, 6), (12, 12), (24, 24)]),
}
BASE = {"patch_size": 4, "width": 192, "batch_size": 64, "depth": 4}


def exponent(xs: list[float], ys: list[float]) -> float:
    """The slope of log y over log x, by least squares."""
    lx, ly = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mx, my = statistics.mean(lx), statistics.mean(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly, strict=True)) / sum((a - mx) ** 2 for a in lx)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each point, median over rounds, then one for each series with both exponents."""
    points: dict[tuple[str, int], list[float]] = {}
    work: dict[tuple[str, int], float] = {}
    for i in range(args.rounds):
        for series, (key, values) in SERIES.items():
            for x, value in values:
                sizes = {**BASE, key: value}
                spec = {"task": "training", "model": "sized", "sizes": sizes, "batch_size": sizes["batch_size"]}
                result = needed(CONTESTANTS[0], {**spec, "steps": args.steps, "warmup": args.warmup})
                points.setdefault((series, x), []).append(statistics.median(result["seconds"]))
                work[series, x] = flops.training(sized(sizes).model) * sizes["batch_size"]
                print(f"round {i + 1}: {series}={x}: {points[series, x][-1]:.4f} s", file=sys.stderr, flush=True)
    rows: list[dict[str, Any]] = []
    for (series, x), seconds in points.items():
        median = statistics.median(seconds)
        row = {
            "series": series,
            "size": x,
            "seconds_per_step": median,
            "gflops_per_second": work[series, x] / median / 1e9,
        }
        rows.append({**row, "seconds_by_round": seconds})
    for series in SERIES:
        own = [row for row in rows if row["series"] == series]
        xs, ys = [row["size"] for row in own], [row["seconds_per_step"] for row in own]
        counted = exponent(xs, [work[series, x] for x in xs])
        rows.append({"series": series, "size": "exponent", "of_time": exponent(xs, ys), "of_flops": counted})
    return rows
