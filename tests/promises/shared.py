"""P31: a state that two processes share, each with a part of it that the other doesn't have."""

import dataclasses
import errno
import json
import re
import shutil
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

from promises.faults import Faults
from promises.harness import RUN, TOTAL, Bench, Child, call, latest, require, rows
from promises.integrity import damaged
from promises.jobs import job

_SHARED = ("--config.train.mesh=fsdp=2", "--config.train.split_rules=(('.*/mlp/.*kernel', '0'), ('.*', 'whole'))")


def p31(bench: Bench) -> Iterator[str]:
    """Processes that share a state save it together, or not at all; any number of them goes on; any damage is found."""
    cases = [("writing", 1), ("writing", 0), ("sealing", 0), ("renaming", 0)]
    for phase, who in cases if bench.full else cases[:1]:
        workdir = yield from _ended(bench, "killed", phase, who)
        parts = [p for p in (workdir / "checkpoints" / "4").rglob("*") if p.is_file() and "process_1" in str(p)]
        require(parts, "process 1 has written nothing")
        for how in ("flip", "cut", "delete", "of another step") if bench.full else ("flip",):
            copy = bench.new()
            shutil.copytree(workdir, copy)
            _damage(copy, parts[0].relative_to(workdir), how)
            code, printed = call("--mode=evaluate", f"--workdir={copy}", "--checkpoint=4")
            require(code == 2 and "damaged" in printed, f"{how}: {printed[-300:]}")
            yield f"a part of process 1: {how}"
        _goes_on(bench, workdir, alone=who == 1)
        yield "one process goes on" if who == 1 else "two processes go on"
    disks = [("failed by its disk", 1), ("failed by its disk", 0), ("left by its disk", 1)]
    for what, who in disks if bench.full else ():
        yield from _ended(bench, what, "writing", who)


def _ended(bench: Bench, what: str, phase: str, who: int) -> Generator[str, None, Path]:
    """A workdir in which the save of step 8 has ended both processes: one at the beginning of a phase of it."""
    workdir, events = bench.new(), [bench.new(f"events of {i}") for i in range(2)]
    for file in events:
        file.parent.mkdir(parents=True)
    slow = {phase: 0.5, "step": 0.05}
    faults = {i: Faults(events=str(events[i]), slow=slow) for i in range(2)}
    if what == "failed by its disk":
        faults[who] = dataclasses.replace(faults[who], fail={phase: (errno.EIO, 3)})
    if what == "left by its disk":
        faults[who] = dataclasses.replace(faults[who], hang={phase: 3})
    with ExitStack() as stack:
        children = job(bench, stack, *RUN, *_SHARED, f"--workdir={workdir}", timeout=10, faults=faults)
        begun = children[who].wait_until(lambda: _begun(events[who], phase) >= 3)
        require(begun, children[who].tail())
        if what == "killed":
            children[who].send(signal.SIGKILL)
        for i in (0, 1) if what != "killed" else (1 - who,):
            code, printed = children[i].wait(150), children[i].printed()
            told = re.search("error: |detected fatal errors", printed) and "Traceback" not in printed
            require(code not in (0, None) and told, f"{what}, process {i}: {code}: {printed[-600:]}")
        reason = {"failed by its disk": "Input/output error", "left by its disk": "checkpoint 8 in"}.get(what, "")
        require(reason in children[who].printed(), f"{what}: {children[who].printed()[-600:]}")
    require(latest(workdir) == 4, f"{phase} of step 8 by process {who}: left is {latest(workdir)}")
    yield f"process {who} {what} at its {phase}"
    return workdir


def _begun(events: Path, phase: str) -> int:
    return events.read_text().split().count(phase) if events.exists() else 0


def _damage(workdir: Path, part: Path, how: str) -> None:
    if how == "of another step":
        others = [p for p in (workdir / "checkpoints" / "0").rglob("*") if p.is_file() and "process_1" in str(p)]
        (workdir / part).write_bytes(others[0].read_bytes() + b"\0")
    else:
        damaged(workdir / part, how, 100)


def _goes_on(bench: Bench, workdir: Path, alone: bool) -> None:
    """To the end, by one process with a whole state or by two that share it: with the losses of a straight run."""
    with ExitStack() as stack:
        if alone:
            log = bench.new("alone")
            children = [stack.enter_context(Child(*RUN, f"--workdir={workdir}", devices=2, log=log))]
        else:
            children = job(bench, stack, *RUN, *_SHARED, f"--workdir={workdir}")
        codes = [child.wait() for child in children]
        require(codes == [0] * len(children), f"exit codes {codes}: {children[0].tail()}")
        require("Resuming after step 4" in children[0].printed(), children[0].tail())
    found, straight = rows(workdir), rows(bench.straight(2))
    key = [(row["step"], row["split"]) for row in found]
    require(key == [(row["step"], row["split"]) for row in straight], "a row is missing, or is there twice")
    require(max(abs(a["loss"] - b["loss"]) for a, b in zip(found, straight, strict=True)) < 1e-3, "other losses")
    require(json.loads((workdir / "results.json").read_text())["steps"] == TOTAL, "another end")
    code, printed = call("--mode=evaluate", f"--workdir={workdir}")
    require(code == 0, printed[-300:])
