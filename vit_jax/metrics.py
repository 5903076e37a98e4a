"""Where the figures of a run go: metrics.jsonl always, TensorBoard through clu where TensorFlow is installed."""

import json
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, with at least `step` and `split`, on disk when `write` returns."""

    def __init__(self, workdir: Path, from_step: int, evaluated: bool):
        """Continues the file after `from_step`: rows that a killed run left and that will come again are dropped.

        These are the rows of later steps and, unless it is `evaluated`, those of this step's evaluation.
        """
        self._path = workdir / "metrics.jsonl"
        kept = [
            row
            for row in read(workdir)
            if row["step"] < from_step or (row["step"] == from_step and (evaluated or row["split"] == "train"))
        ]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, self._path)
        self._file = self._path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(workdir: Path) -> list[dict[str, Any]]:
    """The rows of a workdir's metrics.jsonl; a last line cut off by a crash is passed over."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class TensorBoard:
    """Writes rows as TensorBoard scalars `split/name` in a thread of its own.

    The thread also does the importing, TensorFlow's ten seconds, while training goes on. Where the packages are
    missing it says so once and drops the rows.
    """

    def __init__(self, workdir: Path):
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(str(workdir),), daemon=True)
        self._thread.start()

    def write(self, row: dict[str, Any]) -> None:
        self._queue.put(row)

    def close(self, timeout: float | None = None) -> None:
        """Waits until all rows are written, at most `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self, workdir: str) -> None:
        try:
            from vit_jax.tf import import_tensorflow

            import_tensorflow()
            from clu import metric_writers
        except ImportError as error:
            print(f"No TensorBoard events: {error}. The figures are in metrics.jsonl.", flush=True)
            return
        writer = metric_writers.SummaryWriter(workdir)
        for row in iter(self._queue.get, None):
            scalars = {
                f"{row['split']}/{name}": value
                for name, value in row.items()
                if name not in ("step", "split") and isinstance(value, (int, float))
            }
            writer.write_scalars(row["step"], scalars)
        writer.close()


class Clock:
    """Seconds spent, by kind, over all starts of a run.

    `wall` is everything since the command began; `compile` and `train` are parts of it: `train` the steady state,
    without compilation, evaluation and saving. What comes before the first step is taken apart too: `imports`, `data`,
    `init` (model and state, images to the devices), `compile` and `first_step`.
    """

    STARTUP = ("imports", "data", "init", "compile", "first_step")

    def __init__(self, started: float, carried: dict[str, float] | None = None):
        """`started` is time.monotonic() at the start of the command, `carried` what earlier starts took."""
        self._started = started
        kinds = ("wall", "train", "train_images", *self.STARTUP)
        self._spent = dict.fromkeys(kinds, 0.0) | (carried or {})
        self._carried = dict(self._spent)
        self._lap: float | None = None

    def add(self, kind: str, amount: float) -> None:
        self._spent[kind] += amount

    def resume(self) -> None:
        """The steady state begins, begins again, or goes on."""
        if self._lap is None:
            self._lap = time.monotonic()

    def pause(self) -> None:
        if self._lap is not None:
            self._spent["train"] += time.monotonic() - self._lap
            self._lap = None

    def totals(self) -> dict[str, float]:
        now = time.monotonic()
        lap = now - self._lap if self._lap is not None else 0.0
        spent = self._spent
        return {**spent, "wall": spent["wall"] + now - self._started, "train": spent["train"] + lap}

    def startup(self) -> dict[str, float]:
        """What came before the end of the first step, this time, by kind."""
        return {kind: self._spent[kind] - self._carried[kind] for kind in self.STARTUP}

    def since_start(self) -> float:
        """Seconds since the command began, this time."""
        return time.monotonic() - self._started

    def images_per_second(self) -> float | None:
        totals = self.totals()
        return totals["train_images"] / totals["train"] if totals["train"] else None
