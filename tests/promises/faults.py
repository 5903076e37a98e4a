"""Faults in a run: phases that announce themselves, last longer, or fail; as a context, or as a program.

python tests/promises/faults.py '{"events": FILE, "slow": {"saving": 0.3}, ...}' ARGUMENTS OF vit_jax.main
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Faults:
    """By the names of phases: data, compile, step, evaluation, saving, finishing; and of what they consist of.

    These are writing (of a state), sealing (its manifest), renaming (it into place), row (of metrics), json.
    """

    events: str | None = None  # a file that gets a line at the beginning of each phase, and for each connect()
    slow: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds more
    hang: dict[str, int] = dataclasses.field(default_factory=dict)  # at which beginning it computes for ever, in C
    # [errno, at which beginning]: the phase fails then
    fail: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def injected(faults: Faults) -> Iterator[None]:
    """Within, runs of this process have the faults."""
    import numpy as np
    import orbax.checkpoint

    from vit_jax.data import sources
    from vit_jax.evaluation.evaluate import Evaluator
    from vit_jax.runs import manifest, report
    from vit_jax.runs.checkpoints import Checkpoints
    from vit_jax.runs.folder import RunFolder
    from vit_jax.runs.metrics import MetricsFile
    from vit_jax.training import prepare
    from vit_jax.training.log import Log

    points = {
        "data": (sources, "load"),
        "compile": (prepare, "compile_phases"),
        "step": (Log, "put"),
        "evaluation": (Evaluator, "logits"),
        "saving": (Checkpoints, "_save"),
        "writing": (orbax.checkpoint.Checkpointer, "save"),
        "sealing": (manifest, "seal"),
        "renaming": (Checkpoints, "_put_in_place"),
        "row": (MetricsFile, "write"),
        "json": (RunFolder, "write"),
        "finishing": (report, "write_pictures"),
    }
    originals = {name: getattr(*point) for name, point in points.items()}
    counts = dict.fromkeys(points, 0)

    def faulty(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            announce(faults.events, name)
            while counts[name] == faults.hang.get(name):
                np.linalg.svd(np.ones((2000, 2000)) + np.eye(2000))  # Python's signal handlers can't run meanwhile
            time.sleep(faults.slow.get(name, 0.0))
            number, when = faults.fail.get(name, (0, 0))
            if counts[name] == when:
                raise OSError(number, os.strerror(number), f"{name} {when}")
            return originals[name](*args, **kwargs)

        return call

    for name, (owner, attribute) in points.items():
        setattr(owner, attribute, faulty(name))
    try:
        yield
    finally:
        for name, (owner, attribute) in points.items():
            setattr(owner, attribute, originals[name])


def announce(events: str | None, text: str) -> None:
    """Adds a line to the events file."""
    if events:
        with open(events, "a") as file:
            file.write(text + "\n")


def main() -> None:
    faults = Faults(**json.loads(sys.argv[1]))

    def hook(event: str, args: tuple) -> None:
        if event == "socket.connect":
            announce(faults.events, f"connect {args[1]}")

    sys.addaudithook(hook)
    sys.argv[1:2] = []
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from vit_jax.main import run

    with injected(faults):
        run()


if __name__ == "__main__":
    main()
