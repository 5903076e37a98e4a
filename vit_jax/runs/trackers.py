"""Experiment trackers: a run's config and figures in Weights & Biases, MLflow or Comet.

Where they lie, who may write there and what the project is called, each package takes from its own settings and
environment variables (WANDB_*, MLFLOW_*, COMET_*). A run that goes on, goes on there: tracker.json in its workdir says
which run it is.
"""

import contextlib
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
_HERE = ("data.dir", "data.cache_dir")  # where things lie on this machine


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is to know of a run, and what tracker.json keeps of it: {"wandb": {"id": ..., "sent": {...}}}."""

    name: str
    workdir: Path
    parameters: dict[str, Any]  # the config by its keys, "optim.learning_rate"

    def known_as(self, tracker: str) -> str | None:
        """The id that the tracker gave it at an earlier start; None for the first."""
        return self._noted().get(tracker, {}).get("id")

    def sent_to(self, tracker: str) -> dict[str, int]:
        """The last step of each figure that the tracker got, as far as it was noted."""
        return dict(self._noted().get(tracker, {}).get("sent", {}))

    def note(self, tracker: str, id: str, sent: Mapping[str, int]) -> None:
        """Keeps both, for the next start."""
        noted = self._noted() | {tracker: {"id": id, "sent": dict(sent)}}
        write_whole(self.workdir / "tracker.json", json.dumps(noted, indent=1) + "\n")

    def _noted(self) -> dict[str, Any]:
        path = self.workdir / "tracker.json"
        return json.loads(path.read_text()) if path.is_file() else {}


def new_of(step: int, scalars: Mapping[str, float], sent: dict[str, int]) -> dict[str, float]:
    """Those that weren't `sent` at an earlier start, which is updated: an equal figure twice would be drawn twice."""
    new = {name: value for name, value in scalars.items() if step > sent.get(name, -1)}
    sent.update(dict.fromkeys(new, step))
    return new


class WandB:
    """A run of Weights & Biases (https://docs.wandb.ai/ref/python/init).

    Without a key, and where its server doesn't answer, it is written into the workdir, for `wandb sync`.
    """

    def __init__(self, run: TrackedRun):
        import wandb

        # Of the machine, only what the run itself logs: no packages, no git, no host.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        about: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", _PROJECT),
            "name": run.name,
            "id": run.known_as("wandb"),
            "resume": "allow",
            "config": run.parameters,
            "dir": str(run.workdir),
            "settings": quiet,
        }
        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False)
        try:
            self._board = wandb.init(**about, mode=None if online else "offline")
        except wandb.errors.CommError as error:
            say(f"Weights & Biases can't be reached ({error}).")
            self._board = wandb.init(**about, mode="offline")
        # Its own steps must grow from call to call, which those of an evaluation beside a late step don't.
        self._board.define_metric("*", step_metric="step")
        self._run, self._sent = run, run.sent_to("wandb")
        run.note("wandb", self._board.id, self._sent)
        if self._board.offline:
            say(f"Weights & Biases, offline: `wandb sync {Path(self._board.dir).parent}` sends the figures.")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if new := new_of(step, scalars, self._sent):
            self._board.log({"step": step, **new})

    def close(self, finished: bool) -> None:
        self._board.finish(exit_code=0 if finished else 1)
        self._run.note("wandb", self._board.id, self._sent)


class MLflow:
    """A run of MLflow (https://mlflow.org/docs/latest/tracking.html), in MLFLOW_TRACKING_URI or where it is without."""

    def __init__(self, run: TrackedRun):
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        known = run.known_as("mlflow")
        if known is not None:
            try:
                self._client.update_run(known, status="RUNNING")
            except MlflowException as error:
                say(f"MLflow doesn't know the run of an earlier start ({error}); it gets a new one.")
                known = None
        self._id = known or self._created(run)
        # What it has of earlier starts, also of one that was killed.
        self._sent = {
            name: max(metric.step for metric in self._client.get_metric_history(self._id, name))
            for name in self._client.get_run(self._id).data.metrics
        }

    def _created(self, run: TrackedRun) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(project)
        if experiment is None:
            with contextlib.suppress(MlflowException):  # another run has made it, in this moment
                self._client.create_experiment(project)
            experiment = self._client.get_experiment_by_name(project)
        created = self._client.create_run(experiment.experiment_id, run_name=run.name).info.run_id
        run.note("mlflow", created, {})
        parameters = [Param(key, str(value)) for key, value in run.parameters.items()]
        for first in range(0, len(parameters), 100):  # as many as one call takes
            self._client.log_batch(created, params=parameters[first : first + 100])
        return created

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        if new := new_of(step, scalars, self._sent):
            self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in new.items()])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class Comet:
    """An experiment of Comet (https://www.comet.com/docs/v2/api-and-sdk/python-sdk/); offline without a key."""

    def __init__(self, run: TrackedRun):
        import comet_ml

        online = comet_ml.config.get_config("comet.api_key") is not None
        # Of the machine, only what the run itself logs: no packages, no git, no host.
        settings = comet_ml.ExperimentConfig(
            name=run.name,
            offline_directory=str(run.workdir),
            auto_metric_logging=False,
            auto_output_logging=False,
            log_code=False,
            log_git_metadata=False,
            log_git_patch=False,
            log_env_details=False,
            parse_args=False,
            display_summary_level=0,
        )
        self._experiment = comet_ml.start(
            online=online,
            project_name=os.environ.get("COMET_PROJECT_NAME", _PROJECT),
            experiment_key=run.known_as("comet"),
            mode="get_or_create" if online else "create",
            experiment_config=settings,
        )
        self._run, self._sent = run, run.sent_to("comet")
        run.note("comet", self._experiment.get_key(), self._sent)
        self._experiment.log_parameters(run.parameters)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if new := new_of(step, scalars, self._sent):
            self._experiment.log_metrics(new, step=step)

    def close(self, finished: bool) -> None:
        self._experiment.end()
        self._run.note("comet", self._experiment.get_key(), self._sent)


# The package that each needs, and what opens it.
_TRACKERS: dict[str, tuple[str, Callable[[TrackedRun], Board]]] = {
    "wandb": ("wandb", WandB),
    "mlflow": ("mlflow", MLflow),
    "comet": ("comet_ml", Comet),
}
NAMES = ("none", *_TRACKERS)


def check_installed(name: str) -> None:
    """Raises UserError for a tracker whose package isn't installed."""
    if name == "none":
        return
    package, _ = _TRACKERS[name]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"config.log.tracker={name!r} needs the package {package}: pip install 'vit-jax[{name}]'")


def open_tracker(name: str, workdir: Path, config: Config) -> Board:
    """The run of `workdir` in the tracker of this name, of an earlier start if there was one."""
    parameters = {key: value for key, value in flat(to_dict(config)).items() if key not in _HERE}
    run = TrackedRun("/".join(workdir.parts[-2:]), workdir, parameters)
    _, opened = _TRACKERS[name]
    return opened(run)
