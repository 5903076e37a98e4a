"""The time that a run takes, by what it is spent on."""

import time


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
        kinds = ("wall", "train", "train_images", "train_flops", *self.STARTUP)
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
