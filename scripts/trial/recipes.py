"""A recipe trained and tested once, by the program: sprint's 60 s, or as much of record's 600 s as there is time for.

python -m trial.recipes --config=sprint --train=60 --seed=0 --seconds=120 --work=DIR [--data=cifar10] [KEY=VALUE ...]

Without --train the recipe is run as it is, whatever it takes: article's 10 epochs.
"""

import argparse
import json
import shutil
from pathlib import Path

from trial.child import program, say

# Imports, compiling, validations, saving and the test, which config.train.clock="train" doesn't count.
BESIDES = 100.0
FIGURES = (
    "top1", "top1_flips", "top5", "loss", "steps", "epochs", "images_per_second", "mfu", "train_seconds",
    "compile_seconds", "total_seconds", "params", "dataset", "num_examples",
)  # fmt: skip


def trained_for(wanted: float, seconds: float, besides: float) -> float:
    """Seconds of training: those of the recipe, or fewer where the part has not so many. None left: SystemExit."""
    possible = min(wanted, float(int(seconds - besides)))
    if possible < min(wanted, 1):
        raise SystemExit(f"{seconds:.0f} s are too few: {besides:.0f} s go to all that isn't training")
    return possible


def name_of(config: str, length: float, wanted: float) -> str:
    """A shorter run is no result of the recipe, whose schedule follows its time."""
    return config if length == wanted else f"{config} for {length:g} s, not its {wanted:g} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--train", type=float, help="seconds of training that the recipe is for, if it has a clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True, help="that this part has in all")
    parser.add_argument("--besides", type=float, default=BESIDES, help="of them for all but training")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("keys", nargs="*", help="of the config, like model.depth=1")
    args = parser.parse_args()
    workdir = args.work / f"{args.config}_{args.seed}"
    shutil.rmtree(workdir, ignore_errors=True)  # of a call that was cut off
    keys, name = [f"seed={args.seed}", f"data.name={args.data}", *args.keys], args.config
    if args.train is not None:
        length = trained_for(args.train, args.seconds, args.besides)
        name = name_of(args.config, length, args.train)
        keys = [f"train.length={length:g} s", "train.clock=train", *keys]
    code = program(f"--config={args.config}", f"--workdir={workdir}", *(f"--config.{key}" for key in keys)).wait()
    if code:
        return code
    results = json.loads((workdir / "results.json").read_text())
    say(run=name, seed=args.seed, **{key: results[key] for key in FIGURES if results.get(key) is not None})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
