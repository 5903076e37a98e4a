"""Figures on their way to a board that draws them: TensorBoard here, others in trackers.py."""

import itertools
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vit_jax.system.progress import say


class Board(Protocol):
    """Takes figures by their names, `split/name`."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self, finished: bool) -> None:
        """All is written; `finished`: the run is at its end, not merely stopped."""


class InBackground:
    """Writes rows of metrics.jsonl to a board in a thread of its own.

    The thread also opens the board: importing its package takes seconds, and a network may take more. What fails there
    is said once and stops no run. `before` are the rows that a run has already when it goes on.
    """

    def __init__(self, what: str, opened: Callable[[], Board], before: list[dict[str, Any]]):
        self._what, self._opened = what, opened
        self._before = before
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._finished = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, row: dict[str, Any]) -> None:
        self._queue.put(row)

    def close(self, finished: bool, timeout: float) -> None:
        """Waits until all rows are written, at most `timeout` seconds; `finished` as for the board."""
        self._finished = finished
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            say(f"Not all {self._what} were written within {timeout:g} s. The figures are in metrics.jsonl.")

    def _run(self) -> None:
        try:
            board = self._opened()
            for row in itertools.chain(self._before, iter(self._queue.get, None)):
                board.write(row["step"], scalars_of(row))
            board.close(self._finished)
        except Exception as error:  # no package, no room, no network: the figures themselves are in metrics.jsonl
            say(f"No {self._what} ({type(error).__name__}: {error}). The figures are in metrics.jsonl.")


def scalars_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row of metrics.jsonl, by `split/name`."""
    return {
        f"{row['split']}/{name}": value
        for name, value in row.items()
        if name not in ("step", "split") and isinstance(value, (int, float))
    }


class TensorBoard:
    """Events in the workdir, through clu.

    Those of earlier starts are removed: a run that goes on writes all of its rows again, so that the events have
    neither gaps nor doubles, however often it was killed.
    """

    def __init__(self, workdir: Path):
        from vit_jax.system.tensorflow import import_tensorflow

        import_tensorflow()
        from clu import metric_writers

        for earlier in workdir.glob("events.out.tfevents.*"):
            earlier.unlink()
        self._writer = metric_writers.SummaryWriter(str(workdir))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, scalars)

    def close(self, finished: bool) -> None:
        self._writer.close()
