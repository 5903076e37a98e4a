"""The program in processes of its own, that get real signals; what they print is in files.

A process is started anew, as a shell starts it, or forked from one that has imported the package: that one is there at
once, where Python needs seconds of a core for its imports, and goes on in the same way.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promises.faults import Faults, program

REPOSITORY = Path(__file__).resolve().parents[2]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["promises.faults", "vit_jax.cli.flags", "vit_jax.training.loop"])


class Broken(Exception):
    """A promise didn't hold."""


class Child:
    """The program in a process of its own, and in a session of its own."""

    def __init__(
        self, *args: str, log: Path, devices: int = 1, faults: Faults | None = None, forked: bool = True
    ) -> None:
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(REPOSITORY)}
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self.log, self.started = log, time.monotonic()
        self._process: Any
        if forked:
            self._process = _FORKS.Process(target=_go_on_as, args=(args, faults, environment, str(log)))
            self._process.start()
        else:
            command = ["-m", "vit_jax.main"]
            if faults:
                command = [str(REPOSITORY / "tests/promises/faults.py"), json.dumps(dataclasses.asdict(faults))]
            with log.open("w") as file:
                self._process = subprocess.Popen(
                    [sys.executable, *command, *args],
                    cwd=REPOSITORY, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        self.pid: int = self._process.pid

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._ended(60)

    def _ended(self, seconds: float) -> int | None:
        """The exit code, minus a signal's number, of a process that has ended or ends in so many seconds."""
        if isinstance(self._process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(seconds)
            return None
        self._process.join(seconds)
        return self._process.exitcode

    def running(self) -> bool:
        return self._ended(0) is None

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], seconds: float = 150.0) -> bool:
        """Returns when the condition holds, the process has ended, or time is up: whether it holds."""
        end = time.monotonic() + seconds
        while not (holds := bool(condition())) and self.running() and time.monotonic() < end:
            time.sleep(0.005)
        return holds

    def send(self, signum: int) -> None:
        if self.running():
            os.kill(self.pid, signum)

    def wait(self, seconds: float = 200.0) -> int:
        """The exit code; Broken if there is none in time."""
        code = self._ended(seconds)
        if code is None:
            raise Broken(f"no exit within {seconds:.0f} s; {self.tail()}")
        return code

    def tail(self) -> str:
        return " | ".join(self.printed().splitlines()[-3:])[-400:]


def _go_on_as(args: tuple[str, ...], faults: Faults | None, environment: dict[str, str], log: str) -> None:
    """What a forked process does: all that a new one would have found when it started, then the program."""
    import jax

    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(REPOSITORY)
    os.environ.clear()
    os.environ.update(environment)
    jax.config.update("jax_num_cpu_devices", int(environment["JAX_NUM_CPU_DEVICES"]))  # read as JAX is imported
    program(faults, args)
