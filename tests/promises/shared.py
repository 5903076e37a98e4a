"""P31: a state that two processes share, each with a part of it that the other doesn't have."""

import json
import shutil
import signal
from collections.abc import Iterator
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
        workdir, events = bench.new(), [bench.new(f"events of {i}") for i in range(2)]
        for file in events:
            file.parent.mkdir(parents=True)
        faults = {i: Faults(events=str(events[i]), slow={phase: 0.5, "step": 0.05}) for i in range(2)}
        with ExitStack() as stack:
            children = job(bench, stack, *RUN, *_SHARED, f"--workdir={workdir}", timeout=10, faults=faults)
            begun = children[who].wait_until(lambda e=events[who], p=phase: _begun(e, p) >= 3)
            require(begun, children[who].tail())
            children[who].send(signal.SIGKILL)
            code, printed = children[1 - who].wait(150), children[1 - who].printed()
            require(code not in (0, None) and "Traceback" not in printed, f"{code}: {children[1 - who].tail()}")
        require(latest(workdir) == 4, f"{phase} of step 8 by process {who}: left is {latest(workdir)}")
        parts = [p for p in (workdir / "checkpoints" / "4").rglob("*") if p.is_file() and "process_1" in str(p)]
        require(parts, "process 1 has written nothing")
        yield f"process {who} killed at its {phase}"
        for how in ("flip", "cut", "delete", "of another step") if bench.full else ("flip",):
            copy = bench.new()
            shutil.copytree(workdir, copy)
            _damage(copy, parts[0].relative_to(workdir), how)
            code, printed = call("--mode=evaluate", f"--workdir={copy}", "--checkpoint=4")
            require(code == 2 and "damaged" in printed, f"{how}: {printed[-300:]}")
            yield f"a part of process 1: {how}"
        _goes_on(bench, workdir, alone=who == 1)
        yield "one process goes on" if who == 1 else "two processes go on"


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
