"""Trains a config with every combination of some values and seeds, and compares them on the validation split.

python scripts/sweep.py --config=configs/laptop.py --workdir=runs/sweep --seeds=0,1,2 \
  --grid="optim.learning_rate=0.01;0.02;0.04" --arm="" --arm="augment.cutout=8 train.label_smoothing=0.2"

Runs one after the other, each in a folder of its own; the same command goes on where it was stopped and leaves complete
runs as they are. The test split isn't touched (a run by the clock keeps no time for it and trains a little longer).
Other arguments go to each run: --config.data.dir=DIR.
"""

import argparse
import itertools
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vit_jax.runs import metrics
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import percent
from vit_jax.training.seeds import spread


@dataclass(frozen=True)
class Arm:
    """One combination: its overrides, "augment.cutout=8" each, in order."""

    overrides: tuple[str, ...]

    def name(self) -> str:
        return " ".join(self.overrides) or "as it is"

    def folder(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^\w.=+-]+", "_", self.name()).strip("_")


def arms_of(grids: list[str], together: list[str]) -> list[Arm]:
    """Each choice of a value of every grid ("key=a;b") with each arm ("key=a key='b c'"); raises ValueError for others.

    Also for two that are the same, or whose folders would be.
    """
    choices = []
    for grid in grids:
        key, found, values = grid.partition("=")
        if not found or not values:
            raise ValueError(f"--grid={grid!r}: write KEY=VALUE;VALUE, like optim.learning_rate=0.01;0.02")
        choices.append([f"{key}={value}" for value in values.split(";")])
    for arm in together:
        if wrong := [part for part in shlex.split(arm) if "=" not in part]:
            raise ValueError(f"--arm={arm!r}: write KEY=VALUE KEY=VALUE; found {wrong[0]!r}")
    arms = [Arm((*shlex.split(arm), *chosen)) for arm in together or [""] for chosen in itertools.product(*choices)]
    folders = [arm.folder() for arm in arms]
    if twice := [arm.name() for arm in arms if folders.count(arm.folder()) > 1]:
        raise ValueError(f"these can't be told apart: {', '.join(twice)}")
    return arms


class Stopped(Exception):
    """The run was stopped by a signal."""


def train(arm: Arm, seed: int, args: argparse.Namespace, rest: list[str]) -> float | None:
    """Trains one run unless it is complete; gives its last validation top-1, None if it failed.

    A signal that stops this program stops the run, which saves; raises Stopped then.
    """
    workdir = args.workdir / arm.folder() / f"seed_{seed}"
    overrides = [f"--config.{override}" for override in arm.overrides]
    command = [sys.executable, "-m", "vit_jax.main", f"--config={args.config}", f"--workdir={workdir}"]
    # Without a test split: what is chosen here is chosen on the validation images.
    command += [*rest, *overrides, "--config.data.test=", f"--config.seed={seed}", "--config.seeds=1"]
    run = subprocess.Popen([*command, "--config.log.tensorboard=false"], start_new_session=True)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, lambda number, _: run.send_signal(number))
    code = run.wait()
    if code in (130, 138, 143) or code < 0:
        raise Stopped
    if code:
        return None
    rows = [row for row in metrics.read(workdir) if row["split"] == args.split]
    return rows[-1]["top1"] if rows else None


def table(scores: dict[Arm, list[float | None]], split: str) -> str:
    """Markdown, the best first."""
    lines = [f"| changed | {split} top-1 | +- | seeds | failed |", "|---|---|---|---|---|"]
    finished = {arm: [score for score in found if score is not None] for arm, found in scores.items()}
    spreads = {arm: spread(found) for arm, found in finished.items() if found}
    for arm in sorted(scores, key=lambda arm: -spreads[arm]["mean"] if arm in spreads else 1):
        n, failed = len(finished[arm]), len(scores[arm]) - len(finished[arm])
        figures = f"{percent(spreads[arm]['mean'])} | {100 * spreads[arm]['sd']:.2f}" if n else "- | -"
        lines.append(f"| {arm.name()} | {figures} | {n} | {failed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--seeds", default="0", help="like 0,1,2")
    parser.add_argument("--grid", action="append", default=[], help="a key and its values: KEY=VALUE;VALUE")
    parser.add_argument("--arm", action="append", default=[], help="overrides that go together: KEY=VALUE KEY=VALUE")
    parser.add_argument("--split", default="validation", choices=["validation", "validation_ema"])
    args, rest = parser.parse_known_args()
    try:
        arms, seeds = arms_of(args.grid, args.arm), [int(seed) for seed in args.seeds.split(",")]
    except ValueError as error:
        parser.error(str(error))
    scores: dict[Arm, list[float | None]] = {arm: [] for arm in arms}
    args.workdir.mkdir(parents=True, exist_ok=True)
    try:
        for seed, arm in itertools.product(seeds, arms):  # seed by seed: what is there can be compared at any time
            print(f"--- {arm.name()}, seed {seed}", flush=True)
            scores[arm].append(train(arm, seed, args, rest))
            write_whole(args.workdir / "table.md", table(scores, args.split) + "\n")
    except Stopped:
        raise SystemExit("Stopped; the same command goes on from there.") from None
    print(table(scores, args.split))
    if any(None in found for found in scores.values()):
        raise SystemExit("Some runs failed: see above.")


if __name__ == "__main__":
    main()
