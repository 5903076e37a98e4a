"""Measures vit_jax beside its peers, and itself: the referee.

python scripts/benchmark.py --model=vit_d192                  one training step, every contestant
python scripts/benchmark.py --mode=inference --model=article  images/s and latency at batch 1 and 256
python scripts/benchmark.py --mode=pipeline                   data pipelines alone
python scripts/benchmark.py --mode=decode                     JPEGs to batches, with --peer_python for torchvision
python scripts/benchmark.py --mode=growth                     how a step's time grows with each size of the model
python scripts/benchmark.py --mode=startup                    from command to first step, cold and warm
python scripts/benchmark.py --mode=memory                     resident memory over 20 epochs
python scripts/benchmark.py --mode=augment --model=article    the step with and without its augmentation
python scripts/benchmark.py --mode=policies                   RandAugment and TrivialAugment alone beside a matmul
python scripts/benchmark.py --mode=profile --model=article    where the time of a step goes
python scripts/benchmark.py --mode=cpu                        matmuls by shape and number format, and a step's share
python scripts/benchmark.py --mode=attention                  attention alone, by each of its formulations
python scripts/benchmark.py --mode=cores                      a step on 1 to 64 cores, by simulation on one

Contestants run one after the other, each in a process of its own, in rounds (--rounds=N) that alternate between them;
a figure is the median over rounds, beside its range. Peers need the packages of the extra: pip install -e .[bench]
(Keras comes with TensorFlow); one that isn't installed is listed as absent. Run it with nothing else on the machine.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import (  # noqa: E402 - after the path
    attention,
    cores,
    decoding,
    growth,
    pipelines,
    policies,
    processor,
    profile,
    runs,
    table,
    training,
)
from benchmarks.shapes import MODELS  # noqa: E402

MODES: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "train": training.train,
    "inference": training.inference,
    "augment": training.augment,
    "policies": policies.measure,
    "cpu": processor.measure,
    "attention": attention.measure,
    "cores": cores.measure,
    "profile": profile.measure,
    "pipeline": pipelines.measure,
    "decode": decoding.measure,
    "growth": growth.measure,
    "startup": runs.startup,
    "memory": runs.memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="train")
    parser.add_argument("--model", choices=MODELS, default="vit_d192")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps",
        type=int,
        default=5,
        help="timed steps of a contestant in a round (10 times as many in pipeline, 20 in inference of one image)",
    )
    parser.add_argument("--warmup", type=int, default=2, help="steps before them, compilation included")
    parser.add_argument("--batch", type=int, help="images in a step (default: the model's own)")
    parser.add_argument("--contestants", help="only those whose name contains one of these, separated by commas")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="only contestants of this dtype")
    parser.add_argument("--data_dir", help="a prepared TFDS folder with CIFAR-10 (startup; else noise is trained on)")
    parser.add_argument("--peer_python", help="a Python that has torch and torchvision (decode)")
    parser.add_argument("--json", help='also write the rows there: {"rows": [...]}')
    args = parser.parse_args()
    if min(args.rounds, args.steps) < 1 or args.warmup < 0 or (args.batch is not None and args.batch < 1):
        parser.error("--rounds, --steps and --batch must be at least 1, --warmup at least 0")
    if args.mode == "decode":
        chosen, names = decoding.chosen(args), list(decoding.ADAPTERS)
    else:
        task = "inference" if args.mode == "inference" else "training"
        chosen = training.chosen(task, args.contestants, args.dtype)
        names = [c.name for c in training.CONTESTANTS]
    if not chosen:
        parser.error(f"no contestant's name contains {args.contestants!r}: {', '.join(names)}")
    if "GLIBC_TUNABLES" not in os.environ:
        # Huge pages for all, as scripts/train.sh has them for ours; glibc reads it when a program starts.
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    rows = MODES[args.mode](args)
    facts = table.machine()
    print(table.heading(args.mode, args, facts))
    print(table.table(rows))
    if args.json:
        report = {"mode": args.mode, "model": args.model, "rounds": args.rounds, **facts, "rows": rows}
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
    return int(all("absent" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
