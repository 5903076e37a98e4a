"""Runs as their folders tell them, finished or not: what the page is made of. C classes."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.runs import metrics
from vit_jax.runs.folder import RunFolder
from vit_jax.training.seeds import runs_of

SHARES = ("top1", "top5", "top1_flips", "top5_flips")  # of the test images
MEANS = ("balanced_accuracy", "macro_f1")  # over classes
_NUMBERS = (
    *("loss", "loss_flips", "num_examples", "calibration_error", "params", "flops_per_image", "steps", "epochs"),
    *("train_seconds", "wall_seconds", "total_seconds", "images_per_second", "checkpoint", "seed"),
)
_REQUIRED = ("top1", "top5", "num_examples", "checkpoint", "steps")  # the loss of logits that aren't finite is None


@dataclass(frozen=True)
class Run:
    """One run. Without a test `results` is empty, and there is no `matrix`."""

    name: str
    folder: RunFolder
    config: Config
    classes: tuple[str, ...]
    rows: list[dict[str, Any]]  # of metrics.jsonl
    results: dict[str, Any]
    matrix: np.ndarray | None  # (C, C) int, rows true, columns predicted


@dataclass(frozen=True)
class Entry:
    """What a folder holds: one run, or several that differ in their seeds alone."""

    name: str
    folder: RunFolder
    config: Config
    runs: tuple[Run, ...]

    def tested(self) -> list[Run]:
        return [run for run in self.runs if run.results]

    def shown(self) -> Run:
        """The run that stands for all where one is looked into: the first that was tested, else the first."""
        return (self.tested() or self.runs)[0]


def read_all(workdirs: Sequence[str]) -> list[Entry]:
    """The runs in these folders, in order. Raises UserError for one that holds none or is damaged, and for twins."""
    folders = [RunFolder(workdir) for workdir in workdirs]
    paths = [folder.path.resolve() for folder in folders]
    if twice := [str(path) for path in paths if paths.count(path) > 1]:
        raise UserError(f"{twice[0]} is named twice; name each folder once")
    return [_entry(folder, name) for folder, name in zip(folders, names_of(paths), strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """As many of the last parts of each path as tell it from all others: the folders' names, if these differ."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(paths):
            break
    return names


def _entry(folder: RunFolder, name: str) -> Entry:
    config = folder.config()
    if config.seeds == 1:
        return Entry(name, folder, config, (_run(folder, name),))
    folders = [RunFolder(path) for _, path in runs_of(config, folder.path)]
    begun = [one for one in folders if one.exists()]
    if not begun:
        raise UserError(f"{folder.path} is of {config.seeds} seeds, and none has begun; train there first")
    runs = tuple(_run(one, f"{name}/{one.path.name}") for one in begun)
    # The folder's own config leaves open what each run has filled in for its data and its machine.
    whole = dataclasses.replace(runs[0].config, seed=config.seed, seeds=config.seeds)
    return Entry(name, folder, whole, runs)


def _run(folder: RunFolder, name: str) -> Run:
    classes = folder.read("data.json").get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(c, str) for c in classes):
        raise _damaged(folder.path / "data.json", f"classes is {classes!r:.60}")
    results: dict[str, Any] = {}
    matrix = None
    if (folder.path / "results.json").is_file():
        results = _checked(folder.path / "results.json", folder.read("results.json"))
        matrix = read_confusion(folder.path / "confusion.csv", len(classes))
    return Run(name, folder, folder.config(), tuple(classes), metrics.read(folder.path), results, matrix)


def _checked(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json; raises UserError where a figure is none."""
    for key in (*SHARES, *MEANS, *_NUMBERS):
        value, most = results.get(key), math.inf if key in _NUMBERS else 1
        if value is None and key not in _REQUIRED:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= most:
            raise _damaged(path, f"{key} is {value!r:.60}")
    if not results["num_examples"]:
        raise _damaged(path, "num_examples is 0")
    return results


def read_confusion(path: Path, classes: int) -> np.ndarray | None:
    """The matrix (C, C) int of confusion.csv; None where there is no such file. Raises UserError for another file."""
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as file:
            matrix = np.array([[int(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]])
        if matrix.shape != (classes, classes) or matrix.min() < 0:
            raise ValueError(f"not {classes} x {classes} counts")
    except (OSError, ValueError, csv.Error) as error:
        raise _damaged(path, str(error)[:120]) from error
    return matrix


def _damaged(path: Path, found: str) -> UserError:
    return UserError(f"{path} is damaged ({found}); bring it back from a copy, or test the run again (--mode=evaluate)")
