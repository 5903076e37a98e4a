"""How the runs went: accuracy and loss, learning rate and speed, over epochs and over time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.page.charts import Line, chart, series_colour
from vit_jax.page.html import Html, Section, element, join, paragraph
from vit_jax.page.runs import Entry, Run

_MOST = 250  # points of a line; of more, neighbours are averaged

# Rows of metrics.jsonl, as the legend has them, and the style of their lines, from the back to the front.
_SPLITS = {
    "train": ("train, single batches", "faint"),
    "train_epoch": ("train, mean since the last evaluation", "dashed"),
    "validation_ema": ("validation, averaged parameters", "dotted"),
    "validation": ("validation", "solid"),
}
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def section(entries: Sequence[Entry]) -> Section:
    runs = [(colour, run) for colour, entry in enumerate(entries) for run in entry.runs]
    seconds = {run.name: training_seconds(run.rows, run.config.train.batch_size) for _, run in runs}
    longest = max((found[1][-1] for found in seconds.values()), default=0.0)
    unit = next((unit for unit in ("h", "min") if longest >= 3 * _UNITS[unit]), "s")

    def lines(key: str, by_time: bool, splits: Sequence[str], scale: float = 1.0) -> list[Line]:
        drawn = []
        for split in splits:
            for colour, run in runs:
                steps, epochs, values = points(run.rows, split, key)
                x = np.interp(steps, *seconds[run.name]) / _UNITS[unit] if by_time else epochs
                told = f"{run.name}, {_SPLITS[split][0]}" if len(splits) > 1 else run.name
                drawn.append(Line(told, *thinned(x, scale * values), colour, _SPLITS[split][1]))
        return drawn

    time, every = f"{unit} of training", tuple(_SPLITS)
    charts = [
        chart("Top-1 accuracy (%) by epoch", "epoch", lines("top1", False, every, 100.0)),
        chart("Top-1 accuracy (%) by time", time, lines("top1", True, every, 100.0)),
        chart("Loss (nats) by epoch", "epoch", lines("loss", False, every)),
        chart("Loss (nats) by time", time, lines("loss", True, every)),
        chart("Learning rate", "epoch", _solid(lines("learning_rate", False, ("train",))), start=0.0),
        chart("Training speed (images/s)", "epoch", _solid(lines("images_per_second", False, ("train",))), start=0.0),
    ]
    there = {row["split"] for _, run in runs for row in run.rows}
    lead = paragraph(
        "Train figures are those of the augmented images and, where the config smooths or mixes labels, of these "
        "labels: they may lie below validation. Time is that of the steps alone, without starting, evaluating and "
        "saving, from the logged speeds.",
        kind="note",
    )
    return Section("curves", "Curves", join([lead, _legend(entries, there), element("div", *charts, class_="charts")]))


def points(rows: list[dict[str, Any]], split: str, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, epochs and values, (n,) float each, of the rows of a split that have the key, in order of steps."""
    found = [
        (row["step"], row["epoch"], row[key])
        for row in rows
        if row["split"] == split and _is_number(row.get(key)) and _is_number(row.get("epoch"))
    ]
    steps, epochs, values = np.array(sorted(found), float).reshape(-1, 3).T
    return steps, epochs, values


def training_seconds(rows: list[dict[str, Any]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps (n,), from 0 to the last of any row, and the seconds (n,) of training up to each.

    Between two logged steps it is their images over the images/s that the later one logged; after the last, over its
    own. Without any, all seconds are 0.
    """
    steps, _, rates = points(rows, "train", "images_per_second")
    steps, rates = steps[rates > 0], rates[rates > 0]
    last = max((row["step"] for row in rows), default=0)
    if not len(steps):
        return np.array([0.0, last or 1.0]), np.zeros(2)
    steps, rates = np.append(steps, max(last, steps[-1])), np.append(rates, rates[-1])
    seconds = np.cumsum(np.diff(steps, prepend=0.0) * batch_size / rates)
    return np.concatenate([[0.0], steps]), np.concatenate([[0.0], seconds])


def thinned(x: np.ndarray, y: np.ndarray, most: int = _MOST) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most `most` points, (n,) each: the means of neighbours."""
    parts = min(len(x), most)
    if not parts:
        return (), ()

    def means(values: np.ndarray) -> tuple[float, ...]:
        return tuple(float(part.mean()) for part in np.array_split(values, parts))

    return means(x), means(y)


def _solid(lines: list[Line]) -> list[Line]:
    return [Line(line.name, line.x, line.y, line.colour) for line in lines]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _legend(entries: Sequence[Entry], there: set[str]) -> Html:
    """A colour for each folder, and what each style of line means."""
    swatches = [
        element("li", _sample("solid", series_colour(i)), f"{entry.name}{_seeds(entry.runs)}")
        for i, entry in enumerate(entries)
    ]
    styles = [
        element("li", _sample(style, "--series: currentColor"), name)
        for split, (name, style) in reversed(_SPLITS.items())
        if split in there
    ]
    return join([element("ul", *swatches, class_="legend"), element("ul", *styles, class_="legend")])


def _seeds(runs: Sequence[Run]) -> str:
    return f", {len(runs)} seeds" if len(runs) > 1 else ""


def _sample(style: str, colour: str) -> Html:
    line = element("polyline", points="1,6 31,6", class_=f"line {style}")
    return element("svg", line, viewBox="0 0 32 12", style=colour, aria_hidden="true")
