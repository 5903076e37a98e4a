"""P28 to P30: jobs of two processes, and what a person sees."""

import errno
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

from promises.faults import Faults
from promises.harness import RUN, TOTAL, Bench, Child, free_address, latest, require, rows


def job(bench: Bench, stack: ExitStack, *args: str, timeout: int = 60, faults: dict[int, Faults] | None = None) -> list:
    """Two processes that train together, one device each."""
    common = [f"--coordinator_address={free_address()}", "--num_processes=2", f"--peer_timeout={timeout}"]
    return [
        stack.enter_context(
            Child(*args, *common, f"--process_id={i}", faults=(faults or {}).get(i), log=bench.new(f"process {i}"))
        )
        for i in range(2)
    ]


def p28(bench: Bench) -> Iterator[str]:
    """A process that fails, is killed, stuck or missing ends the others in time, with our message or JAX's."""
    cases = [("killed", 1), ("killed", 0), ("failing", 0), ("stuck", 1), ("missing", 1), ("killed", 1), ("killed", 0)]
    lost = ("left by its disk", "told by its disk that it is lost")
    cases += [(what, 0) for what in lost]
    for what, who in cases if bench.full else cases[:1]:
        workdir, other = bench.new(), 1 - who
        args = [*RUN, f"--workdir={workdir}"]
        faults = {i: Faults(slow={"step": 0.3}) for i in range(2)}
        if what == "stuck":
            faults[who] = Faults(hang={"step": 7})
        if what == "failing":
            faults[who] = Faults(slow={"step": 0.3}, fail={"sealing": (28, 3)})
        if what == lost[0]:  # the save of step 8 never ends
            faults[who] = Faults(slow={"step": 0.3}, hang={"writing": 3})
        if what == lost[1]:
            faults[who] = Faults(slow={"step": 0.3}, fail={"writing": (errno.ESTALE, 3)})
        with ExitStack() as stack:
            children = job(bench, stack, *args, timeout=10, faults=faults)
            if what == "missing":
                children[who].process.kill()
            else:
                begun = children[other].wait_until(lambda w=workdir: len(rows(w)) >= 5)
                require(begun or what in ("failing", *lost), children[other].tail())
            if what == "killed":
                children[who].send(signal.SIGKILL)
            since = time.monotonic()
            code = children[other].wait(150)
            seconds, printed = time.monotonic() - since, children[other].printed()
            require(code not in (0, None), f"{what}: exit code {code}")
            require(
                re.search("error: |detected fatal errors", printed), f"{what}: no message: {children[other].tail()}"
            )
            require("Traceback" not in printed, f"{what}: {children[other].tail()}")
            if what in lost:
                require(children[who].wait(150) == 1, f"{what}: it goes on")
                said = children[who].printed()
                named = "checkpoint 8 in" if what == lost[0] else "Stale file handle"
                require(named in said and "Traceback" not in said, f"{what}: {said[-600:]}")
            if what == "stuck":  # whichever of the two is the first to have waited for too long
                both = printed + children[who].printed()
                require("most recent call first" in both, f"the threads' stacks are missing: {both[-600:]}")
        if what != "missing":
            require(latest(workdir) >= 0, f"{what}: no checkpoint is whole")
        yield f"{what} {who}: the other ended after {seconds:.1f} s"


def p29(bench: Bench) -> Iterator[str]:
    """A signal to any process stops all after the same step; only the first writes; together they go on to the end."""
    for who in (1, 0)[: bench.times(1, 2)]:
        workdir = bench.new()
        args = [*RUN, f"--workdir={workdir}"]
        with ExitStack() as stack:
            children = job(bench, stack, *args, faults={i: Faults(slow={"step": 0.1}) for i in range(2)})
            begun = children[0].wait_until(lambda w=workdir: len(rows(w)) >= 6)
            require(begun, children[0].tail())
            children[who].send((signal.SIGTERM, signal.SIGUSR1)[who])
            codes = [child.wait() for child in children]
            require(codes == [(143, 138)[who]] * 2, f"exit codes {codes}: {children[0].tail()} {children[1].tail()}")
            require(latest(workdir) == len([r for r in rows(workdir) if r["split"] == "train"]), "a step was lost")
        yield f"signal to process {who}"
        if not bench.full:
            return
        with ExitStack() as stack:
            children = job(bench, stack, *args)
            codes = [child.wait() for child in children]
            require(codes == [0, 0], f"exit codes {codes}: {children[0].tail()} {children[1].tail()}")
            require("epoch" not in children[1].printed(), "both processes talk")
        found, straight = rows(workdir), rows(bench.straight(2))
        key = [(row["step"], row["split"]) for row in found]
        require(key == [(row["step"], row["split"]) for row in straight], "a row is missing, or is there twice")
        require(max(abs(a["loss"] - b["loss"]) for a, b in zip(found, straight, strict=True)) < 1e-3, "other losses")
        require(json.loads((workdir / "results.json").read_text())["steps"] == TOTAL, "another end")
        yield "and on to the end"


def p30(bench: Bench) -> Iterator[str]:
    """The first line comes within 10 s, then one at least every 30 s, also in long phases; the ETA is within 20 %."""
    workdir, events = bench.new(), bench.new("events")
    events.parent.mkdir(parents=True)
    slow = {"data": 33.0, "compile": 33.0, "evaluation": 12.0, "step": 1.0} if bench.full else {}
    faults = Faults(events=str(events), slow=slow)
    longer = ["--config.train.length=120 steps", "--config.eval.every=60 steps"] if bench.full else []
    args = [*RUN, *longer, f"--workdir={workdir}"]
    lines: list[tuple[float, str]] = []
    with Child(*args, faults=faults, log=bench.new("log")) as child:
        while child.process.poll() is None:
            now, text = time.monotonic() - child.started, child.printed().splitlines()
            lines += [(now, line) for line in text[len(lines) :]]
            time.sleep(0.05)
        require(child.wait() == 0, child.tail())
        total = time.monotonic() - child.started
    times = [0.0, *(at for at, _ in lines), total]
    gap = max(b - a for a, b in zip(times, times[1:], strict=False))
    require(times[1] <= 10, f"the first line came after {times[1]:.0f} s")
    require(gap <= 30, f"no line for {gap:.0f} s")
    yield f"first line after {times[1]:.1f} s, then each {gap:.1f} s or sooner"
    if not bench.full:
        return
    for at, line in lines:
        if found := re.search(r"step (\d+)/\d+.* ETA (\d+):(\d\d)", line):
            left = 60 * int(found[2]) + int(found[3])
            end = max(t for t, text in lines if text.startswith("epoch"))
            require(abs(at + left - end) <= 0.2 * (end - at), f"ETA {left} s, it took {end - at:.0f} s")
            yield f"ETA at step {found[1]}: {left} s, it took {end - at:.0f} s"
            break
    else:
        require(False, "no ETA was shown")
