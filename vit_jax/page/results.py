"""What the tests gave: a card for each folder, the table of all runs, and what to know before believing them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from vit_jax.page.charts import series_colour
from vit_jax.page.curves import points
from vit_jax.page.html import Html, Section, element, join, paragraph, small, table, two_lines
from vit_jax.page.runs import MEANS, SHARES, Entry, Run
from vit_jax.steps import durations
from vit_jax.system.progress import duration, percent
from vit_jax.training.seeds import spread

_NORMAL = 1.959964  # 97.5 % of the standard normal distribution lie below
# Figures whose mean over seeds has an interval here.
_SPREAD = (*SHARES, *MEANS, "loss", "loss_flips", "calibration_error")

Show = Callable[[float], str]


def section(entries: Sequence[Entry]) -> Section:
    cards = [_card(i, entry) for i, entry in enumerate(entries)]
    body = [element("div", *cards, class_="cards")]
    if found := notes(entries):
        body.append(element("ul", *(element("li", note) for note in found), class_="notes"))
    if any(entry.tested() for entry in entries):
        body.append(_table(entries))
        body.append(
            paragraph(
                "Below a share of the test images: its 95 % interval (Wilson 1927), which counts the chance of drawing "
                "these images, not that of the seed. Below a mean of several seeds: the 95 % interval of the mean "
                "(Student's t), which counts the seeds.",
                kind="note",
            )
        )
    return Section("results", "Results", join(body))


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share of `count` independent trials (Wilson 1927)."""
    z2 = _NORMAL**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _NORMAL * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _card(index: int, entry: Entry) -> Html:
    """The figure that people ask for first."""
    tested, last = entry.tested(), _last_validation(entry.shown())
    if len(tested) > 1:
        found = spread([run.results["top1"] for run in tested])
        figure = f"{100 * found['mean']:.2f} ± {100 * found['sd']:.2f} %"
        below = f"test top-1, {len(tested)} seeds; 95 %: {100 * found['low']:.2f} to {100 * found['high']:.2f} %"
    elif tested:
        figure, below = percent(tested[0].results["top1"]), f"test top-1, 95 %: {_interval(tested[0], 'top1')} %"
    elif last:
        figure, below = percent(last[1]), f"validation top-1 at epoch {last[0]:.1f}; not tested"
    else:
        figure, below = "-", "neither validated nor tested yet"
    lines = [element("p", text, class_=kind) for text, kind in ((entry.name, "name"), (figure, "figure"))]
    return element("div", *lines, small(below), class_="card", style=series_colour(index))


def _last_validation(run: Run) -> tuple[float, float] | None:
    """Epoch and top-1 of the last validation of the parameters that the config tests."""
    split = "validation_ema" if run.config.eval.params == "ema" else "validation"
    _, epochs, values = points(run.rows, split, "top1")
    return (float(epochs[-1]), float(values[-1])) if len(values) else None


def _interval(run: Run, key: str) -> str:
    low, high = wilson(run.results[key], run.results["num_examples"])
    return f"{100 * low:.2f} to {100 * high:.2f}"


def _table(entries: Sequence[Entry]) -> Html:
    """Figures down, runs across: a page with one run is as narrow as a phone."""
    groups: dict[str, list[tuple[str, str, Show]]] = {
        "Test": [
            ("top-1", "top1", percent),
            ("top-5", "top5", percent),
            ("balanced accuracy", "balanced_accuracy", percent),
            ("macro F1", "macro_f1", percent),
            ("loss, nats", "loss", lambda x: f"{x:.4f}"),
            ("calibration error", "calibration_error", lambda x: f"{x:.4f}"),
            ("images", "num_examples", lambda x: f"{x:,}"),
        ],
        "Test, averaged with the mirrored images": [
            ("top-1, with flips", "top1_flips", percent),
            ("top-5, with flips", "top5_flips", percent),
            ("loss, with flips", "loss_flips", lambda x: f"{x:.4f}"),
        ],
        "Model": [
            ("parameters", "params", lambda x: f"{x:,}"),
            ("FLOPs per image", "flops_per_image", lambda x: f"{x / 1e6:,.1f} million"),
        ],
        "Training": [
            ("epochs", "epochs", lambda x: f"{x:.1f}"),
            ("steps", "steps", lambda x: f"{x:,.0f}"),
            ("wall time", "wall_seconds", duration),
            ("of that, steps", "train_seconds", duration),
            ("images/s", "images_per_second", lambda x: f"{x:,.0f}"),
        ],
    }
    columns = _columns(entries)
    rows: list[list[str]] = []
    for group, figures in groups.items():
        found = [[label, *(column(key, show) for _, column in columns)] for label, key, show in figures]
        found = [row for row in found if any(row[1:])]
        rows += [[group], *([cell or "-" for cell in row] for row in found)] if found else []
    rows += [["Which"], *([label, *(which(column) for column, _ in columns)] for label, which in _WHICH.items())]
    return table("The tests of all runs.", ["", *(_heading(column) for column, _ in columns)], rows, "figures")


Column = Callable[[str, Show], str]


def _columns(entries: Sequence[Entry]) -> list[tuple[Run | Entry, Column]]:
    """One for each tested run; before those of several seeds, one for all of them."""

    def of_run(run: Run) -> Column:
        def cell(key: str, show: Show) -> str:
            if run.results.get(key) is None:
                return ""
            shown = show(run.results[key])
            return two_lines(shown, _interval(run, key)) if key in SHARES else shown

        return cell

    def of_all(entry: Entry) -> Column:
        def cell(key: str, show: Show) -> str:
            results = [run.results for run in entry.tested()]
            if any(found.get(key) is None for found in results):
                return ""
            values = [found[key] for found in results]
            if len(set(values)) == 1:
                return show(values[0])
            found = spread(values)
            mean = f"{show(found['mean'])} ± {show(found['sd'])}"
            return two_lines(mean, f"{show(found['low'])} to {show(found['high'])}") if key in _SPREAD else mean

        return cell

    columns: list[tuple[Run | Entry, Column]] = []
    for entry in entries:
        tested = entry.tested()
        columns += [(entry, of_all(entry))] if len(tested) > 1 else []
        columns += [(run, of_run(run)) for run in tested]
    return columns


def _heading(column: Run | Entry) -> str:
    return f"{column.name}, mean ± sd" if isinstance(column, Entry) else column.name


def _which(of_one: Callable[[Run], str]) -> Callable[[Run | Entry], str]:
    """What is said of a run and, where all of several say the same, of them together."""

    def say(column: Run | Entry) -> str:
        said = {of_one(run): None for run in (column.tested() if isinstance(column, Entry) else [column])}
        return ", ".join(said)

    return say


_WHICH = {
    "seed": _which(lambda run: str(run.config.seed)),
    "checkpoint": _which(lambda run: f"step {run.results['checkpoint']}, {run.results.get('selected', 'given')}"),
    "parameters tested": _which(lambda run: str(run.results.get("tested_params", "raw"))),
    "data": _which(lambda run: f"{run.results.get('dataset')}, {run.results.get('split')}"),
}


def notes(entries: Sequence[Entry]) -> list[str]:
    """What a reader should know before believing or comparing the figures."""
    whose: dict[str, list[str]] = {}
    for entry in entries:
        for text in _notes_of(entry):
            whose.setdefault(text, []).append(entry.name)
    found = [f"{', '.join(names)}: {text}" for text, names in whose.items()]
    for what, values in _sources(entries).items():
        if len(values) > 1:
            found.append(f"The runs differ in their {what}: {', '.join(values)}.")
    return found


def _notes_of(entry: Entry) -> list[str]:
    config, tested, untested = entry.config, entry.tested(), [run for run in entry.runs if not run.results]
    found = [f"{_whose(entry, run)}not tested; it has come to step {_steps(run):,}." for run in untested]
    if len(entry.runs) < config.seeds:
        found.append(f"{len(entry.runs)} of {config.seeds} seeds have begun.")
    if len(tested) == 1:
        found.append("one seed only. Another gives another figure; the interval of the test images doesn't count that.")
    if tested and config.eval.select == "best":
        found.append(
            "the checkpoint is the best on the validation images, so its validation figures are too good; the test's "
            "are not."
        )
    if any(run.results.get("loss", 0) is None for run in tested):
        found.append("the logits of some test images weren't finite. They count as wrong, and there is no loss.")
    if any("top1_flips" in run.results for run in tested):
        found.append("figures with flips look at each image twice; compare them with others of that kind alone.")
    if durations.seconds_of(config.train.length, "config.train.length") is not None:
        found.append(f"trained by the clock ({config.train.length}): a repeat, or another machine, does other steps.")
    if any(str(run.results.get("git_commit") or "").endswith("-dirty") for run in tested):
        found.append("the code had changes that are in no commit.")
    if skipped := sum("skipped" in row for run in entry.runs for row in run.rows):
        found.append(f"{skipped} steps were left out, as their loss or gradient wasn't finite.")
    return found


def _whose(entry: Entry, run: Run) -> str:
    return f"{run.folder.path.name} is " if len(entry.runs) > 1 else ""


def _steps(run: Run) -> int:
    return max((row["step"] for row in run.rows), default=0)


def _sources(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Where the figures come from, as far as it matters for comparing them: each value once, in order."""
    results: list[dict[str, Any]] = [run.results for entry in entries for run in entry.tested()]
    named = {
        "test images": [f"{found.get('dataset')} {found.get('split')}" for found in results],
        "device": [str(found.get("device")) for found in results],
        "code": [str(found.get("git_commit")) for found in results],
    }
    return {what: list(dict.fromkeys(values)) for what, values in named.items()}
