"""What a start finds in its workdir: nothing, a run to go on with, or one that is complete."""

from typing import Any

from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.evaluation import evaluate
from vit_jax.models.backend import Target
from vit_jax.runs import metrics, report, trained
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.system.progress import say
from vit_jax.training.checks import check_config


def found_in(run: RunFolder, config: Config, resume: str, target: Target) -> tuple[Config, bool, dict[str, Any] | None]:
    """The config to train with, which is that of the run in the folder, if any; whether that is done; its results."""
    if run.exists():
        if resume == "never":
            raise UserError(f"{run.path} already holds a run; choose another --workdir, or --resume=auto to go on")
        config = run.same_config(config)
        check_config(config, target)  # what the run has filled in fits the devices here, too
        complete, results = _at_the_end(run)
        if complete:
            say(f"{run.path} is already complete; nothing to do. Another --workdir trains anew. {run.longer()}")
            if results:
                report.say_results(run.path, results)
        return config, complete, results
    if (run.path / "checkpoints").exists():
        raise UserError(f"{run.path} has checkpoints but no config.json; bring it back or choose another --workdir")
    if resume == "must":
        raise UserError(f"{run.path} holds no run to resume; check --workdir, or --resume=auto to start one")
    return config, False, None


def _at_the_end(run: RunFolder) -> tuple[bool, dict[str, Any] | None]:
    """Whether a run has reached its end, its last checkpoint is whole and it was tested; and the test's results."""
    config, results = run.config(), None
    try:
        checkpoints = Checkpoints(run.path)
        step = checkpoints.resolve("latest")
        meta = checkpoints.meta(step)
        if not (step and meta["total_steps"] == step and meta["evaluated"]):
            return False, None
        spec = config.data.test or ""
        tested = "[" in spec or spec in run.read("data.json")["examples"]
        if tested and not config.train.overfit_one_batch:
            results = run.read("results.json")
            # Version 0.1.0 wrote an earlier evaluation there, too.
            if (results["steps"], results["selected"]) != (step, evaluate.SELECTED[trained.name_of(config)]):
                return False, None
        checkpoints.check(step)  # of a run that goes on, all are checked later
    except (UserError, KeyError):  # absent or damaged: what can be made again is made again
        return False, None
    return True, results


def set_damaged_aside(run: RunFolder, checkpoints: Checkpoints) -> None:
    """Raises UserError if a run that has come further than its start has no checkpoint left to go on from."""
    if not run.writes:
        return
    for line in checkpoints.set_damaged_aside():
        say(line)
    done = max((row["step"] for row in metrics.read(run.path)), default=0)
    if done and not checkpoints.steps():
        raise UserError(
            f"the run in {run.path} has come to step {done}, but none of its checkpoints is left; bring one back, or "
            "train anew in another --workdir"
        )
