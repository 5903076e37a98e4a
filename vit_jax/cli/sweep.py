"""A config with every combination of some values and seeds, compared on the validation split.

Runs one after the other, each in a process and a folder of its own; the same command goes on where it was stopped and
leaves complete runs as they are. The test split isn't touched (a run by the clock keeps no time for it and trains a
little longer).
"""

import contextlib
import itertools
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_jax.config import Config
from vit_jax.errors import RunError, UserError
from vit_jax.models.backend import Target
from vit_jax.pretrained.start import keys_of_model, with_model
from vit_jax.runs import metrics
from vit_jax.schema import typed, with_overrides
from vit_jax.steps.partition import without_mesh
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import percent, say
from vit_jax.system.stop import StopRequest
from vit_jax.training.checks import check_config
from vit_jax.training.seeds import spread

# Exit codes of a run that was stopped (system/stop.py).
_STOPPED = tuple(128 + number for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM))


@dataclass(frozen=True)
class Arm:
    """One combination: its overrides, "augment.cutout=8" each, in order."""

    overrides: tuple[str, ...]

    def name(self) -> str:
        return " ".join(self.overrides) or "as it is"

    def folder(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^\w.=+-]+", "_", self.name()).strip("_")

    def values(self) -> dict[str, Any]:
        """The overrides as values of the config's keys; raises UserError for a key that there isn't."""
        pairs = [override.split("=", 1) for override in self.overrides]
        return {key: typed(Config, key, text) for key, text in pairs}


def arms_of(grids: list[str], together: list[str]) -> list[Arm]:
    """Each choice of a value of every grid ("key=a;b") with each arm ("key=a key='b c'"); raises UserError for others.

    Also for two that are the same, or whose folders would be.
    """
    choices = []
    for grid in grids:
        key, found, values = grid.partition("=")
        if not found or not values:
            raise UserError(f"--grid={grid!r}: write KEY=VALUE;VALUE, like optim.learning_rate=0.01;0.02")
        choices.append([f"{key}={value}" for value in values.split(";")])
    settings = [_setting(arm) for arm in together or [""]]
    arms = [Arm((*setting, *chosen)) for setting in settings for chosen in itertools.product(*choices)]
    folders = [arm.folder() for arm in arms]
    if twice := [arm.name() for arm in arms if folders.count(arm.folder()) > 1]:
        raise UserError(f"these can't be told apart: {', '.join(twice)}")
    return arms


def _setting(arm: str) -> list[str]:
    """ "a=1 b='c d'" -> ["a=1", "b=c d"]; raises UserError for another form."""
    try:
        parts = shlex.split(arm)
    except ValueError as error:
        raise UserError(f"--arm={arm!r}: {str(error).lower()}; write KEY=VALUE KEY='A VALUE'") from error
    if wrong := [part for part in parts if "=" not in part]:
        raise UserError(f"--arm={arm!r}: write KEY=VALUE KEY=VALUE; found {wrong[0]!r}")
    return parts


def train(arm: Arm, seed: int, given: Sequence[str], workdir: Path, split: str, stop: StopRequest) -> float | None:
    """Trains one run unless it is complete; gives its last validation top-1, None if it failed.

    A signal that stops this program stops the run, which saves; raises Stopped then.
    """
    workdir = workdir / arm.folder() / f"seed_{seed}"
    overrides = [f"--config.{override}" for override in arm.overrides]
    # Without a test split: what is chosen here is chosen on the validation images.
    own = ["--config.data.test=", f"--config.seed={seed}", "--config.seeds=1", "--config.log.tensorboard=false"]
    command = [sys.executable, "-m", "vit_jax.main", f"--workdir={workdir}", *given, *overrides, *own]
    with stop.deferred():
        run, told = subprocess.Popen(command, start_new_session=True), False
        stop.before_leaving = run.kill  # a second Ctrl-C: it goes on from its last save, another time
        while run.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(0.2)
            if stop.signum and not told:
                run.send_signal(stop.signum)
                told = True
        stop.before_leaving = None
    if stop.signum:
        say("Stopped; the same command goes on from there.")
    stop.check()
    if run.returncode < 0 or run.returncode in _STOPPED:
        raise RunError(f"{arm.name()}, seed {seed}, was stopped from outside; the same command goes on from there")
    if run.returncode:
        return None
    rows = [row for row in metrics.read(workdir) if row["split"] == split]
    return rows[-1]["top1"] if rows else None


def _check_scored(config: Config, split: str) -> None:
    """Raises UserError for a config whose runs have no score on `split`."""
    if config.data.validation == "" or config.train.overfit_one_batch:
        raise UserError("its runs aren't validated; a sweep needs config.data.validation, and no overfit_one_batch")
    if split == "validation_ema" and config.train.ema is None:
        raise UserError("--split=validation_ema needs config.train.ema")


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


def sweep(
    config: Config,
    given: Sequence[str],
    workdir: Path,
    seeds: Sequence[int],
    arms: Sequence[Arm],
    split: str,
    stop: StopRequest,
) -> None:
    """Trains every arm with every seed in `workdir`, says a table of their scores on `split` and keeps it as table.md.

    `given` are --config and its keys as typed, which each run is given; `config` is what they make. Raises UserError
    for an arm that can't be or has no such score, before any run starts, Stopped, and RunError if a run failed.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={','.join(map(str, seeds))} names a seed twice, which is one run; give each once")
    # Not the devices at hand: to ask for them would take an accelerator's memory away from the runs.
    anywhere = Target("gpu")
    for arm in arms:
        try:
            changed = arm.values()
            made = with_model(with_overrides(config, changed), None, keys_of_model(changed))
            check_config(without_mesh(made), anywhere)
            _check_scored(made, split)
        except UserError as error:
            raise UserError(f"{arm.name()}: {error}") from error
    scores: dict[Arm, list[float | None]] = {arm: [] for arm in arms}
    workdir.mkdir(parents=True, exist_ok=True)
    for seed, arm in itertools.product(seeds, arms):  # seed by seed: what is there can be compared at any time
        say(f"--- {arm.name()}, seed {seed}")
        scores[arm].append(train(arm, seed, given, workdir, split, stop))
        write_whole(workdir / "table.md", table(scores, split) + "\n")
    say(table(scores, split))
    if any(None in scored for scored in scores.values()):
        raise RunError("some runs failed: see above")
