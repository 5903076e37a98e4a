"""Noticing that a job of several processes has come no further: a peer that is stuck, a disk that is lost."""

import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable

import jax

# What is being written, in words, and how much of it is there; None where nothing is.
Writing = Callable[[], tuple[str, int] | None]


class Watchdog:
    """Ends this process, with where each thread stands, when the job has come no further for too long.

    Too long is `patience` seconds, or 20 times the usual time between two beats if that is more; before the first beat,
    while data are read and steps compiled, 6 times the patience. None is for ever: a process that is alone and that
    someone has paused is left in peace.

    What is `writing` and grows is progress: a slow disk is waited for, unless one file takes it longer than that.
    """

    _TIMES, _STARTUP = 20, 6

    def __init__(self, patience: float | None, writing: Writing):
        self._patience, self._last = math.inf if patience is None else patience, time.monotonic()
        self._begun = False
        self._intervals: list[float] = []
        self._done = threading.Event()
        self._writing = writing
        self._seen: tuple[str, int] | None = None
        self._asked: float | None = None  # since when the disk owes an answer
        self._refused = ""  # what it answered in its place

    def __enter__(self) -> "Watchdog":
        if self._patience < math.inf:
            # Two threads: looking at a lost disk may take for ever.
            for work in (self._watch, self._look):
                threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def beat(self) -> None:
        """Says that the job has come further."""
        now = time.monotonic()
        if self._begun:
            self._intervals = [*self._intervals[-99:], now - self._last]
        self._begun, self._last = True, now

    def limit(self) -> float:
        """Seconds without a beat after which the process ends."""
        if not self._begun:
            return self._STARTUP * self._patience
        usual = statistics.median(self._intervals) if self._intervals else 0.0
        return max(self._patience, self._TIMES * usual)

    def _look(self) -> None:
        """Takes what has been written for progress; looks for it only where nothing else has moved for a while."""
        while not self._done.wait(min(self._patience / 10, 5.0)):
            if time.monotonic() - self._last < self._patience / 4:
                self._seen = None
                continue
            before, self._asked, self._refused = self._seen, time.monotonic(), ""
            try:
                self._seen = self._writing()
            except OSError as error:
                self._refused = f"{error.strerror}: {error.filename}"
            self._asked = None
            if before and self._seen != before:
                self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(self._patience / 10, 5.0)):
            quiet = time.monotonic() - self._last
            if quiet > self.limit():
                print(
                    f"error: process {jax.process_index()} has come no further for {quiet:.0f} s: {self._reason()}. "
                    "What was saved is intact; start all of them again. Its threads stand at:",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                os._exit(1)

    def _reason(self) -> str:
        if self._refused:
            return f"its disk fails ({self._refused})"
        if self._asked is not None and time.monotonic() - self._asked > self._patience / 4:
            return "the disk that it writes to doesn't answer"
        if self._seen:
            return f"{self._seen[0]} is begun and doesn't grow, its disk or the process that writes it may be stuck"
        return "another process of the job may be stuck"
