"""The same run with several seeds, one after the other, and what they say together.

WORKDIR/config.json     the config, with config.seeds
WORKDIR/seed_N/         a run's folder for each seed
WORKDIR/summary.json    mean, standard deviation and confidence interval of their results
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.models.backend import target_at_hand
from vit_jax.runs.folder import RunFolder, with_sizes
from vit_jax.schema import to_dict
from vit_jax.system.progress import percent, say, say_table
from vit_jax.training.checks import check_config

_PERCENT = ("top1", "top5", "top1_flips", "top5_flips")
_FIGURES = (*_PERCENT, "loss", "total_seconds", "train_seconds", "epochs")


def runs_of(config: Config, workdir: str | Path) -> list[tuple[Config, Path]]:
    """Config and folder of the run of each seed: config.seed and those after it."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [(dataclasses.replace(config, seed=s, seeds=1), Path(workdir) / f"seed_{s}") for s in seeds]


def train_each(
    config: Config, workdir: str, resume: str, started: float, train: Callable[[Config, str, str, float], Any]
) -> dict[str, Any]:
    """Trains each seed's run in its own folder, those that are complete left as they are, and sums up.

    `train(config, workdir, resume, started)` trains one; `resume` as there. The second and later runs begin in a
    process that has imported and compiled already, which `started` of the first counts.
    """
    check_config(config, target_at_hand())
    folder = RunFolder(workdir)
    is_new = not folder.exists()
    if not is_new:
        if folder.config().seeds == 1:
            raise UserError(f"{folder.path} holds the run of one seed; choose another --workdir for several")
        if resume == "never":
            raise UserError(f"{folder.path} already holds runs; choose another --workdir, or --resume=auto to go on")
        same = folder.same_config(dataclasses.replace(config, seeds=folder.config().seeds))
        config = dataclasses.replace(same, seeds=config.seeds)  # more of them may be asked for later
    elif resume == "must":
        raise UserError(f"{folder.path} holds no run to resume; check --workdir, or --resume=auto to start one")
    folder.create()
    folder.write("config.json", to_dict(dataclasses.replace(config, model=with_sizes(config.model))))
    for i, (one, path) in enumerate(runs_of(config, folder.path)):
        say(f"Seed {one.seed}, {i + 1} of {config.seeds}")
        try:
            train(one, str(path), "auto", started if i == 0 else time.monotonic())
        except UserError:
            if is_new and not any(RunFolder(path).exists() for _, path in runs_of(config, folder.path)):
                (folder.path / "config.json").unlink()  # nothing was trained: a corrected config is welcome
            raise
    return summarise(config, folder)


def summarise(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Writes summary.json from the results of all seeds, says it and gives it; {} where there was no test."""
    runs = [RunFolder(path) for _, path in runs_of(config, folder.path)]
    results = [run.read("results.json") for run in runs if (run.path / "results.json").is_file()]
    if not results:
        say("There is no test split, so there is nothing to sum up.")
        return {}
    shared = [key for key in _FIGURES if all(isinstance(found.get(key), float) for found in results)]
    figures = {key: spread([found[key] for found in results]) for key in shared}
    summary = {"seeds": [found["seed"] for found in results], **figures}
    folder.write("summary.json", summary)
    say_table(f"{results[0]['dataset']}, {results[0]['split']}, {len(results)} seeds", rows_of(figures))
    say(f"In {folder.path}: summary.json, and a folder for each seed")
    return summary


def rows_of(figures: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """What is said of summary.json: each figure with its interval."""
    rows = []
    for key, figure in figures.items():
        if key in _PERCENT:
            text = f"{percent(figure['mean'])} +- {100 * figure['sd']:.2f}"
            interval = f"{100 * figure['low']:.2f} to {100 * figure['high']:.2f}"
        else:
            text, interval = (
                f"{figure['mean']:.4g} +- {figure['sd']:.2g}",
                f"{figure['low']:.4g} to {figure['high']:.4g}",
            )
        rows.append((key.replace("_", " "), f"{text}, 95 % interval of the mean {interval}"))
    return rows


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of summary.json, by name."""
    return {key: figure for key, figure in summary.items() if key != "seeds"}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and the 95 % confidence interval of the mean (Student's t) of some values.

    A single value has no spread: its standard deviation is 0 and its interval itself.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return {"mean": mean, "sd": 0.0, "low": mean, "high": mean, "values": list(values)}
    from scipy.stats import t

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "values": list(values)}
