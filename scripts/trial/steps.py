"""The training step of a recipe: several steps in a call, augmentation's share, MFU, beside its predicted roofline.

python -m trial.steps --config=sprint --calls=1,20,5 [--predicted=FILE] [--rehearse]
"""

import argparse
import dataclasses
import statistics
import time

import jax
from benchmarks import ours

from trial.child import beside_prediction, predicted, say
from vit_jax.cli.config_files import read
from vit_jax.config import AugmentConfig, Config
from vit_jax.models import flops, resolve


def configured(name: str, steps_per_call: int, augmented: bool, dtype: str) -> Config:
    """A shipped config as its run resolves it, but for the data's mean and deviation."""
    config = read(name)
    statistics_of_pixels = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    augment = config.augment if augmented else AugmentConfig()
    return dataclasses.replace(
        config,
        augment=dataclasses.replace(augment, **statistics_of_pixels),
        model=dataclasses.replace(resolve(config.model, 10), dtype=dtype),
        train=dataclasses.replace(config.train, steps_per_call=steps_per_call),
    )


BLOCKS = 5


def measure(config: Config, seconds: float) -> tuple[float, float, int]:
    """The median seconds of a step over BLOCKS, those until the first step was done, and the calls in a block.

    The calls of a block, of about `seconds`, are started one after the other and only the last is waited for, as
    training does.
    """
    begun = time.perf_counter()
    call, _ = ours.training_with_program(config)
    call().block_until_ready()
    ready = time.perf_counter() - begun

    def block(calls: int) -> float:
        before = time.perf_counter()
        losses = [call() for _ in range(calls)]
        losses[-1].block_until_ready()
        return (time.perf_counter() - before) / calls

    calls = max(round(seconds / block(2)), 1)
    return statistics.median(block(calls) for _ in range(BLOCKS)) / config.train.steps_per_call, ready, calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--calls", default="1", help="steps in a call, one measurement each, in this order")
    parser.add_argument("--predicted")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    dtype, seconds = ("float32", 0.01) if args.rehearse else ("bfloat16", 0.6)
    first, *others = [int(count) for count in args.calls.split(",")]
    # Without augmentation second: the most that a part which is cut off can have told.
    with_augmentation = None
    for count, augmented in [(first, True), (first, False), *((count, True) for count in others)]:
        config = configured(args.config, count, augmented, dtype)
        step, ready, calls = measure(config, seconds)
        batch, kind = config.train.batch_size, jax.devices()[0].device_kind
        work = flops.training(config.model) * batch
        row = {"config": args.config, "batch": batch, "steps_per_call": count, "augmented": augmented}
        row |= {
            "ms_per_step": 1e3 * step,
            "images_per_second": batch / step,
            "calls_in_a_block": calls,
            "ready_seconds": ready,
        }
        row["mfu"] = flops.utilization(work / step, kind, jax.device_count(), dtype)
        if augmented and count == first:
            with_augmentation = step
            row |= beside_prediction(step, predicted(args.predicted, args.config, batch, kind))
        elif with_augmentation and not augmented:
            row["augmentation_share"] = 1 - step / with_augmentation
        elif with_augmentation:
            row["times_as_fast_as_first"] = with_augmentation / step
        say(**row)


if __name__ == "__main__":
    main()
