"""Training: the only loop over steps."""

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vit_jax import evaluate, metrics, report
from vit_jax.checkpoint import Checkpoints
from vit_jax.checks import check_config
from vit_jax.config import Config
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.errors import UserError
from vit_jax.models.stems import grid_size
from vit_jax.prepare import Job, build, resolve_config
from vit_jax.progress import TrainingBar, percent, say
from vit_jax.run import RunFolder
from vit_jax.sharding import batch_sharding, put, put_local, replicated
from vit_jax.state import TrainState
from vit_jax.stop import Stopped, StopRequest


class Diverged(Exception):
    """The loss or the gradient is NaN or infinite."""


def train(config: Config, workdir: str, resume: str, started: float) -> None:
    """Trains `config` in `workdir`, from where the run there stopped, and tests the checkpoint that it selects.

    `resume`: "auto" continues a run if there is one, "must" wants one, "never" refuses one. `started` is
    time.monotonic() at the start of the command. Raises UserError, Diverged, and Stopped after saving.
    """
    entered = time.monotonic()
    check_config(config, jax.device_count())
    run = RunFolder(workdir)
    if run.exists():
        if resume == "never":
            raise UserError(f"{run.path} already holds a run; choose another --workdir, or --resume=auto to go on")
        config = run.same_config(config)
        check_config(config, jax.device_count())  # what the run has filled in fits the devices here, too
        if _is_complete(run):
            say(f"{run.path} is already complete; nothing to do. Choose another --workdir to train anew.")
            report.say_results(run.path, run.read("results.json"))
            return
    elif (run.path / "checkpoints").exists():
        raise UserError(f"{run.path} has checkpoints but no config.json; bring it back or choose another --workdir")
    elif resume == "must":
        raise UserError(f"{run.path} holds no run to resume; check --workdir, or --resume=auto to start one")
    run.create()
    with run.lock(), StopRequest() as stop:
        config, parts = resolve_config(config, run)
        stop.check()
        with Checkpoints(run.path, config.checkpoint) as checkpoints:
            spent = {"imports": entered - started, "data": time.monotonic() - entered}
            job, state, clock, evaluated = build(config, run, parts, checkpoints, started, spent)
            _loop(job, state, evaluated, clock, checkpoints, stop)
            _finish(job, checkpoints, stop)


def _is_complete(run: RunFolder) -> bool:
    if not (run.path / "results.json").exists():
        return False
    results = run.read("results.json")
    with Checkpoints(run.path) as checkpoints:
        steps = checkpoints.steps()
        meta = checkpoints.meta(steps[-1]) if steps else {}
    # results.json may also be of an evaluation before the end.
    last = bool(steps) and meta["total_steps"] == steps[-1] == results["steps"]
    return last and meta["evaluated"] and results["selected"] == evaluate.SELECTED[evaluate.name_of(run.config())]


def _loop(
    job: Job, state: TrainState, evaluated: bool, clock: metrics.Clock, checkpoints: Checkpoints, stop: StopRequest
) -> None:
    """Steps, figures, evaluations and checkpoints up to the last step."""
    step = saved = int(state.step)
    feed = _feed(job, step)
    with _Log(job, step, evaluated, clock) as log:

        def save(scores: dict[str, float] | None) -> None:
            meta = {"evaluated": evaluated, "clock": clock.totals(), "total_steps": job.total}
            meta["num_train"] = len(job.parts.train.labels)
            checkpoints.save(state, meta, scores)

        try:
            while True:
                if step in job.due["eval"] and not evaluated:
                    log.flush()
                    scores = _evaluate(job, state, step, clock, log, stop)
                    evaluated, state = True, _without_totals(job, state)
                    save(scores)
                    saved = step
                elif step in job.due["checkpoint"] and step != saved:
                    log.flush()
                    clock.pause()
                    save(None)
                    saved = step
                stop.check()
                if step == job.total:
                    break
                clock.resume()
                dispatched = time.monotonic()
                count = _steps_in_a_call(job, step)
                state, figures = (job.step_fn if count == 1 else job.steps_fn)(state, next(feed))
                step, evaluated = step + count, False
                log.put(step, figures, dispatched)
        except Stopped:
            log.flush()
            if step != saved:
                save(None)
            checkpoints.wait()
            say(f"Stopped after step {step} of {job.total}; saved. The same command goes on from there.")
            raise
        checkpoints.wait()


def _steps_in_a_call(job: Job, step: int) -> int:
    """How many steps to do at once after `step`: several, or 1 where an evaluation or checkpoint would be passed over.

    A call of several steps begins only at a multiple of `steps_per_call`. Which steps share a call then doesn't depend
    on where a run was interrupted, so that a resumed run is the same bit for bit.
    """
    several = job.config.train.steps_per_call
    stops = job.due["eval"] | job.due["checkpoint"]
    if (
        several == 1
        or step % several
        or step + several > job.total
        or not stops.isdisjoint(range(step + 1, step + several))
    ):
        return 1
    return several


def _feed(job: Job, first: int) -> Iterator[Any]:
    """What the step functions take, call after call from `first` on; streamed batches go to the device two ahead."""
    if isinstance(job.pipeline, DevicePipeline):
        yield from itertools.repeat(job.pipeline)
    ahead: deque = deque()
    for batch in job.pipeline.stream(job.config.seed, first):
        ahead.append(put_local(batch, batch_sharding(job.mesh)))
        if len(ahead) > 2:
            yield ahead.popleft()


def _evaluate(
    job: Job, state: TrainState, step: int, clock: metrics.Clock, log: "_Log", stop: StopRequest
) -> dict[str, float] | None:
    """Logs the train metrics since the last evaluation and those of the validation split, which it returns."""
    clock.pause()
    totals = jax.tree.map(float, state.totals)
    seen = {name: totals[name] / totals["count"] for name in ("loss", "top1", "top5")}
    rows, scores = [{"step": step, "split": "train_epoch", **seen}], None
    if job.parts.validation is not None:
        images, labels = job.parts.validation
        scores = evaluate.score(job.evaluator.logits(state.params, images, stop.check), labels)
        rows.append({"step": step, "split": "validation", **scores})
    log.evaluation(step, rows)
    return scores


def _without_totals(job: Job, state: TrainState) -> TrainState:
    # One buffer each: the step gives them up (donates them) one by one.
    zeros = {name: put(np.zeros((), np.float32), replicated(job.mesh)) for name in state.totals}
    return state.replace(totals=zeros)


def _finish(job: Job, checkpoints: Checkpoints, stop: StopRequest) -> None:
    """The test of the selected checkpoint, and pictures."""
    size, grid = job.module.cfg.image_size, grid_size(job.module.cfg)
    if job.parts.test is None:
        report.write_pictures(job.run.path, job.parts.train.images[0], size, grid)
        say("There is no test split, so there is no test.")
        return
    name = evaluate.name_of(job.config)
    results = evaluate.test(
        job.run, job.config, checkpoints, name, job.parts.test, job.evaluator, job.module, job.mesh, stop.check
    )
    report.write_pictures(job.run.path, job.parts.train.images[0], size, grid)
    report.say_results(job.run.path, results)


class _Log:
    """The figures of a run on their way to screen, metrics.jsonl and TensorBoard.

    A step's figures are read while the device is busy with the next step.
    """

    def __init__(self, job: Job, step: int, evaluated: bool, clock: metrics.Clock):
        self._job, self._clock = job, clock
        self._file = metrics.MetricsFile(job.run.path, step, evaluated)
        self._bar = TrainingBar(job.total, step)
        self._board: metrics.TensorBoard | None = None
        self._pending: tuple[int, dict[str, jax.Array], float] | None = None
        self._mark = clock.totals()  # at the last row
        self._begun = False  # until the first call is done

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._bar.close()
        self._file.close()
        if self._board:
            self._board.close(timeout=5 if kind else None)

    def put(self, step: int, figures: dict[str, jax.Array], dispatched: float) -> None:
        """Takes the figures of the call just dispatched, () each or (steps,), and reads those of the one before.

        `step` is the last of its steps, `dispatched` when it began (time.monotonic()).
        """
        self.flush()
        self._pending = step, figures, dispatched
        if self._job.config.log.tensorboard and self._board is None:
            self._board = metrics.TensorBoard(self._job.run.path)  # now that its import can't delay the first step

    def flush(self) -> None:
        """Reads what is pending; raises Diverged if it isn't finite, so that such a state is never saved."""
        if self._pending is None:
            return
        (last, figures, dispatched), self._pending = self._pending, None
        # Waits: the host can't run further ahead.
        columns = {name: np.atleast_1d(np.asarray(values)) for name, values in figures.items()}
        rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(columns["loss"]))]
        steps = range(last - len(rows) + 1, last + 1)
        for step, row in zip(steps, rows, strict=True):
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                raise Diverged(
                    f"the loss is {row['loss']} and the gradient norm {row['grad_norm']} at step {step} (learning rate "
                    f"{row['learning_rate']:.3g}); lower config.optim.learning_rate or lengthen "
                    "config.optim.warmup, in another --workdir"
                )
        if not self._begun:
            self._begun = True
            self._clock.add("first_step", time.monotonic() - dispatched)
            report.say_startup(self._clock)
        self._clock.add("train_images", len(rows) * self._job.config.train.batch_size)
        due = [(step, row) for step, row in zip(steps, rows, strict=True) if step in self._job.due["log"]]
        if not (due or self._bar.wants_figures()):
            return
        now = self._clock.totals()
        seconds = now["train"] - self._mark["train"]
        rate = (now["train_images"] - self._mark["train_images"]) / seconds if seconds else 0.0
        self._bar.update(last, rows[-1]["loss"], rows[-1]["top1"], rate)
        if due:
            self._mark = now
        for step, row in due:
            self._write({"step": step, "split": "train", **row, **report.speed(self._job.module, rate)})

    def evaluation(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes the rows of an evaluation and says them in a line."""
        words = []
        for row in rows:
            self._write(row)
            figures = f"loss {row['loss']:.4f}, top-1 {percent(row['top1'])}, top-5 {percent(row['top5'])}"
            words.append(f"{row['split'].split('_')[0]} {figures}")
        rate = self._clock.images_per_second() or 0.0
        say(f"epoch {self._epoch(step):.2f}  {'  |  '.join(words)}  |  {rate:,.0f} images/s")

    def _epoch(self, step: int) -> float:
        return step * self._job.config.train.batch_size / len(self._job.parts.train.labels)

    def _write(self, row: dict[str, Any]) -> None:
        row = {"step": row["step"], "split": row["split"], "epoch": self._epoch(row["step"])} | row
        self._file.write(row)
        if self._board:
            self._board.write(row)
