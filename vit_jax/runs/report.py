"""The end of a run: the table on the screen, the confusion matrix and the pictures."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vit_jax
from vit_jax.config import Config
from vit_jax.data.dataset import Splits
from vit_jax.models import VisionTransformer, encoder, flops
from vit_jax.models.stems import image_shape
from vit_jax.runs import metrics, pictures
from vit_jax.runs.results import rows_of
from vit_jax.steps.clock import Clock
from vit_jax.steps.optim import rates
from vit_jax.steps.plan import Plan
from vit_jax.system import environment
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import say, say_table

_MAX_PICTURE_CLASSES = 50  # beyond, cells are too small to read


def say_run(path: Path, config: Config, module: VisionTransformer, shapes: Any, splits: Splits, plan: Plan) -> None:
    """What is about to be trained, on what, where; and the table of its parameters."""
    h, w, channels = splits.train.images.shape[1:]
    kind = "grey images" if channels == 1 else "images"
    counts = [
        f"{len(part.labels):,} {name}"
        for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
        if part is not None
    ]
    cfg = module.cfg
    height, width, _ = image_shape(cfg)
    say(f"vit_jax {vit_jax.__version__} on {environment.device()}, JAX {jax.__version__}, in {path}")
    say(f"Data: {config.data.name}, {', '.join(counts)} {kind} of {h} x {w}, {cfg.num_classes} classes")
    rows: list[list] = []  # name, parameters, how many such
    for name, tree in encoder.unstacked(shapes).items():
        size = sum(x.size for x in jax.tree.leaves(tree))
        if rows and name.startswith("block_") and rows[-1][0].startswith("block_") and rows[-1][1] == size:
            rows[-1][2] += 1  # equal blocks share a line
        else:
            rows.append([name, size, 1])
    table = [(name if n == 1 else f"{n} blocks like {name}", f"{size * n:,}") for name, size, n in rows]
    table.append(("all", f"{sum(size * n for _, size, n in rows):,}"))
    say_table("Parameters", table)
    shares, leaves = jax.tree.leaves(rates(config.optim, shapes)), jax.tree.leaves(shapes)
    taken = sum(x.size for x, share in zip(leaves, shares, strict=True) if share)
    if taken < sum(x.size for x in leaves):
        say(f"{taken:,} of them are trained; the others stay.")
    micro = f" in {config.train.accumulate} micro-batches" if config.train.accumulate > 1 else ""
    if plan.seconds is None:
        length = f" ({plan.total * config.train.batch_size / len(splits.train.labels):.1f} epochs)"
    else:
        length = " by the clock"
    forward = flops.forward(cfg) / 1e6
    say(
        f"Training: {plan.say()} in batches of {config.train.batch_size} images{micro}{length}, "
        f"{forward:,.{0 if forward > 10 else 2}f} MFLOPs an image forward, {height} x {width} pixels, "
        f"{jnp.dtype(module.dtype).name}, {cfg.attention} attention"
    )


def say_startup(clock: Clock) -> None:
    """Where the time up to the end of the first step, or of the first call of several, went."""
    parts = ", ".join(f"{kind.replace('_', ' ')} {seconds:.1f}" for kind, seconds in clock.startup().items())
    say(f"First step done {clock.since_start():.1f} s after the start: {parts}")


def speed(
    images_per_second: float | None, flops_per_image: float, dtype: Any, here: bool = True
) -> dict[str, float | None]:
    """images/s, the model's TFLOP/s over all devices and, on known accelerators, their share of the peak.

    `flops_per_image` of a training step, computed in `dtype`. `here`: whether these devices are those that reached it.
    """
    if not images_per_second:
        return {"images_per_second": images_per_second}
    rate = images_per_second * flops_per_image
    mfu = flops.utilization(rate, jax.devices()[0].device_kind, jax.device_count(), jnp.dtype(dtype).name)
    return {"images_per_second": images_per_second, "tflops_per_second": rate / 1e12} | (
        {"mfu": mfu} if mfu and here else {}
    )


def write_results(folder: Path, results: dict[str, Any], matrix: np.ndarray, classes: list[str]) -> None:
    """Writes the confusion matrix (C, C), and results.json last of all: a workdir that has it is complete.

    Raises OSError where that can't be done.
    """
    write_confusion(folder, matrix, classes)
    write_whole(folder / "results.json", json.dumps(results, indent=2) + "\n")


def write_confusion(workdir: Path, matrix: np.ndarray, classes: list[str]) -> None:
    """Writes confusion.csv (rows true, columns predicted) and, for a readable number of classes, confusion.png."""
    with (workdir / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    if len(classes) <= _MAX_PICTURE_CLASSES and _can_draw():
        for line in pictures.confusion(matrix, classes, workdir / "confusion.png"):
            say(line)


def write_pictures(workdir: Path, image: np.ndarray, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Draws curves.png from the metrics and patches.png from one stored image; says the latter's four lines.

    `size` (H, W) is of the images that the model sees, `grid` their rows and columns of tokens. Behind a convolution
    stem a patch is the part of the image that a token stands for; there is none where the grid does not divide it.
    """
    if not _can_draw():
        say("No pictures: matplotlib is not installed.")
        return
    pictures.curves(metrics.read(workdir), workdir / "curves.png")
    if all(side % count == 0 for side, count in zip(size, grid, strict=True)):
        for line in pictures.patches(image, size, grid, workdir / "patches.png"):
            say(line)


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def say_results(folder: Path, results: dict[str, Any]) -> None:
    """The short table at the end of training and of evaluation."""
    say_table(f"{results['dataset']}, {results['split']}", rows_of(results))
    names = ["results.json", "metrics.jsonl", "curves.png", "patches.png", "confusion.png", "confusion.csv"]
    there = [name for name in names if (folder / name).exists()]
    say(f"In {folder}: {', '.join(there)}")
