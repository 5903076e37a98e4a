"""What a trial has found so far: lines of JSON, each on the disk before the next thing begins."""

import json
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

# How a part ends. Those of AGAIN are begun anew by the next call: they did not end by themselves.
DONE, FAILED, KILLED, CUT = "done", "failed", "killed", "cut"
_MOST_STARTS = 2  # of a part that its calls don't survive


class Record:
    """trial.jsonl in the work folder, and its copy in `out`, which comes back from the machine.

    {"event": "call" | "start" | "row" | "end", "part": NAME, "at": TIME, ...}; an end has status, seconds and why.
    """

    def __init__(self, work: Path, out: Path, before: Path | None = None, anew: Collection[str] = ()):
        """`before`: the trial.jsonl of an earlier machine, for one without; the parts `anew` run on each."""
        self._file, self._out = work / "trial.jsonl", out
        work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        if before and before.exists() and not self._file.exists():
            lines = [line for line in before.read_text().splitlines() if json.loads(line)["part"] not in anew]
            self._file.write_text("".join(f"{line}\n" for line in lines))
        self.events = [json.loads(line) for line in self._lines()]
        self._copy()

    def _lines(self) -> list[str]:
        """All but a last line that was cut off while it was written."""
        if not self._file.exists():
            return []
        text = self._file.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._file.write_text(whole)
        return whole.splitlines()

    def add(self, event: str, part: str = "", **facts: Any) -> None:
        self.events.append({"event": event, "part": part, "at": time.strftime("%H:%M:%S"), **facts})
        with self._file.open("a") as file:
            file.write(json.dumps(self.events[-1]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._copy()

    def _copy(self) -> None:
        target = self._out / self._file.name
        if self._file.exists() and target.resolve() != self._file.resolve():
            shutil.copy(self._file, target)

    def of(self, part: str, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["part"] == part and e["event"] == event]

    def status(self, part: str) -> str | None:
        """How the part ended the last time; "cut" if its call was over first; None if it was never begun."""
        events = [e for e in self.events if e["part"] == part and e["event"] in ("start", "end")]
        return events[-1].get("status", CUT) if events else None

    def is_settled(self, part: str) -> bool:
        """Whether another call leaves the part alone."""
        status, starts = self.status(part), len(self.of(part, "start"))
        return status in (DONE, FAILED, KILLED) or (status == CUT and starts >= _MOST_STARTS)

    def rows(self, part: str) -> list[dict[str, Any]]:
        """The figures of the part's last start."""
        starts = [i for i, e in enumerate(self.events) if e["part"] == part and e["event"] == "start"]
        later = self.events[starts[-1] :] if starts else []
        return [e["row"] for e in later if e["part"] == part and e["event"] == "row"]
