"""A step on 1 to 64 cores that aren't here, by simulation: one device's share of it, computed alone on one core.

It leaves out what devices exchange and that they share the memory's speed; and above the most devices, that each has
several cores for its matmuls. So the first makes a step slower than told, the last faster.

python -m benchmarks.cores '{"model": "vit_d192", "batch_size": null, "dtype": "float32", "cores": 16, "steps": 5,
"warmup": 2}' measures one number of cores.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from typing import Any

from benchmarks.child import one_core, result_of
from benchmarks.shapes import config_of
from benchmarks.worker import timed
from vit_jax.config import Config
from vit_jax.models import flops
from vit_jax.models.backend import Target
from vit_jax.steps.cpu import device_count, micro_batches

CORES = (1, 2, 4, 8, 16, 32, 64)


def share_of(config: Config, cores: int, fast_bfloat16: bool) -> tuple[Config, int]:
    """What one device computes of a step of a resolved config, as a config of its own; how many devices there are."""
    devices = device_count(config, flops.training(config.model), cores)
    target = Target("cpu", devices=devices, local_devices=devices, fast_bfloat16=fast_bfloat16)
    accumulate = micro_batches(config, target)
    train = dataclasses.replace(config.train, batch_size=config.train.batch_size // devices, accumulate=accumulate)
    return dataclasses.replace(config, train=train), devices


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of cores."""
    spec = {"model": args.model, "batch_size": args.batch, "dtype": args.dtype or "float32"}
    spec |= {"steps": args.steps, "warmup": args.warmup}
    found: dict[int, list[dict[str, Any]]] = {cores: [] for cores in CORES}
    for i in range(args.rounds):
        for cores in CORES if i % 2 == 0 else reversed(CORES):
            with one_core():
                result = result_of(
                    "benchmarks.cores", {**spec, "cores": cores}, environment={"JAX_NUM_CPU_DEVICES": "1"}
                )
            if "failed" in result:
                raise SystemExit(f"error: {cores} cores: {result['failed']}")
            found[cores].append(result)
            print(f"round {i + 1}: {cores} cores: {result['seconds']:.4f} s", file=sys.stderr, flush=True)
    alone = statistics.median(r["seconds"] for r in found[CORES[0]])
    rows = []
    for cores, results in found.items():
        seconds = statistics.median(r.pop("seconds") for r in results)
        rows.append({"cores": cores, **results[0], "seconds": seconds, "times_as_fast": alone / seconds})
    return rows


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """What a device of so many cores computes, and the median seconds that it takes here."""
    from benchmarks import ours
    from vit_jax.models.backend import target_at_hand

    config = config_of(spec["model"], spec["batch_size"], spec["dtype"])
    config, devices = share_of(config, spec["cores"], target_at_hand().fast_bfloat16)
    step, _ = ours.training(config, compiled=True)
    shares = {"devices": devices, "images_of_each": config.train.batch_size, "micro_batches": config.train.accumulate}
    return {**shares, "seconds": statistics.median(timed(step, spec))}


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(sys.argv[1]))), flush=True)
