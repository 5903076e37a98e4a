"""What `import vit_jax` offers: training, evaluation and a researcher's pieces, from Python and from a notebook.

A config is a name ("quickstart", "laptop:attention"), a path to a config file, a ConfigDict or a Config; `overrides`
change it by key: {"optim.learning_rate": 1e-3}. What a person can mend is a UserError; nothing here ends the process or
touches its signals.
"""

import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from os import PathLike, fspath
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

from vit_jax.cli import config_files
from vit_jax.config import Config, from_config_dict
from vit_jax.errors import RunError, UserError
from vit_jax.evaluation import evaluate as evaluation
from vit_jax.evaluation.predict import Predictor
from vit_jax.pretrained import load
from vit_jax.pretrained.start import keys_of_model
from vit_jax.runs import metrics
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.results import Results, of_test, of_validation
from vit_jax.schema import with_overrides
from vit_jax.system.accelerators import be_quiet_without_accelerator
from vit_jax.system.compilation import use_cache
from vit_jax.system.jobs import explaining
from vit_jax.system.progress import say
from vit_jax.system.stop import Stopped, StopRequest
from vit_jax.system.tensorflow import settle_environment
from vit_jax.training import seeds
from vit_jax.training.loop import train
from vit_jax.training.machine import ready
from vit_jax.training.setup import Setup
from vit_jax.training.setup import setup as setup_of

__all__ = ["Predictor", "Results", "RunError", "Setup", "UserError", "evaluate", "fit", "load", "setup"]

AnyConfig: TypeAlias = str | PathLike[str] | ConfigDict | Config
Folder = str | PathLike[str]
Overrides = Mapping[str, Any]
Found = TypeVar("Found")

_NOTHING: Overrides = MappingProxyType({})

# Whatever is called first, a Predictor or a fit, JAX is told before it starts.
settle_environment()
be_quiet_without_accelerator()
use_cache()


def fit(config: AnyConfig, workdir: Folder, overrides: Overrides | None = None, *, resume: str = "auto") -> Results:
    """Trains a config in a folder, or goes on with the run there, and tests it: `vit-jax --config=... --workdir=...`.

    Gives what results.json says; without a test split, the last validation; of several seeds, summary.json. `resume` is
    "auto", "must" (there has to be a run) or "never". Ctrl-C or a notebook's stop button saves first, and the same call
    goes on from there; a second one leaves at once. Raises UserError, RunError and, once saved, KeyboardInterrupt.
    """
    started, overrides = time.monotonic(), overrides or _NOTHING
    if resume not in ("auto", "must", "never"):
        raise UserError(f"resume={resume!r} is not one of auto, must, never")
    chosen, folder, stop = _config(config, overrides), str(RunFolder(workdir).path), StopRequest()

    def work() -> Results:
        full = ready(chosen, folder, keys_of_model(overrides))
        with explaining():
            if full.seeds > 1:
                summary = seeds.train_each(full, folder, resume, started, partial(train, stop=stop))
                return Results(summary, f"{full.seeds} seeds", seeds.rows_of(seeds.figures_of(summary)))
            found = train(full, folder, resume, started, stop)
        if found is not None:
            return of_test(found)
        split = {"raw": "validation", "ema": "validation_ema"}[full.eval.params]
        rows = [row for row in metrics.read(RunFolder(folder).path) if row["split"] == split]
        return of_validation(rows[-1] if rows else None)

    return _stoppable(work, stop, "stopped after saving; the same call goes on from there")


def evaluate(workdir: Folder, checkpoint: str | int | None = None, overrides: Overrides | None = None) -> Results:
    """Tests a run's checkpoint, "best", "latest" or a step; by default the one that its config selects.

    `overrides` may change "data.test" (another split), "data.dir", "data.cache_dir", "eval.batch_size", "eval.flips"
    and "eval.params" ("raw" or "ema").
    What was found is also kept in the run's evaluations/. Raises UserError and RunError.
    """
    overrides, stop = overrides or _NOTHING, StopRequest()
    evaluation.check_overrides(overrides)

    def work() -> Results:
        ready(RunFolder(workdir).config(), None, trained=True)
        with explaining():
            name = None if checkpoint is None else str(checkpoint)
            return of_test(evaluation.evaluate(str(RunFolder(workdir).path), name, overrides, stop.check))

    return _stoppable(work, stop, "stopped; nothing is written")


def setup(config: AnyConfig, overrides: Overrides | None = None) -> Setup:
    """A config's data, model, optimizer, state and pure steps for a loop of one's own; nothing is written.

    Raises UserError for a config that can't be.
    """
    overrides = overrides or _NOTHING
    chosen = ready(_config(config, overrides), None, keys_of_model(overrides))
    return setup_of(chosen)


def _config(config: AnyConfig, overrides: Overrides) -> Config:
    if isinstance(config, ConfigDict):
        config = from_config_dict(config)
    elif not isinstance(config, Config):
        if not isinstance(config, (str, PathLike)):
            raise UserError(f"a config is a name, a path, a ConfigDict or a Config; found {config!r}")
        config = config_files.read(fspath(config))
    return with_overrides(config, overrides)


def _stoppable(work: Callable[[], Found], stop: StopRequest, interrupted: str) -> Found:
    """Does the work in a thread of its own, so that an interrupt of the main thread never falls into its midst.

    Python raises KeyboardInterrupt in the main thread alone, wherever that is; here it waits. Within another thread
    there is nothing to wait for.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: Future[Found] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # whatever it is, it is the caller's
            outcome.set_exception(error)

    # What is printed and drawn then belongs to the notebook's cell that called.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    try:
        thread.start()
        return outcome.result()
    except KeyboardInterrupt:
        stop.signum = signal.SIGINT
    say("Stopping: what there is to save is saved first. Another interrupt leaves at once.")
    with contextlib.suppress(Stopped):
        outcome.result()
    raise KeyboardInterrupt(interrupted)
