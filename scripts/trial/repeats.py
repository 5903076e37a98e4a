"""The deterministic preset bit for bit, and a run that is killed and goes on: both by the program, as a user runs it.

python -m trial.repeats --work=DIR [--rehearse]

One run goes straight to its end. Another is killed (SIGKILL) once it has saved, and the same command goes on. What both
have saved at the kill's step shows whether two processes compute the same bits; what they have at the end, whether
going on does.
"""

import argparse
import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

from trial.child import program, say

DETERMINISTIC = "--config.train.deterministic=true"
# (arguments, steps between checkpoints, steps).
# Two of the blocks of sprint, behind its convolutions: less to compile than all six.
FULL = (
    ("--config=sprint", "--config.model.depth=2", "--config.train.batch_size=256", "--config.train.steps_per_call=1"),
    20,
    100,
)
REHEARSAL = (("--config=debug", "--config.model.depth=1"), 4, 24)


def arguments(workdir: Path, size: tuple[tuple[str, ...], int, int]) -> list[str]:
    given, every, steps = size
    return [
        *given, f"--workdir={workdir}", DETERMINISTIC, "--config.data.name=fake",
        f"--config.train.length={steps} steps", "--config.data.validation=", "--config.data.test=",
        f"--config.checkpoint.every={every} steps", "--config.checkpoint.keep_latest=100",
    ]  # fmt: skip


def digest(workdir: Path, step: int) -> str:
    """sha256 of all arrays of a checkpoint, in the order of their paths."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").absolute())
    found = hashlib.sha256()
    for path, x in sorted((jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree)):
        found.update(path.encode() + np.asarray(x).tobytes())
    return found.hexdigest()


def finish(*args: str, environment: dict[str, str]) -> None:
    code = program(*args, environment=environment).wait()
    if code:
        raise SystemExit(f"the run ended with exit code {code}")


def kill_after(step: int, workdir: Path, args: list[str], environment: dict[str, str]) -> int:
    """Starts a run and kills it as soon as it has saved `step`; gives the last step that it saved."""
    process = program(*args, environment=environment)
    while process.poll() is None and not (workdir / "checkpoints" / str(step)).is_dir():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"the run was over (exit code {process.returncode}) before it could be killed")
    return max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    size, environment = REHEARSAL if args.rehearse else FULL, dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process only reads; the runs have the accelerator to themselves
    _, every, steps = size
    straight, resumed = args.work / "straight", args.work / "resumed"
    for workdir in (straight, resumed):  # of a call that was cut off
        shutil.rmtree(workdir, ignore_errors=True)
    finish(*arguments(straight, size), environment=environment)
    again = arguments(resumed, size)
    last = kill_after(every, resumed, again, environment)
    same = digest(straight, every) == digest(resumed, every)
    say(compared=f"state after {every} steps of two processes, {DETERMINISTIC}", tolerance="the same bits", held=same)
    finish(*again, environment=environment)
    ended = digest(straight, steps) == digest(resumed, steps)
    say(
        compared=f"state after {steps} steps: straight, and killed (SIGKILL) once step {last} was saved, then gone on",
        tolerance="the same bits", held=ended and last < steps, sha256=digest(straight, steps),
    )  # fmt: skip
    return int(not (same and ended and last < steps))


if __name__ == "__main__":
    raise SystemExit(main())
