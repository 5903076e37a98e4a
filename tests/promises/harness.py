"""Runs to be tormented, as child processes that get real signals or in this process; and what to look at after."""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from promises.faults import Faults, injected
from vit_jax.main import main
from vit_jax.runs import metrics
from vit_jax.runs.checkpoints import Checkpoints

REPOSITORY = Path(__file__).resolve().parents[2]

# Every random part is on, so that a run that goes on would show any that isn't replayed.
RUN = (
    "--config=configs/debug.py",
    "--config.model.depth=1",
    "--config.model.dtype=float32",  # in every process, whatever its CPU is good at
    "--config.train.length=30 steps",
    "--config.eval.every=10 steps",
    "--config.checkpoint.every=4 steps",
    "--config.log.every=1 steps",
    "--config.model.mlp_dropout=0.1",
    "--config.augment.rotate=0.1",
)
TOTAL = 30  # steps
CLOCKED = ("images_per_second", "tflops_per_second", "time_to/", "wall_to/")  # how figures begin that the clock gives
SAVES = (0, 4, 8, 10, 12, 16, 20, 24, 28, 30)  # steps after which the run saves: the first, every 4th, evaluations


def free_address() -> str:
    """An address of this machine that is free: for the processes of a job to meet at."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


class Broken(Exception):
    """A promise didn't hold."""


def require(condition: Any, what: str) -> None:
    """Raises Broken unless the condition holds."""
    if not condition:
        raise Broken(what)


@dataclasses.dataclass
class Bench:
    """What the trials of a promise share: a folder of their own, how often to try, and random numbers."""

    folder: Path
    full: bool
    rng: random.Random
    straight: "StraightRuns"
    made: int = 0

    def times(self, sample: int, full: int) -> int:
        """How many trials to make."""
        return full if self.full else sample

    def new(self, name: str = "run") -> Path:
        """A path that isn't there yet."""
        self.made += 1
        return self.folder / f"{self.made}" / name


class Child:
    """The program in a process of its own, what it prints in a file."""

    def __init__(
        self, *args: str, devices: int = 1, faults: Faults | None = None, log: Path, cwd: Path = REPOSITORY, **env: str
    ):
        program = ["-m", "vit_jax.main"]
        if faults:
            program = [str(REPOSITORY / "tests/promises/faults.py"), json.dumps(dataclasses.asdict(faults))]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(REPOSITORY)} | env
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.started = log, time.monotonic()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *program, *args],
                cwd=cwd, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], seconds: float = 150.0) -> bool:
        """Returns when the condition holds, the process has ended, or time is up: whether it holds."""
        end = time.monotonic() + seconds
        while not (holds := bool(condition())) and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        return holds

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self, seconds: float = 200.0) -> int:
        """The exit code; Broken if there is none in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Broken(f"no exit within {seconds:.0f} s; {self.tail()}") from error

    def tail(self) -> str:
        return " | ".join(self.printed().splitlines()[-3:])[-400:]


class StraightRuns:
    """Finished runs of RUN that nothing interrupted: what the others are compared with. To be copied, not changed."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, devices: int) -> Path:
        """The workdir of the run on so many devices."""
        workdir = self._folder / str(devices)
        self._folder.mkdir(exist_ok=True)
        with open(self._folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other threads, and other processes with the same folder
            if not (workdir / "results.json").exists():
                log = self._folder / f"{devices}.log"
                with Child(*RUN, f"--workdir={workdir}", devices=devices, log=log) as child:
                    require(child.wait() == 0, child.tail())
        return workdir


def begins(events: Path, phase: str) -> int:
    """How often the phase has begun, as the events file says."""
    return events.read_text().split("\n").count(phase) if events.exists() else 0


def call(*args: str, faults: Faults | None = None) -> tuple[int, str]:
    """Runs the program in this process: (exit code, what it printed)."""
    text = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(text))
        stack.enter_context(contextlib.redirect_stderr(text))
        if faults:
            stack.enter_context(injected(faults))
        code = main(["vit-jax", *args])
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # not from the trials: in this process they use SIGUSR1
        raise KeyboardInterrupt
    return code, text.getvalue()


@contextlib.contextmanager
def stopping_after(steps: set[int], signum: int = signal.SIGUSR1) -> Iterator[None]:
    """Within, runs of this process get a signal at the end of each of these steps."""
    from vit_jax.training.log import Log

    original = Log.put

    def put(self: Log, step: int, *args: Any) -> None:
        original(self, step, *args)
        if step in steps:
            steps.discard(step)
            signal.raise_signal(signum)

    Log.put = put
    try:
        yield
    finally:
        Log.put = original


def rows(workdir: Path, split: str = "") -> list[dict[str, Any]]:
    """The metrics of a run, or of one of its splits, without what depends on the clock."""
    return [
        {k: v for k, v in row.items() if not k.startswith(CLOCKED)}
        for row in metrics.read(workdir)
        if split in ("", row["split"])
    ]


def results(workdir: Path) -> dict[str, Any]:
    """What results.json says of the model, without the clock."""
    found = json.loads((workdir / "results.json").read_text())
    return {
        k: found[k]
        for k in ("top1", "top5", "loss", "num_examples", "steps", "checkpoint", "calibration_error", "per_class")
    }


def evaluation(workdir: Path) -> Path:
    """The folder of the only evaluation of a run."""
    (folder,) = (workdir / "evaluations").iterdir()
    return folder


def arrays(workdir: Path, step: int = TOTAL) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their paths."""
    import jax
    import orbax.checkpoint as ocp

    checkpointer, folder = ocp.PyTreeCheckpointer(), workdir / "checkpoints" / str(step) / "state"
    whole = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), checkpointer.metadata(folder).item_metadata.tree
    )
    tree = checkpointer.restore(folder, restore_args=whole)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def require_same(workdir: Path, straight: Path) -> None:
    """Raises Broken unless a run is the uninterrupted one: each row once, each number to the last bit."""
    require(rows(workdir) == rows(straight), "the metrics differ from the uninterrupted run's")
    require(results(workdir) == results(straight), "the result differs from the uninterrupted run's")
    ours, theirs = arrays(workdir), arrays(straight)
    require(ours.keys() == theirs.keys(), "the states have other parts")
    for path, x in ours.items():
        require(x.tobytes() == theirs[path].tobytes(), f"{path} differs from the uninterrupted run's")


def latest(workdir: Path) -> int:
    """The newest checkpoint's step, its files checked; -1 if there is none."""
    checkpoints = Checkpoints(workdir)
    steps = checkpoints.steps()
    if steps:
        checkpoints.check(steps[-1])
    return steps[-1] if steps else -1


def last_row(workdir: Path) -> int:
    """The last step that metrics.jsonl knows."""
    return max((row["step"] for row in metrics.read(workdir)), default=0)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file in a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
