"""Training: the only loop over steps."""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from vit_jax.config import Config
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.errors import UserError
from vit_jax.evaluation import evaluate
from vit_jax.models.backend import Target, target_at_hand
from vit_jax.models.stems import grid_shape, image_shape
from vit_jax.pretrained.start import check_start
from vit_jax.runs import report, trackers, trained
from vit_jax.runs.checkpoints import Checkpoints, NotFinite, under_way
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.stored import is_spread
from vit_jax.steps import durations
from vit_jax.steps.clock import Clock
from vit_jax.steps.cpu import give_memory_back
from vit_jax.steps.phases import taught_by
from vit_jax.steps.schedules import TimedProgress
from vit_jax.steps.state import TrainState
from vit_jax.system import environment, jobs
from vit_jax.system.jobs import Peers
from vit_jax.system.laggards import Laggards
from vit_jax.system.progress import doing, say
from vit_jax.system.sharding import batch_sharding, put, put_local, replicated
from vit_jax.system.stop import Stopped, StopRequest
from vit_jax.system.watchdog import Watchdog
from vit_jax.training.checks import check_config
from vit_jax.training.found import found_in, set_damaged_aside
from vit_jax.training.log import Diverged, Log
from vit_jax.training.overfit import say_learned
from vit_jax.training.patience import Waiting
from vit_jax.training.prepare import Job, build, compared, meta_of, resolve_config

# What has to be done where a job's processes differ.
_ALIKE = "give all of them the same config and data, and a --workdir on a disk that all of them see"


def train(
    config: Config,
    workdir: str,
    resume: str,
    started: float,
    stop: StopRequest,
    peers: Peers | None = None,
) -> dict[str, Any] | None:
    """Trains `config` in `workdir`, from where the run there stopped, and tests the checkpoint that it selects.

    Gives the test's results, the content of results.json; None for a run without a test split and for one that
    overfits one batch, which isn't tested.

    `resume`: "auto" continues a run if there is one, "must" wants one, "never" refuses one. `started` is
    time.monotonic() at the start of the command. Of a job's processes the first writes. Raises UserError, RunError, and
    Stopped after saving.
    """
    entered = time.monotonic()
    target = target_at_hand()
    check_config(config, target)
    _check_job(config, target)
    run = RunFolder(workdir, writes=jobs.is_first())
    patience = 2.0 * peers.timeout if peers else None
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(patience, lambda: under_way(run.path)))
        if peers:  # the others would wait for one that leaves: what a signal means they settle at a step, together
            stack.enter_context(stop.deferred())
        with doing("Checking the run"):
            config, complete, results = found_in(run, config, resume, target)
        jobs.meet("read the run")  # before the first writes there
        if complete:
            return results
        trackers.check_installed(config.log.tracker)
        if config.init_from is not None and not run.exists():
            with doing("Checking the weights"):
                check_start(config)
        run.create()
        stack.enter_context(run.lock())
        with doing("Reading the data"):
            config, splits, teacher = resolve_config(config, run, target)
        # Before they compute anything together that depends on it.
        numbers = {
            "the data (sha256)": splits.sha256[:12],
            "the teacher (sha256)": teacher.sha256[:12] if teacher else "",
        }
        jobs.require_same({**numbers, **compared(config)}, _ALIKE)
        checkpoints = stack.enter_context(Checkpoints(run.path, config.checkpoint if run.writes else None))
        with doing("Checking the checkpoints"):
            set_damaged_aside(run, checkpoints)
        jobs.meet("checked the checkpoints")
        spent = {"imports": entered - started, "data": time.monotonic() - entered}
        job, state, clock, evaluated, waiting = build(config, target, run, splits, teacher, checkpoints, started, spent)
        jobs.require_same({"the step": f"{state.step}", "the evaluation": f"{evaluated}"}, _ALIKE)
        log = stack.enter_context(Log(job, int(state.step), evaluated, clock))
        with stop.deferred():
            state = _loop(job, state, evaluated, waiting, clock, log, checkpoints, stop, watchdog)
        log.trained()
        return _finish(job, state, checkpoints, clock, log, _check(stop, watchdog))


def _check_job(config: Config, target: Target) -> None:
    """Raises UserError for what several processes can't do together, and where they aren't alike."""
    if jax.process_count() == 1:
        return
    if durations.seconds_of(config.train.length, "config.train.length") is not None:
        raise UserError(
            f"config.train.length={config.train.length!r} is a time, and the clocks of a job's processes differ; give "
            "steps or epochs"
        )
    # Before they compile anything together: programs that differ would wait for each other in vain.
    alike = (target.platform, target.fast_bfloat16, target.slow_convolutions)
    programs = {**environment.programs(), "the kind of their devices": str(alike)}
    jobs.require_same(programs, "set up the same code and the same lock on machines of one kind")


def _check(stop: StopRequest, watchdog: Watchdog) -> Callable[[], None]:
    """What an evaluation calls before each batch."""

    def check() -> None:
        watchdog.beat()
        if jax.process_count() == 1:  # alone: others would wait for this one's part of the batch
            stop.check()

    return check


def _loop(
    job: Job,
    state: TrainState,
    evaluated: bool,
    waiting: Waiting,
    clock: Clock,
    log: Log,
    checkpoints: Checkpoints,
    stop: StopRequest,
    watchdog: Watchdog,
) -> TrainState:
    """Steps, figures, evaluations and checkpoints up to the last step; gives the state after it."""
    step, patience = int(state.step), job.config.train.patience
    saved, ended = step, job.plan.ended(step, clock) or waiting.over(patience)
    # The progress before the last call, None after a pause, the call's steps, and how far one took the run.
    before, done, per_step = None, 1, 0.0
    feed, vote, laggards = _feed(job, step), jobs.StopVote(job.mesh), Laggards()

    def save(scores: dict[str, float] | None) -> None:
        if not (job.run.writes or is_spread(state)):
            return
        log.sync()
        try:
            total = job.plan.steps_in_all(step, ended)
            checkpoints.save(state, meta_of(total, job.splits, job.teacher, clock, evaluated, waiting), scores)
        except NotFinite as error:
            raise Diverged(f"{error} ({log.last()})") from error

    try:
        while True:
            checkpoints.poll()
            ended = job.plan.ended(step, clock) or waiting.over(patience)
            if (ended or step in job.due["eval"]) and not evaluated:
                log.flush()
                clock.pause()
                if jax.process_count() > 1:
                    checkpoints.wait()  # else the first process is slow by its writing
                for line in laggards.compare():
                    say(line)
                scores = _evaluate(job, state, step, log, _check(stop, watchdog))
                evaluated, state = True, _without_totals(job, state)
                waiting = waiting.after(scores["top1"]) if scores else waiting
                # That may have taken what was left of the time, or have been one validation too many.
                ended = job.plan.ended(step, clock) or waiting.over(patience)
                save(scores)
                saved, before = step, None
                give_memory_back()
                laggards.resume()
            elif step in job.due["checkpoint"] and step != saved:
                log.flush()
                clock.pause()
                save(None)
                saved, before = step, None
            if signum := vote(stop.signum):
                raise Stopped(signum)
            if ended:
                if not step:
                    raise UserError(job.plan.too_short(clock))
                if waiting.over(patience) and not job.plan.ended(step, clock):
                    what = f"No better validation top-1 in {waiting.validations} evaluations"
                    say(f"{what}: ended after {job.plan.say(step)}.")
                if job.plan.seconds is not None:
                    checkpoints.wait()
                    if (meta := checkpoints.meta(step))["total_steps"] != step:  # saved before the time was over
                        save(meta["scores"])
                break
            clock.resume()
            dispatched, progress = time.monotonic(), job.plan.progress(step, clock)
            count, phase = job.steps_in_a_call(step), job.phase_at(progress)
            step_fn = phase.step_fn if count == 1 else phase.steps_fn
            per_step = per_step if before is None else (progress - before) / done
            with laggards.reading():
                batch = next(feed)
            state, figures = step_fn(state, batch, _timed(job, progress, per_step), *taught_by(job.teacher))
            step, before, done, evaluated = step + count, progress, count, False
            log.put(step, figures, dispatched, phase.flops_per_image)
            watchdog.beat()
    except Stopped:
        log.flush()
        if step != saved:
            save(None)
        with doing("Saving"):
            checkpoints.wait()
        jobs.meet("saved")  # none leaves the job before
        say(f"Stopped after {job.plan.say(step)}; saved. The same command goes on from there.")
        raise
    with doing("Saving"):
        checkpoints.wait()
    jobs.meet("saved the last step")
    return state


def _timed(job: Job, progress: float, per_step: float) -> TimedProgress | None:
    """What a step of a run by the clock is told of its progress; None of other runs."""
    if job.plan.seconds is None:
        return None
    return TimedProgress(*(put(np.asarray(x, np.float32), replicated(job.mesh)) for x in (progress, per_step)))


def _feed(job: Job, first: int) -> Iterator[Any]:
    """What the step functions take, call after call from `first` on; streamed batches go to the device two ahead."""
    if isinstance(job.pipeline, DevicePipeline):
        yield from itertools.repeat(job.pipeline)
        return
    if job.config.train.overfit_one_batch:
        yield from itertools.repeat(put_local(job.pipeline.batch_at(job.config.seed, 0), batch_sharding(job.mesh)))
        return
    ahead: deque = deque()
    for batch in job.pipeline.stream(job.config.seed, first):
        ahead.append(put_local(batch, batch_sharding(job.mesh)))
        if len(ahead) > 2:
            yield ahead.popleft()


def _evaluate(job: Job, state: TrainState, step: int, log: Log, check: Callable[[], None]) -> dict[str, float] | None:
    """Logs the train metrics since the last evaluation and those of the validation split.

    Returns the latter, of the parameters that the config selects by.
    """
    totals, rows, scores = jax.tree.map(float, state.totals), [], None
    if totals["count"]:  # not if every step since was left out
        seen = {name: totals[name] / totals["count"] for name in ("loss", "top1", "top5")}
        rows.append({"step": step, "split": "train_epoch", **seen})
    if job.splits.validation is not None:
        images, labels = job.splits.validation
        every = {"raw": ("validation", state.params), "ema": ("validation_ema", state.ema)}
        with doing("Validating"):
            for kind, (split, params) in every.items():
                if params is not None:
                    found = evaluate.score(job.evaluator.logits(params, images, check), labels)
                    rows.append({"step": step, "split": split, **found})
                    scores = found if kind == job.config.eval.params else scores
    log.evaluation(step, rows)
    return scores


def _without_totals(job: Job, state: TrainState) -> TrainState:
    # One buffer each: the step gives them up (donates them) one by one.
    zeros = {name: put(np.zeros((), np.float32), replicated(job.mesh)) for name in state.totals}
    return state.replace(totals=zeros)


def _finish(
    job: Job, state: TrainState, checkpoints: Checkpoints, clock: Clock, log: Log, check: Callable[[], None]
) -> dict[str, Any] | None:
    """Pictures, and the test of the selected checkpoint: what results.json says."""
    if job.run.writes:
        size, grid = image_shape(job.module.cfg)[:2], grid_shape(job.module.cfg)
        with doing("Drawing"):
            report.write_pictures(job.run.path, job.splits.train.images[0], size, grid)
    if job.config.train.overfit_one_batch:
        say_learned(job, state, check)
        return None
    if job.splits.test is None:
        say("There is no test split, so there is no test.")
        return None
    step, selected = checkpoints.resolve(name := trained.name_of(job.config)), evaluate.SELECTED[name]
    jobs.require_same({"the checkpoint to test": f"{step}"}, _ALIKE)
    results, matrix = evaluate.test(
        job.run, job.config, checkpoints, step, selected, job.splits.test, job.evaluator, job.module, job.mesh, check
    )
    results["total_seconds"] = clock.totals()["wall"]
    log.tested(results)
    if job.run.writes:
        report.write_results(job.run.path, results, matrix, job.run.read("data.json")["classes"])
    report.say_results(job.run.path, results)
    return results
