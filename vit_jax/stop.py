"""Being asked to stop: SIGTERM and the first Ctrl-C are remembered, and the loop saves before it leaves."""

import os
import signal
from types import FrameType
from typing import Any


class Stopped(Exception):
    """The run was asked to stop and has saved what there was; `exit_code` is 130 or 143."""

    def __init__(self, signum: int):
        super().__init__(f"Stopped by {signal.Signals(signum).name}.")
        self.exit_code = 128 + signum


class StopRequest:
    """Within `with`, signals only set a flag, which is looked at between steps and between batches.

    A second Ctrl-C leaves at once.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {signum: signal.signal(signum, self._remember) for signum in self._SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, _: FrameType | None) -> None:
        if self._signum is not None and signum == signal.SIGINT:
            os._exit(128 + signum)
        self._signum = signum

    def check(self) -> None:
        """Raises Stopped if a signal came."""
        if self._signum is not None:
            raise Stopped(self._signum)
