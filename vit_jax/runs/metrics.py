"""metrics.jsonl, where the figures of a run go."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.errors import RunError
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import say

GOALS = (70, 90, 94)  # % of validation top-1, the time to which is noted


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, with at least `step` and `split`; out of this process with `write`."""

    def __init__(self, workdir: Path, from_step: int, evaluated: bool):
        """Continues the file after `from_step`: rows that a killed run left and that will come again are dropped.

        These are the rows of later steps and, unless it is `evaluated`, those of this step's evaluation. A file with
        damaged lines is kept as metrics.jsonl.damaged.
        """
        self._path = workdir / "metrics.jsonl"
        rows, damaged = _parse(self._path)
        if damaged:
            aside = self._path.with_suffix(".jsonl.damaged")
            shutil.copyfile(self._path, aside)
            say(f"Warning: {damaged} lines of {self._path} can't be read; they are left out, {aside.name} has them.")
        kept = [
            row
            for row in rows
            if row["step"] < from_step or (row["step"] == from_step and (evaluated or row["split"] == "train"))
        ]
        write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row; raises RunError where that can't be done."""
        with self._explained():
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Puts what was written on the disk; raises RunError where that can't be done."""
        with self._explained():
            os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._path} can't be written ({error.strerror}); make room or mend that") from error

    def close(self) -> None:
        """Closes the file; raises RunError where what is left of it can't be written."""
        with self._explained():
            self._file.close()


def read(workdir: Path) -> list[dict[str, Any]]:
    """The rows of a workdir's metrics.jsonl, damaged lines left out."""
    return _parse(workdir / "metrics.jsonl")[0]


def time_to(workdir: Path, last: int) -> dict[str, dict[str, float]]:
    """When a run's validation top-1 first reached each of `GOALS` up to the step `last`: {"70": {"step": ...}, ...}."""
    found: dict[str, dict[str, float]] = {}
    for row in read(workdir):
        for goal in GOALS:
            if (name := f"time_to/{goal}") in row and row["step"] <= last:
                times = {"train_seconds": row[name], "wall_seconds": row[f"wall_to/{goal}"]}
                found.setdefault(f"{goal}", {"step": row["step"], "epoch": row["epoch"], **times})
    return found


def _parse(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a file, and how many lines are none; a last one without its end, cut off by a crash, is no damage."""
    rows, damaged = [], 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            row = json.loads(line)
            if not (isinstance(row["step"], int) and isinstance(row["split"], str)):
                raise ValueError("no row")
            rows.append(row)
        except (ValueError, KeyError, TypeError):
            damaged += line.endswith(b"\n")
    return rows, damaged
