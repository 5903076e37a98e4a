"""Being asked to stop: SIGTERM, SIGUSR1 and the first Ctrl-C are remembered, and the loop saves before it leaves."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """The command was asked to stop, and what there was to save is saved; `exit_code` is 128 + the signal's number.

    No Exception, so that nothing that mends a failure takes it for one.
    """

    def __init__(self, signum: int):
        super().__init__(f"Stopped by {signal.Signals(signum).name}.")
        self.exit_code = 128 + signum


class StopRequest:
    """Within `with`, a signal raises Stopped where it finds the program; within `deferred()`, at the next `check`.

    A second Ctrl-C leaves at once, also from within a long call of a library: a thread sees to it.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.signum = 0  # the first signal that came
        self._deferred = self._unguarded = False
        self._previous: dict[int, Any] = {}
        self.before_leaving: Callable[[], None] | None = None  # called before a second Ctrl-C ends the process

    def __enter__(self) -> "StopRequest":
        # Python runs its handlers only between bytecodes of the main thread, but writes each signal's number here
        # even while that thread computes or waits.
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        self._previous = {signum: signal.signal(signum, self._remember) for signum in self._SIGNALS}
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        sys.unraisablehook = self._previous_hook
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write)  # ends the thread

    def _remember(self, signum: int, _: FrameType | None) -> None:
        if not self.signum:
            self.signum = signum
            if not self._deferred:
                raise Stopped(signum)

    def _unraisable(self, what: Any) -> None:
        # Raised while Python cleaned up an object, it can't go on from there: the next `check` raises it again.
        if what.exc_type is not Stopped:
            self._previous_hook(what)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal waits for `check`: there is something to save first."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    @contextlib.contextmanager
    def unguarded(self) -> Iterator[None]:
        """Within, a signal ends the process at once, even from within a library: there is nothing to save."""
        self._unguarded = True
        try:
            yield
        finally:
            self._unguarded = False

    def check(self) -> None:
        """Raises Stopped if a signal came."""
        if self.signum:
            raise Stopped(self.signum)

    def _watch(self, read: int) -> None:
        """Says that a signal was heard, and ends the process on a Ctrl-C that is not the first signal."""
        heard = False
        while byte := os.read(read, 1):
            signum = byte[0]
            if signum not in self._SIGNALS:
                continue
            if (heard and signum == signal.SIGINT) or self._unguarded:
                if os.isatty(1):
                    os.write(1, b"\x1b[?25h")  # the live bar hides the cursor
                if self.before_leaving:
                    self.before_leaving()
                os._exit(128 + signum)
            if not heard:
                with contextlib.suppress(OSError):  # no one reads it any more
                    os.write(2, f"{signal.Signals(signum).name}: stopping. Ctrl-C leaves at once.\n".encode())
            heard = True
        os.close(read)
