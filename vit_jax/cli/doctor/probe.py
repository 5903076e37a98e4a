"""What JAX finds on this machine and whether it computes right, asked in a process of its own.

A library that can't be imported, a driver that hangs, and XLA's way of ending a program whose flags it doesn't know
then concern that process alone.
"""

import importlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

SIDE = 512  # of the matrices that are multiplied


class Probe(NamedTuple):
    """`error` says why nothing else is known; "" where JAX computes."""

    error: str = ""
    said: str = ""  # the end of what JAX logged
    platform: str = ""
    kinds: tuple[str, ...] = ()  # of each device
    capability: float | None = None  # the lowest compute capability of NVIDIA's GPUs
    deviation: float = 0.0  # the largest of any device's float32 matmul from float64, of the largest entry
    seconds: float = 0.0  # of a matmul on the slowest device


def probe(env: Mapping[str, str], timeout: float = 180.0) -> Probe:
    """Starts JAX under these environment variables, in a process of its own, and multiplies matrices on each device."""
    # Nothing is written, to the compilation cache or as a dump, and a run on the same GPU finds its memory free.
    flags = " ".join(flag for flag in env.get("XLA_FLAGS", "").split() if not flag.startswith("--xla_dump"))
    env = {**env, "XLA_FLAGS": flags, "JAX_DUMP_IR_TO": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from vit_jax.cli.doctor.probe import main; main()"],
            env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Probe(error=f"no answer within {timeout:.0f} s")
    except OSError as error:
        return Probe(error=f"no process can be started: {error}")
    said = _shortened(done.stderr)
    if done.returncode < 0:
        return Probe(error=f"ended by {signal.Signals(-done.returncode).name}: {said}")
    try:
        report = json.loads(done.stdout.splitlines()[-1])
        if not isinstance(report, dict) or not report.keys() <= set(Probe._fields):
            raise ValueError
    except (IndexError, ValueError):
        return Probe(error=f"ended with exit code {done.returncode}: {said}")
    return Probe(**report | {"said": said, "kinds": tuple(report.get("kinds", ()))})


def main() -> None:
    """What the process does: says what it found as JSON, in its last line."""
    print(json.dumps(_look()))


def _shortened(text: str) -> str:
    """The end of a log on one line: what went wrong comes last, without the stack of a process that aborted."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("@", "***"))]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= 400 else f"... {text[-400:]}"


def _look() -> dict[str, Any]:
    doing = "importing jax"
    try:
        importlib.import_module("jax")
        doing = "starting a device"
        found = _compute()
        # Versions that don't fit each other fail here.
        doing = "importing flax"
        importlib.import_module("flax.linen")
        doing = "importing optax"
        importlib.import_module("optax")
        doing = "importing orbax"
        importlib.import_module("orbax.checkpoint")
    except Exception as error:  # whatever a driver or another version of a library makes of it
        text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        return {"error": f"{doing} fails with {text[:400]}"}
    return found


def _compute() -> dict[str, Any]:
    import jax

    devices = jax.local_devices()
    a, b = np.random.RandomState(0).standard_normal((2, SIDE, SIDE)).astype(np.float32)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    multiply = jax.jit(lambda a, b: jax.numpy.matmul(a, b, precision="highest"))
    deviations, times = [], []
    for device in devices:
        operands = jax.device_put((a, b), device)
        times.append(min(_seconds(multiply, operands) for _ in range(4)))  # the first compiles
        deviations.append(np.abs(np.asarray(multiply(*operands)) - expected).max() / np.abs(expected).max())
    capabilities = [str(getattr(device, "compute_capability", "")) for device in devices]
    return {
        "platform": devices[0].platform,
        "kinds": [device.device_kind for device in devices],
        "capability": min((float(c) for c in capabilities if re.fullmatch(r"[\d.]+", c)), default=None),
        "deviation": float(np.max(deviations)),  # NaN where one is NaN
        "seconds": max(times),
    }


def _seconds(function: Any, operands: tuple) -> float:
    started = time.perf_counter()
    function(*operands).block_until_ready()
    return time.perf_counter() - started
