"""A measurement in a process of its own, whose last line "RESULT ..." is what it found (JSON). Imports nothing else."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Processes and threads that start within have one core between them, where the system knows of such a thing."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def result_of(
    module: str,
    spec: Mapping[str, Any],
    more_paths: Iterable[str] = (str(SCRIPTS.parent),),
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> dict[str, Any]:
    """What `python -m module spec` measured, or {"failed": its last words}; `more_paths`: after scripts/."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *more_paths])}
    process = subprocess.run(
        [python, "-m", module, json.dumps(spec)],
        env={**os.environ, **variables, **(environment or {})},
        capture_output=True,
        text=True,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith("RESULT ")]
    if process.returncode or not lines:
        return {"failed": (process.stderr.strip().splitlines() or [f"exit {process.returncode}"])[-1][:120]}
    return json.loads(lines[-1].removeprefix("RESULT "))
