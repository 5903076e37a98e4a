"""How our training step on a CPU grows faster with its cores: d192, as scripts/benchmark.py measures it.

python -m trial.cores [--rehearse]
"""

import argparse
import os
import statistics

from benchmarks.training import CONTESTANTS, needed

from trial.child import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    rehearse = parser.parse_args().rehearse
    os.environ |= {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as scripts/train.sh has it
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)  # a device for each core is what is measured
    cores = sorted(os.sched_getaffinity(0))
    model, steps = ("tiny", 2) if rehearse else ("vit_d192", 3)
    task = {"task": "training", "model": model, "batch_size": None, "steps": steps, "warmup": 2}
    alone: dict[str, float] = {}
    for count in [1] if rehearse else sorted({n for n in (1, 4, 8, len(cores)) if n <= len(cores)}):
        os.sched_setaffinity(0, cores[:count])  # the process that measures has it from this one
        for contestant in [c for c in CONTESTANTS if c.name in ("vit_jax", "vit_jax_bf16")]:
            seconds = statistics.median(needed(contestant, task)["seconds"])
            faster = alone.setdefault(contestant.dtype, seconds) / seconds
            say(model=model, dtype=contestant.dtype, cores=count, seconds_per_step=seconds, times_as_fast=faster)


if __name__ == "__main__":
    main()
