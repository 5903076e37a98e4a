"""Experiment trackers: a run's config and figures in Weights & Biases, MLflow or Comet.

Where they lie, who may write there and what the project is called, each package takes from its own settings and
environment variables (WANDB_*, MLFLOW_*, COMET_*). A run that goes on, goes on there: tracker.json in its workdir says
which run it is.
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.runs.boards import Board
from vit_jax.schema import flat, to_dict
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import say

_PROJECT = "vit_jax"  # where the tracker's own settings name none
_FILE = "tracker.json"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is to know of a run."""

    name: str
    workdir: Path
    parameters: dict[str, Any]  # the config by its keys, "optim.learning_rate"

    def known_as(self, tracker: str) -> str | None:
        """The id that the tracker gave it at an earlier start; None for the first."""
        path = self.workdir / _FILE
        known = json.loads(path.read_text()) if path.is_file() else {}
        return known["id"] if known.get("tracker") == tracker else None

    def note(self, tracker: str, id: str) -> None:
        write_whole(self.workdir / _FILE, json.dumps({"tracker": tracker, "id": id}) + "\n")


class WandB:
    """A run of Weights & Biases (https://docs.wandb.ai/ref/python/init).

    Without a key, and where none of its servers answers, it is written into the workdir, for `wandb sync`.
    """

    def __init__(self, run: TrackedRun):
        import wandb

        about: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", _PROJECT),
            "name": run.name,
            "id": run.known_as("wandb"),
            "resume": "allow",
            "config": run.parameters,
            "dir": str(run.workdir),
            "settings": wandb.Settings(silent=True, console="off"),
        }
        if "WANDB_MODE" in os.environ or wandb.login(prompt=False):
            try:
                self._run = wandb.init(**about)
            except wandb.errors.CommError as error:
                say(f"Weights & Biases can't be reached ({error}).")
                self._run = wandb.init(**about, mode="offline")
        else:
            self._run = wandb.init(**about, mode="offline")
        run.note("wandb", self._run.id)
        if self._run.offline:
            say(f"Weights & Biases, offline: `wandb sync {Path(self._run.dir).parent}` sends the figures.")
        self._first = self._run.step  # it refuses the steps before

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if step >= self._first:
            self._run.log(dict(scalars), step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow (https://mlflow.org/docs/latest/tracking.html), in MLFLOW_TRACKING_URI or where it is without."""

    def __init__(self, run: TrackedRun):
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        known = run.known_as("mlflow")
        if known is None:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = self._client.get_experiment_by_name(project)
            where = experiment.experiment_id if experiment else self._client.create_experiment(project)
            known = self._client.create_run(where, run_name=run.name).info.run_id
            parameters = [Param(key, str(value)) for key, value in run.parameters.items()]
            for first in range(0, len(parameters), 100):  # as many as one call takes
                self._client.log_batch(known, params=parameters[first : first + 100])
            run.note("mlflow", known)
        else:
            self._client.update_run(known, status="RUNNING")
        self._id = known
        # What it has of earlier starts: an equal figure twice would be drawn twice.
        self._last = {
            name: max(metric.step for metric in self._client.get_metric_history(known, name))
            for name in self._client.get_run(known).data.metrics
        }

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        new = {name: value for name, value in scalars.items() if step > self._last.get(name, -1)}
        if new:
            self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in new.items()])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class Comet:
    """An experiment of Comet (https://www.comet.com/docs/v2/api-and-sdk/python-sdk/); offline without a key."""

    def __init__(self, run: TrackedRun):
        import comet_ml

        known, online = run.known_as("comet"), comet_ml.config.get_config("comet.api_key") is not None
        settings = comet_ml.ExperimentConfig(
            name=run.name,
            offline_directory=str(run.workdir),
            auto_metric_logging=False,
            auto_output_logging=False,
            log_code=False,
            parse_args=False,
            display_summary_level=0,
        )
        self._experiment = comet_ml.start(
            online=online,
            project_name=os.environ.get("COMET_PROJECT_NAME", _PROJECT),
            experiment_key=known,
            mode=None if known is None else "get" if online else "create",
            experiment_config=settings,
        )
        run.note("comet", self._experiment.get_key())
        self._experiment.log_parameters(run.parameters)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._experiment.log_metrics(dict(scalars), step=step)

    def close(self, finished: bool) -> None:
        self._experiment.end()


_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet_ml"}
_KINDS: dict[str, Callable[[TrackedRun], Board]] = {"wandb": WandB, "mlflow": MLflow, "comet": Comet}
NAMES = ("none", *_PACKAGES)


def check_installed(name: str) -> None:
    """Raises UserError for a tracker whose package isn't installed."""
    package = _PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(f"config.log.tracker={name!r} needs the package {package}: pip install 'vit-jax[{name}]'")


def open_tracker(name: str, workdir: Path, config: Config) -> Board:
    """The run of `workdir` in the tracker of this name, of an earlier start if there was one."""
    run = TrackedRun("/".join(workdir.parts[-2:]), workdir, flat(to_dict(config)))
    return _KINDS[name](run)
