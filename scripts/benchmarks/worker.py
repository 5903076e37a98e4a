"""One contestant in a process of its own: builds, warms up, times steps, prints one line of JSON.

python -m benchmarks.worker '{"adapter": "torch", "compiled": false, "task": "training", "model": "vit_d192",
"dtype": "float32", "batch_size": null, "steps": 5, "warmup": 2}'
"""

import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.shapes import config_of, sized
from vit_jax.config import Config
from vit_jax.models import flops

ADAPTERS = {
    "vit_jax": "benchmarks.ours",
    "torch": "benchmarks.peer_torch",
    "keras": "benchmarks.peer_keras",
    "onnx": "benchmarks.peer_onnx",
}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _mfu(spec: dict[str, Any], config: Config, seconds: list[float]) -> float | None:
    """Share of the accelerator's published peak (Chowdhery et al. 2022); None on one that isn't known."""
    if spec["adapter"] == "vit_jax":
        import jax

        kind, count = jax.devices()[0].device_kind, jax.device_count()
    elif spec["adapter"] == "torch":
        import torch

        kind, count = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", 1
    else:
        return None
    work = flops.training(config.model) if spec["task"] == "training" else flops.forward(config.model)
    rate = config.train.batch_size * work / statistics.median(seconds)
    return flops.utilization(rate, kind, count, config.model.dtype)


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step, and what they cost. Steps are waited for one by one."""
    if spec["task"] == "pipeline":
        from benchmarks import pipelines

        return {"seconds": timed(pipelines.start(spec["adapter"], spec["batch_size"]), spec)}
    adapter = importlib.import_module(ADAPTERS[spec["adapter"]])
    if "sizes" in spec:
        config = sized(spec["sizes"])
    else:
        config = config_of(spec["model"], spec["batch_size"], spec["dtype"], spec.get("augment", False))
    build = adapter.inference if spec["task"] == "inference" else adapter.training
    began = time.perf_counter()
    step, params = build(config, spec["compiled"])
    for _ in range(spec["warmup"]):
        step()
    ready = time.perf_counter() - began
    cpu = _cpu_seconds()
    seconds = timed(step, {**spec, "warmup": 0})
    return {
        "seconds": seconds,
        "cpu_seconds_per_step": (_cpu_seconds() - cpu) / spec["steps"],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "ready_seconds": ready,
        "params": params,
        "accelerator_bytes": adapter.accelerator_bytes(),
        "mfu": _mfu(spec, config, seconds),
        "batch_size": config.train.batch_size,
    }


def timed(step: Callable[[], Any], spec: dict[str, Any]) -> list[float]:
    for _ in range(spec["warmup"]):
        step()
    seconds = []
    for _ in range(spec["steps"]):
        before = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - before)
    return seconds


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
