"""Runs parts in order, each in a process of its own, within the time that a call has."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trial.record import CUT, DONE, FAILED, KILLED, Record

ROW = "RESULT "  # how a line of a part's output begins that is one row of figures, in JSON
_END = 8.0  # seconds of a call that are kept for its report


@dataclass(frozen=True)
class Part:
    name: str
    title: str  # what it finds out
    command: tuple[str, ...]  # of Python; {seconds} is replaced by the time that it has
    expected: float  # seconds: it is begun only where so many are left
    most: float  # seconds after which it is killed
    ready: Callable[[], bool] = lambda: True
    waits_for: str = ""  # what `ready` asks for
    first: bool = False  # nothing else can be without it


def run_parts(
    parts: Sequence[Part], record: Record, seconds: float, environment: Mapping[str, str], logs: Path,
    again: Collection[str] = (),
) -> None:  # fmt: skip
    """Begins each part that isn't settled and still fits, one after the other, and records how it ended.

    Whatever a part does, the next is tried; but without the `first`, nothing can be. Those named `again` are begun anew
    if they failed or were killed. `logs` gets one file a part: what it printed.
    """
    deadline = time.monotonic() + seconds - _END
    logs.mkdir(parents=True, exist_ok=True)
    for part in parts:
        left = deadline - time.monotonic()
        settled = record.is_settled(part.name) and not (part.name in again and record.status(part.name) != DONE)
        if settled or left < part.expected or not part.ready():
            continue
        allowed = min(part.most, left)
        record.add("start", part.name, allowed=round(allowed))
        begun = time.monotonic()
        status, why = _run(part, allowed, record, environment, logs / f"{part.name}.log")
        if status == KILLED and allowed < part.most:
            status, why = CUT, f"the call was over after {allowed:.0f} s of it"
        record.add("end", part.name, status=status, seconds=round(time.monotonic() - begun, 1), why=why)
        print(f"{part.name}: {status} after {time.monotonic() - begun:.0f} s {why}".rstrip(), flush=True)
        if part.first and status != DONE:
            print(f"Without {part.name} the other parts would fail; mend it and call again", flush=True)
            return


def _run(part: Part, allowed: float, record: Record, environment: Mapping[str, str], log: Path) -> tuple[str, str]:
    command = [sys.executable, *(word.replace("{seconds}", str(int(allowed))) for word in part.command)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip

        def read() -> None:
            assert process.stdout
            for line in process.stdout:
                file.write(line)
                file.flush()
                with contextlib.suppress(ValueError):  # a row that its part could not end
                    if line.startswith(ROW):
                        record.add("row", part.name, row=json.loads(line.removeprefix(ROW)))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            code = process.wait(allowed)
            status, why = (DONE, "") if code == 0 else (FAILED, f"(exit {code}: {_last_line(log)})")
        except subprocess.TimeoutExpired:
            status, why = KILLED, f"(it had {allowed:.0f} s)"
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what it has started and left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join(5)
    return status, why


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
