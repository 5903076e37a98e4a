"""P8 to P13: checkpoints that are whole, or not there; full disks; folders that move."""

import errno
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from promises.faults import Faults
from promises.harness import (
    REPOSITORY,
    RUN,
    SAVES,
    TOTAL,
    Bench,
    Child,
    arrays,
    call,
    evaluation,
    last_row,
    latest,
    require,
    require_same,
    results,
    stopping_after,
)


def damaged(file: Path, how: str, where: int) -> None:
    """Flips a byte of a file, cuts it in half, empties or deletes it."""
    content = bytearray(file.read_bytes())
    if how == "flip":
        content[where % len(content)] ^= 0x10
        file.write_bytes(content)
    elif how == "delete":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2 if how == "cut" else 0])


def p8(bench: Bench) -> Iterator[str]:
    """Any damage to any file of the newest checkpoint is found: training falls back one, evaluation refuses."""
    import jax

    straight = bench.straight(jax.device_count())
    newest = straight / "checkpoints" / str(TOTAL)
    files = sorted(str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file())
    cases = [(name, how) for name in files for how in ("flip", "cut", "empty", "delete")]
    for name, how in cases if bench.full else bench.rng.sample(cases, 1):
        workdir = bench.new()
        shutil.copytree(straight, workdir)
        file = workdir / "checkpoints" / str(TOTAL) / name
        if file.stat().st_size < 2 and how == "cut":
            continue  # that is to empty it
        damaged(file, how, bench.rng.randrange(10**6))
        before = (workdir / "results.json").read_bytes()
        code, printed = call("--mode=evaluate", f"--workdir={workdir}")
        require(
            code == 2 and f"checkpoint {TOTAL}" in printed and "damaged" in printed, f"{name} {how}: {printed[-300:]}"
        )
        require("Traceback" not in printed, printed[-300:])
        written = (workdir / "evaluations").exists() or (workdir / "results.json").read_bytes() != before
        require(not written, "the refused evaluation wrote a result")
        code, printed = call(*RUN, f"--workdir={workdir}")
        require(code == 0 and f"checkpoint {TOTAL} is damaged" in printed, f"{name} {how}: {printed[-300:]}")
        require("Resuming after step 28" in printed, f"{name} {how}: {printed[-300:]}")
        require((workdir / "checkpoints" / f"{TOTAL}.damaged").is_dir(), "the damaged checkpoint is gone")
        require_same(workdir, straight)
        yield f"{name}: {how}"


def p9(bench: Bench) -> Iterator[str]:
    """A write that fails (I/O error, no permission, full disk) ends the run at once; the checkpoint before stays."""
    import jax

    straight = bench.straight(jax.device_count())
    numbers = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
    cases = [(point, when) for point in ("writing", "sealing", "renaming") for when in (1, 2, 3, 6, 10)]
    cases += [("row", when) for when in (1, 15, 36)] + [("json", when) for when in (1, 2, 3)]
    for i, (point, when) in enumerate(cases if bench.full else bench.rng.sample(cases[:15], 1)):
        number, workdir = numbers[i % 4], bench.new()
        # A step is longer than a save: the failure has time to be noticed before the next save.
        faults = Faults(fail={point: (number, when)}, slow={"step": 0.02})
        code, printed = call(*RUN, f"--workdir={workdir}", faults=faults)
        require(code == 1 and os.strerror(number) in printed, f"{point} {when}: exit code {code}: {printed[-300:]}")
        require("Traceback" not in printed, printed[-300:])
        if point in ("row", "json"):
            before = last_row(workdir) if point == "row" else (-1, -1, TOTAL)[when - 1]
            saved = max((step for step in SAVES if step < before), default=-1)
        else:
            saved = (-1, *SAVES)[when - 1]
            following = SAVES[min(when, len(SAVES) - 1)]  # the next save waits for this one
            require(last_row(workdir) <= following, f"{point} {when}: noticed only after step {last_row(workdir)}")
        require(latest(workdir) >= saved, f"{point} {when}: {latest(workdir)} is saved, {saved} was")
        code, printed = call(*RUN, f"--workdir={workdir}")
        require(code == 0, printed[-300:])
        require_same(workdir, straight)
        yield f"{errno.errorcode[number]} at {point} {when}"
    for kib in (300, 600, 1200) if bench.full else ():
        yield _on_a_small_disk(bench, kib)


def _on_a_small_disk(bench: Bench, kib: int) -> str:
    """Trains in a file system of so many KiB, mounted for one process and its children; filled up during the run."""
    script = """
        import pathlib, subprocess, sys, time
        sys.path[:0] = [sys.argv[1] + "/tests", sys.argv[1]]
        from promises.harness import RUN, latest
        disk = pathlib.Path(sys.argv[2])
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[3]}k", "tmpfs", disk], check=True)
        args = [sys.executable, "-m", "vit_jax.main", *RUN, "--config.checkpoint.keep_latest=1"]
        args += ["--config.checkpoint.keep_best=0", "--config.train.length=30000 steps", f"--workdir={disk}/run"]
        run = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while run.poll() is None and not (disk / "run/checkpoints/4").exists():
            time.sleep(0.01)
        with open(disk / "rest", "wb", buffering=0) as file:  # someone else fills the disk
            while run.poll() is None:
                try:
                    file.write(b"x" * 1024)
                except OSError:
                    time.sleep(0.1)
        printed = run.communicate(timeout=120)[0]
        print(run.returncode, latest(disk / "run"))
        print(printed[-600:])
    """
    disk = bench.new("disk")
    disk.mkdir(parents=True)
    program = "\n".join(line[8:] for line in script.splitlines())
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", program, str(REPOSITORY), str(disk), str(kib)],
        capture_output=True, text=True, timeout=180, start_new_session=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    if "unshare" in done.stderr and not done.stdout:
        return f"not tried: a disk of {kib} KiB, as this system lets no one mount"
    code, saved = (done.stdout.split() or ["none", "-1"])[:2]
    said = any(text in done.stdout for text in ("can't be saved", "can't be written", "MiB free", "No space"))
    require(code in ("1", "2") and said, f"{kib} KiB: {done.stdout[-400:]} {done.stderr[-300:]}")
    require("Traceback" not in done.stdout, done.stdout[-400:])
    require(code == "2" or int(saved) >= 0, f"{kib} KiB: the checkpoint before is gone: {done.stdout[-400:]}")
    if code == "2":
        return f"a disk of {kib} KiB: refused at the start"
    return f"a disk of {kib} KiB, filled up: exit code 1, checkpoint {saved} is whole"


def p10(bench: Bench) -> Iterator[str]:
    """A folder that can't be written, and a disk that is too small, are found before the first step."""
    started = time.monotonic()
    code, printed = call(*RUN, "--workdir=/proc/nowhere")
    require(code == 2 and "can't be written" in printed and time.monotonic() - started < 10, printed[-300:])
    yield "no permission"
    workdir = bench.new()
    code, printed = call(*RUN, f"--workdir={workdir}", faults=Faults(fail={"sealing": (errno.EIO, 1)}))
    require(code == 1 and "checkpoint 0 can't be saved" in printed and "First step" not in printed, printed[-300:])
    yield "the trial save fails"
    original = shutil.disk_usage
    shutil.disk_usage = lambda path: original(path)._replace(free=10**5)
    try:
        code, printed = call(*RUN, f"--workdir={bench.new()}")
    finally:
        shutil.disk_usage = original
    require(code == 2 and "MiB free" in printed and "First step" not in printed, printed[-300:])
    yield "0.1 MB free"


def p11(bench: Bench) -> Iterator[str]:
    """The newest and the best are kept apart: after ten worse evaluations both load. NaN is never the best."""
    import jax.numpy as jnp

    from vit_jax.config import CheckpointConfig
    from vit_jax.runs.checkpoints import Checkpoints
    from vit_jax.steps.state import TrainState
    from vit_jax.system.sharding import make_mesh

    for nan_at in range(1, 1 + bench.times(1, 12)):
        mesh, workdir = make_mesh(), bench.new()
        workdir.mkdir(parents=True)
        with Checkpoints(workdir, CheckpointConfig(keep_latest=1, keep_best=1)) as checkpoints:
            for step in range(1, 13):
                params = {"w": jnp.full((3,), float(step))}
                state = TrainState(jnp.int32(step), jnp.uint32(0), params, {}, {})
                value = math.nan if step == nan_at else 1 - step / 20
                checkpoints.save(state, {}, {"top1": value, "loss": 1.0})
            checkpoints.wait()
            best = 2 if nan_at == 1 else 1
            require(checkpoints.steps() == [best, 12], f"{checkpoints.steps()} are kept")
            require(checkpoints.resolve("best") == best and checkpoints.resolve("latest") == 12, "other names")
            for step in (best, 12):
                found = checkpoints.restore(step, {"params": params}, mesh)["params"]["w"]
                require((found == step).all(), f"checkpoint {step} holds another state")
        yield f"NaN at evaluation {nan_at}"


def p12(bench: Bench) -> Iterator[str]:
    """Trained on one number of devices, evaluated on another: the same predictions. Old checkpoints load."""
    import jax

    many = 8 if bench.full else jax.device_count()
    trained = bench.straight(many)
    for devices in (1, 2, 4)[: bench.times(1, 3)]:
        workdir = bench.new()
        shutil.copytree(trained, workdir)
        args = ("--mode=evaluate", f"--workdir={workdir}")
        with Child(*args, devices=devices, log=bench.new("log")) as child:
            require(child.wait() == 0, child.tail())
        found = evaluation(workdir)
        same = (found / "confusion.csv").read_text() == (trained / "confusion.csv").read_text()
        require(same and results(found)["top1"] == results(trained)["top1"], f"{devices} devices: other predictions")
        yield f"{many} devices, then {devices}"
    golden = REPOSITORY / "tests" / "golden"
    for release in sorted(golden.iterdir()):
        workdir = bench.new()
        shutil.copytree(release, workdir)
        code, printed = call("--mode=evaluate", f"--workdir={workdir}")
        require(code == 0, printed[-300:])
        found, expected = results(evaluation(workdir)), results(release)
        require(found["top1"] == expected["top1"], f"{release.name}: {found['top1']}, it was {expected['top1']}")
        require(abs(found["loss"] - expected["loss"]) < 1e-5, f"{release.name}: another loss")
        yield f"release {release.name}"


def p13(bench: Bench) -> Iterator[str]:
    """Relative paths, ~, blanks, other alphabets, links; and a run that was moved goes on."""
    import jax

    straight = bench.straight(jax.device_count())
    folder = bench.new("wörk dir, 模型")
    folder.mkdir(parents=True)
    link = folder / "link"
    (folder / "target").mkdir()
    link.symlink_to(folder / "target")
    relative = os.path.relpath(folder / "relative")
    names = [str(folder / "a b"), relative, str(link / "run"), str(folder / "$HOME 'x' \"y\"")]
    for name in names if bench.full else names[:1]:
        done = folder / "moved" / str(len(name))
        done.parent.mkdir(exist_ok=True)
        with stopping_after({13}):
            code, printed = call(*RUN, f"--workdir={name}")
        require(code == 138, printed[-300:])
        shutil.move(name, done)
        code, printed = call(*RUN, f"--workdir={done}")
        require(code == 0, printed[-300:])
        require_same(done, straight)
        yield name
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(folder)
    try:
        code, printed = call("--mode=evaluate", f"--workdir=~/{done.relative_to(folder)}")
    finally:
        os.environ["HOME"] = before or ""
    require(code == 0, printed[-300:])
    require(arrays(done).keys() == arrays(straight).keys(), "other arrays")
    yield "~"
