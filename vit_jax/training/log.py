"""The figures of a run on their way to the screen, metrics.jsonl, TensorBoard and a tracker."""

import math
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from vit_jax.errors import RunError
from vit_jax.runs import metrics, report
from vit_jax.runs.boards import InBackground, TensorBoard
from vit_jax.runs.trackers import open_tracker
from vit_jax.steps.clock import Clock
from vit_jax.system.progress import TrainingBar, percent, say
from vit_jax.training.prepare import Job


class Diverged(RunError):
    """The loss or the gradient is NaN or infinite."""


class Log:
    """The figures of a run on their way to screen, metrics.jsonl, TensorBoard and a tracker.

    A step's figures are read while the device is busy with the next step.
    """

    def __init__(self, job: Job, step: int, evaluated: bool, clock: Clock):
        self._job, self._clock = job, clock
        self._file = metrics.MetricsFile(job.run.path, step, evaluated) if job.run.writes else None
        self._bar = TrainingBar(job.plan.total, job.plan.progress(step, clock), step, job.plan.seconds is not None)
        self._boards: list[InBackground] = []
        self._opened = False  # are the boards, if there are any
        self._pending: tuple[int, dict[str, jax.Array], float, int] | None = None
        self._mark = clock.totals()  # at the last row
        self._begun = False  # until the first call is done
        self._last = {"learning_rate": 0.0, "grad_norm": 0.0}
        self._skipped = 0  # steps in a row that were left out
        before = metrics.time_to(job.run.path, step) if self._file else {}
        self._reached = {int(goal) for goal in before}

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._bar.close()
        # The others of a job don't wait for long (jobs.py), and who was interrupted doesn't want to.
        patience = 5.0 if kind else 20.0 if jax.process_count() > 1 else 300.0
        for board in self._boards:
            board.close(finished=kind is None, timeout=patience)
        if self._file:
            self._file.close()

    def put(self, step: int, figures: dict[str, jax.Array], dispatched: float, flops_per_image: int) -> None:
        """Takes the figures of the call just dispatched, () each or (steps,), and reads those of the one before.

        `step` is the last of its steps, `dispatched` when it began (time.monotonic()).
        """
        self.flush()
        self._pending = step, figures, dispatched, flops_per_image
        self._open_boards()  # now that their imports can't delay the first step

    def _open_boards(self) -> None:
        if self._file is None or self._opened:
            return
        config, path, before = self._job.config, self._job.run.path, metrics.read(self._job.run.path)
        if config.log.tensorboard:
            self._boards.append(InBackground("TensorBoard events", partial(TensorBoard, path), before))
        if config.log.tracker != "none":
            opened = partial(open_tracker, config.log.tracker, path, config)
            self._boards.append(InBackground(f"figures for {config.log.tracker}", opened, before))
        self._opened = True

    def flush(self) -> None:
        """Reads what is pending; raises Diverged if it isn't finite, so that such a state is never saved."""
        if self._pending is None:
            return
        (last, figures, dispatched, flops_per_image), self._pending = self._pending, None
        # Waits: the host can't run further ahead.
        columns = {name: np.atleast_1d(np.asarray(values)) for name, values in figures.items()}
        rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(columns["loss"]))]
        steps = range(last - len(rows) + 1, last + 1)
        self._last = rows[-1]
        finite = self._finite(list(zip(steps, rows, strict=True)))
        if not self._begun:
            self._begun = True
            self._clock.add("first_step", time.monotonic() - dispatched)
            report.say_startup(self._clock)
        images = len(rows) * self._job.config.train.batch_size
        self._clock.add("train_images", images)
        self._clock.add("train_flops", images * flops_per_image)
        due = [(step, row) for step, row in finite if step in self._job.due["log"]]
        if not (due or self._bar.wants_figures()):
            return
        now = self._clock.totals()
        seconds = now["train"] - self._mark["train"]
        rate = (now["train_images"] - self._mark["train_images"]) / seconds if seconds else 0.0
        self._bar.update(last, self._job.plan.progress(last, self._clock), rows[-1]["loss"], rows[-1]["top1"], rate)
        if due:
            self._mark = now
        for step, row in due:
            speed = report.speed(rate, flops_per_image, self._job.module.dtype)
            self._write({"step": step, "split": "train", **row, **speed})

    def _finite(self, rows: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
        """Those of the steps whose figures are finite; tells of the others, and raises Diverged for too many."""
        finite = []
        for step, row in rows:
            if math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]):
                self._skipped = 0
                finite.append((step, row))
                continue
            self._skipped += 1
            what = f"the loss is {row['loss']} and the gradient norm {row['grad_norm']} at step {step}"
            if self._skipped > self._job.config.optim.skip_nonfinite:
                raise Diverged(
                    f"{what} (learning rate {row['learning_rate']:.3g}); lower config.optim.learning_rate or lengthen "
                    "config.optim.warmup, in another --workdir"
                )
            say(f"Step {step} is left out: {what}")
            self._write({"step": step, "split": "train", "skipped": 1})
        return finite

    def last(self) -> str:
        """What was last seen of the optimization, for a message."""
        return "learning rate {learning_rate:.3g}, gradient norm {grad_norm:.3g}".format(**self._last)

    def evaluation(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes the rows of an evaluation and says them in a line; the first validation to reach a goal times it."""
        words, judged = [], "validation_ema" if self._job.config.eval.params == "ema" else "validation"
        for row in rows:
            self._write(row | (self._times_to_goals(row["top1"]) if row["split"] == judged else {}))
            figures = f"loss {row['loss']:.4f}, top-1 {percent(row['top1'])}, top-5 {percent(row['top5'])}"
            words.append(f"{row['split'].removesuffix('_epoch').replace('_', ' ')} {figures}")
        rate = self._clock.images_per_second() or 0.0
        say(f"epoch {self._epoch(step):.2f}  {'  |  '.join(words)}  |  {rate:,.0f} images/s")

    def trained(self) -> None:
        """The steps are done: ends the bar, and opens the boards of a start that had none left to do."""
        self._bar.close()
        self._open_boards()

    def tested(self, results: dict[str, Any]) -> None:
        """Sends the figures of the test to the boards; the run's own place for them is results.json."""
        for board in self._boards:
            board.write({"step": results["checkpoint"], **results, "split": "test"})

    def _times_to_goals(self, top1: float) -> dict[str, float]:
        """{"time_to/70": seconds of training, "wall_to/70": of everything} for each goal reached for the first time."""
        totals = self._clock.totals()
        times: dict[str, float] = {}
        for goal in metrics.GOALS:
            if top1 >= goal / 100 and goal not in self._reached:
                self._reached.add(goal)
                times |= {f"time_to/{goal}": totals["train"], f"wall_to/{goal}": totals["wall"]}
        return times

    def _epoch(self, step: int) -> float:
        return step * self._job.config.train.batch_size / len(self._job.splits.train.labels)

    def _write(self, row: dict[str, Any]) -> None:
        row = {"step": row["step"], "split": row["split"], "epoch": self._epoch(row["step"])} | row
        if self._file:
            self._file.write(row)
        for board in self._boards:
            board.write(row)

    def sync(self) -> None:
        """Puts the rows so far on the disk, so that no checkpoint outlives the figures of its steps."""
        if self._file:
            self._file.sync()
