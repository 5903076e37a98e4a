"""One contestant in a process of its own: builds, warms up, times steps, prints one line of JSON.

python -m benchmarks.worker '{"adapter": "torch", "compiled": false, "task": "training", "model": "vit_d192",
"dtype": "float32", "batch_size": null, "steps": 5, "warmup": 2}'
"""

import importlib
import json
import resource
import sys
import time
from typing import Any

from benchmarks.shapes import config_of

ADAPTERS = {"vit_jax": "benchmarks.ours", "torch": "benchmarks.peer_torch", "keras": "benchmarks.peer_keras"}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step, and what they cost. Steps are waited for one by one."""
    adapter = importlib.import_module(ADAPTERS[spec["adapter"]])
    config = config_of(spec["model"], spec["batch_size"], spec["dtype"], spec.get("augment", False))
    build = {"training": adapter.training, "inference": adapter.inference}[spec["task"]]
    began = time.perf_counter()
    step, params = build(config, spec["compiled"])
    for _ in range(spec["warmup"]):
        step()
    ready = time.perf_counter() - began
    cpu, seconds, value = _cpu_seconds(), [], 0.0
    for _ in range(spec["steps"]):
        before = time.perf_counter()
        value = step()
        seconds.append(time.perf_counter() - before)
    return {
        "seconds": seconds,
        "cpu_seconds_per_step": (_cpu_seconds() - cpu) / spec["steps"],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "ready_seconds": ready,
        "params": params,
        "batch_size": config.train.batch_size,
        "value": value,
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
