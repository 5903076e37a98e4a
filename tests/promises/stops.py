"""P1 to P7: stopping, being killed, going on."""

import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from promises import streamed
from promises.faults import Faults
from promises.harness import (
    RUN,
    SAVES,
    TOTAL,
    Bench,
    Child,
    begins,
    call,
    digests,
    evaluation,
    last_row,
    latest,
    require,
    require_same,
    results,
    stopping_after,
)  # fmt: skip

PHASES = ("data", "compile", "step", "evaluation", "saving", "finishing")
_SLOW = {"data": 0.3, "compile": 0.3, "step": 0.03, "evaluation": 0.3, "saving": 0.2, "finishing": 0.5}


def p1(bench: Bench) -> Iterator[str]:
    """SIGTERM or SIGUSR1 in every phase: exit code 143 or 138 in time, no step lost, and the run goes on exactly."""
    workdir = bench.new()
    phases = bench.rng.sample(PHASES, 1) if not bench.full else [p for p in PHASES for _ in range(20)]
    for i, phase in enumerate(phases):
        signum = (signal.SIGTERM, signal.SIGUSR1)[i % 2]
        if latest(workdir) == TOTAL or (phase == "evaluation" and latest(workdir) >= TOTAL - 9):
            require(call_child(bench, workdir) == 0, "the run didn't end")
            require_same(workdir, bench.straight(1))
            workdir = bench.new()
        events = bench.new("events")
        events.parent.mkdir(parents=True)
        slow = _SLOW if phase != "finishing" else {"finishing": 0.5}
        faults = Faults(events=str(events), slow=slow)
        with Child(*RUN, f"--workdir={workdir}", faults=faults, log=bench.new("log")) as child:
            # Somewhere in the run, where it is not near its end: not always at its first step or save.
            count = bench.rng.randint(1, 3) if phase in ("step", "saving") and latest(workdir) < 10 else 1
            begun = child.wait_until(lambda e=events, p=phase, n=count: begins(e, p) >= n)
            require(begun, f"{phase} never began: {child.tail()}")
            time.sleep(bench.rng.uniform(0, slow[phase]))
            sent = time.monotonic()
            child.send(signum)
            code, seconds = child.wait(), time.monotonic() - sent
            require(code == 128 + signum, f"{phase}: exit code {code}; {child.tail()}")
            require("Traceback" not in child.printed(), f"{phase}: a traceback; {child.tail()}")
        require(seconds < 30, f"{phase}: {seconds:.0f} s to the exit")
        if phase != "data" or latest(workdir) >= 0:
            require(
                latest(workdir) == last_row(workdir), f"{phase}: {last_row(workdir)} steps, {latest(workdir)} saved"
            )
        yield f"{phase}: {seconds:.1f} s to the exit"
    require(call_child(bench, workdir) == 0, "the run didn't end")
    require_same(workdir, bench.straight(1))


def call_child(bench: Bench, workdir: Path, args: Sequence[str] = RUN) -> int:
    """Lets a run go on to its end, in a process of its own."""
    with Child(*args, f"--workdir={workdir}", log=bench.new("log")) as child:
        return child.wait()


def p2(bench: Bench) -> Iterator[str]:
    """The first Ctrl-C saves and exits with 130; a second one, even in a step that hangs, exits within 2 s."""
    for i in range(bench.times(1, 20)):
        hangs = bool(i % 2) or not bench.full
        workdir, events = bench.new(), bench.new("events")
        events.parent.mkdir(parents=True)
        faults = Faults(events=str(events), slow={"step": 0.03}, hang={"step": 5} if hangs else {})
        with Child(*RUN, f"--workdir={workdir}", faults=faults, log=bench.new("log")) as child:
            child.wait_until(lambda e=events: begins(e, "step") >= 5)
            time.sleep(0.05)
            child.send(signal.SIGINT)
            if hangs:
                time.sleep(0.3)
                require(child.process.poll() is None, "a hanging step ended by itself")
                child.send(signal.SIGINT)
            sent = time.monotonic()
            code = child.wait()
            seconds = time.monotonic() - sent
            require(code == 130, f"exit code {code}; {child.tail()}")
            require(seconds < (2 if hangs else 30), f"{seconds:.1f} s to the exit")
            require("Traceback" not in child.printed(), child.tail())
            require(not _group(child.process.pid), "a child process was left")
        require(latest(workdir) >= (0 if hangs else 4), "no checkpoint")
        yield f"{seconds:.2f} s to the exit"


def _group(pgid: int) -> list[str]:
    """The processes of a process group that still run after up to 5 s."""
    for _ in range(50):
        left = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[2] == str(pgid) and fields[0] != "Z":
                left.append(stat.parent.name)
        if not left:
            return []
        time.sleep(0.1)
    return left


def p3(bench: Bench) -> Iterator[str]:
    """kill -9 at any instant, every third inside a save: the same command goes on from the last save that had ended."""
    yield from _killed(bench, bench.times(2, 100), 5.0 if bench.full else 1.5, RUN, bench.straight(1))
    if bench.full:
        args = streamed.args_of(streamed.pictures(bench.new("pictures")), "auto")
        straight = bench.new()
        require(call_child(bench, straight, args) == 0, "the run didn't end")
        for what in _killed(bench, 20, 15.0, args, straight):  # TensorFlow takes seconds to start
            yield f"images decoded as needed: {what}"


def _killed(bench: Bench, times: int, within: float, args: Sequence[str], straight: Path) -> Iterator[str]:
    """Kills runs so many times, `within` so many seconds; raises Broken where what goes on isn't the straight run."""
    workdir = bench.new()
    for i in range(times):
        if latest(workdir) == TOTAL:
            require(call_child(bench, workdir, args) == 0, "the run didn't end")
            require_same(workdir, straight)
            workdir = bench.new()
        start, in_save, events = latest(workdir), i % 3 == 0, bench.new("events")
        events.parent.mkdir(parents=True)
        slow = {"step": 0.05, "saving": 0.1, "evaluation": 0.1}
        with Child(*args, f"--workdir={workdir}", faults=Faults(str(events), slow), log=bench.new("log")) as child:
            if in_save:
                count = bench.rng.randint(1, 3)
                child.wait_until(lambda e=events, n=count: begins(e, "saving") >= n)
                time.sleep(bench.rng.uniform(0, 0.13))
            else:
                time.sleep(bench.rng.uniform(0, within))
            before = last_row(workdir)
            child.send(signal.SIGKILL)
            code = child.wait()
            require(code in (-9, 0), f"exit code {code}; {child.tail()}")
        saved = latest(workdir)  # raises for one that is listed and damaged
        begun = [step for step in SAVES if step > start][: begins(events, "saving")]
        complete = max([start, *begun[:-1]])  # all saves but the one that it was killed in
        require(saved >= complete, f"killed after step {before}: {saved} is saved, {complete} had been")
        yield f"killed after step {before}{' in a save' if in_save else ''}, goes on from {saved}"
    require(call_child(bench, workdir, args) == 0, "the run didn't end")
    require_same(workdir, straight)
    require(not list((workdir / "checkpoints").glob(".*")), "a killed save was not cleared away")


def p4(bench: Bench) -> Iterator[str]:
    """Interrupted once or three times, anywhere: parameters, moments and every logged figure are the same bits."""
    import jax

    straight = bench.straight(jax.device_count())
    for i in range(bench.times(1, 20)):
        k = (1, 3)[i % 2]
        stops = set(bench.rng.sample(range(1, TOTAL), k))
        workdir, left = bench.new(), set(stops)
        with stopping_after(left):
            for _ in range(k):
                code, printed = call(*RUN, f"--workdir={workdir}")
                require(code == 138, f"stopped after {stops}: exit code {code}: {printed[-300:]}")
                step = max(stops - left)
                require(f"Stopped after step {step} of {TOTAL}; saved" in printed, printed[-300:])
            code, printed = call(*RUN, "--resume=must", f"--workdir={workdir}")
        require(code == 0 and f"Resuming after step {step}" in printed, printed[-300:])
        require_same(workdir, straight)
        yield f"stopped after {sorted(stops)}"


def p6(bench: Bench) -> Iterator[str]:
    """Exit code 0: the last step is there, loads, and scores again what was written down."""
    import jax

    for i in range(bench.times(1, 5)):
        workdir, steps = bench.new(), 7 * i or TOTAL
        if steps == TOTAL:
            shutil.copytree(bench.straight(jax.device_count()), workdir)
        else:
            args = [*RUN, f"--config.seed={i}", f"--config.train.length={steps} steps", "--config.eval.every=5 steps"]
            require(call(*args, f"--workdir={workdir}")[0] == 0, "the run failed")
        before = results(workdir)
        require(latest(workdir) == steps == before["steps"], "the last step is not saved")
        require(call("--mode=evaluate", f"--workdir={workdir}")[0] == 0, "the evaluation failed")
        require(results(evaluation(workdir)) == before, "the evaluation found something else")
        yield f"{before['steps']} steps"


def p7(bench: Bench) -> Iterator[str]:
    """A finished run, run again: done in 15 s, says so, changes nothing. A changed config is refused, with the diff."""
    import jax

    workdir = bench.new()
    shutil.copytree(bench.straight(jax.device_count()), workdir)
    before = digests(workdir)
    started = time.monotonic()
    code, printed = call(*RUN, f"--workdir={workdir}")
    require(code == 0 and "already complete" in printed, printed[-300:])
    require(time.monotonic() - started < 15, "it took over 15 s")
    require(digests(workdir) == before, "it changed the folder")
    yield "again"
    changes = ["seed=7", "optim.learning_rate=0.5", "model.depth=3", "train.length=31 steps", "augment.flip=false"]
    for change in changes[: bench.times(1, 5)]:
        code, printed = call(*RUN, f"--config.{change}", f"--workdir={workdir}")
        require(code == 2 and f"config.{change.split('=')[0]}" in printed, printed[-300:])
        require(digests(workdir) == before, "it changed the folder")
        yield change
