"""Sets a run up from its pieces: state, compiled steps, clock, and what falls due when. All that happens once."""

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax.config import Config
from vit_jax.data import sources
from vit_jax.data.dataset import Splits
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.models import VisionTransformer, flops
from vit_jax.models.backend import Target
from vit_jax.runs import report
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.stored import is_spread
from vit_jax.schema import to_dict
from vit_jax.steps.clock import Clock
from vit_jax.steps.distill import Teacher
from vit_jax.steps.losses import weights_of
from vit_jax.steps.phases import Phase, compile_phases
from vit_jax.steps.plan import Due, Plan, due_of, reserve_of
from vit_jax.steps.state import TrainState
from vit_jax.system.progress import doing, say
from vit_jax.system.sharding import FSDP
from vit_jax.training.patience import Waiting
from vit_jax.training.pieces import Pipeline, blank_state, first_state, pieces_of, pipeline_of
from vit_jax.training.resolve import pipeline_of_data, with_data
from vit_jax.training.teacher import check_same_teacher, on_devices, teacher_of


@dataclass(frozen=True)
class Job:
    """All that the loop needs and doesn't change."""

    config: Config  # resolved
    run: RunFolder
    splits: Splits
    mesh: Mesh
    module: VisionTransformer
    plan: Plan
    due: dict[str, Due]  # eval, checkpoint, log: the numbers of steps done at which each happens
    pipeline: Pipeline
    phases: tuple[Phase, ...]
    evaluator: Evaluator
    teacher: Teacher | None

    def phase_at(self, progress: float) -> Phase:
        """The phase in which the run has this progress."""
        return next(phase for phase in reversed(self.phases) if phase.start <= progress)

    def steps_in_a_call(self, step: int) -> int:
        """How many steps to do at once after `step`: several, or 1 where that would pass over an evaluation or save.

        A call of several steps begins only at a multiple of `steps_per_call`. Which steps share a call then doesn't
        depend on where a run was interrupted, so that a resumed run is the same bit for bit.
        """
        several = self.config.train.steps_per_call
        if several == 1 or step % several:
            return 1
        if self.plan.seconds is None:
            starts = {math.ceil(phase.start) for phase in self.phases}
            if step + several > self.plan.total or not starts.isdisjoint(range(step + 1, step + several)):
                return 1
        passed = range(step + 1, step + several)
        return 1 if any(other in self.due[kind] for kind in ("eval", "checkpoint") for other in passed) else several


def resolve_config(config: Config, run: RunFolder, target: Target) -> tuple[Config, Splits, Teacher | None]:
    """Loads the data, fills in what the config leaves to them or to the target, and describes the run in its folder.

    Also loads its teacher, if it has one. A run that overfits one batch is neither validated nor tested.
    """
    dataset = sources.load(config)
    run.check_data(dataset)
    for note in dataset.notes:
        say(note)
    config, splits = with_data(config, dataset, target)
    pipeline, why = pipeline_of_data(config, splits.train, target)
    say(f"Train images: {pipeline}; {why}")
    teacher = teacher_of(config, dataset.classes, target)
    run.describe(config, dataset)
    if config.train.overfit_one_batch:
        splits = dataclasses.replace(splits, validation=None, test=None)
    return config, splits, teacher


def build(
    config: Config,
    target: Target,
    run: RunFolder,
    splits: Splits,
    teacher: Teacher | None,
    checkpoints: Checkpoints,
    started: float,
    spent: dict[str, float],
) -> tuple[Job, TrainState, Clock, bool, Waiting]:
    """Model, optimizer, state (restored from the latest checkpoint, if any) and compiled steps.

    Also the clock, with what earlier starts took and what this one has `spent` so far, by kind; whether the state's
    step has been evaluated already; and how long a better validation has been waited for.
    """
    entered = time.monotonic()
    num_train = len(splits.train.labels)
    pieces = pieces_of(config, target, num_train)
    mesh, module, plan, shapes = pieces.mesh, pieces.module, pieces.plan, pieces.shapes
    report.say_run(run.path, config, module, shapes, splits, plan)

    # A checkpoint has all that the first state takes from data and weights.
    state = blank_state(config, pieces) if checkpoints.steps() else first_state(config, pieces, splits)
    if pieces.split:
        say_split(state, mesh)
    evaluated, carried, waiting = True, None, Waiting()
    due = _due(config, num_train, plan)
    if run.writes and checkpoints.steps()[-1:] != [plan.total]:
        checkpoints.check_space(state, 1 + due["eval"].times() + due["checkpoint"].times())  # the first state, too
    if checkpoints.steps():
        latest = checkpoints.resolve("latest")
        evaluated, carried, waiting = _carried(checkpoints.meta(latest), config, module, teacher)
        state = checkpoints.restore(latest, state, mesh)
        say(f"Resuming after {plan.say(latest)}.")
    clock = Clock(started, carried)
    if carried is None and (run.writes or is_spread(state)):
        # Before anything is computed it shows that this can be saved; written while the step compiles.
        checkpoints.save(state, meta_of(plan.steps_in_all(0, False), splits, teacher, clock, evaluated, waiting), None)

    pipeline = pipeline_of(config, splits, target, mesh)
    for kind, seconds in {**spent, "init": time.monotonic() - entered}.items():
        clock.add(kind, seconds)
    teacher = on_devices(teacher, mesh)
    say("Compiling ...")
    before = time.monotonic()
    with doing("Compiling"):
        weights = weights_of(config.train.class_weights, splits.train.labels, module.cfg.num_classes)
        phases = compile_phases(
            config, module, pieces.tx, pieces.schedule, plan, mesh, pipeline, state, weights, pieces.split, teacher
        )
        evaluator = Evaluator(module, config, mesh, shapes, splits.train.images.shape[1:])
    with doing("Saving"):
        checkpoints.wait()
    clock.add("compile", time.monotonic() - before)
    say(f"Compiled in {time.monotonic() - before:.1f} s; {time.monotonic() - started:.1f} s since the start.")
    if plan.seconds is not None and plan.clock == "wall":
        plan = _with_reserve(plan, config, splits, evaluator.images_per_second(state.params, splits.train.images))

    job = Job(config, run, splits, mesh, module, plan, due, pipeline, phases, evaluator, teacher)
    return job, state, clock, evaluated, waiting


def _carried(
    meta: dict[str, Any], config: Config, module: VisionTransformer, teacher: Teacher | None
) -> tuple[bool, dict[str, float], Waiting]:
    """What a checkpoint says beside its state (`meta_of`): whether it is evaluated, the clock, the patience."""
    check_same_teacher(config, teacher, meta.get("teacher"))
    waiting = Waiting(**meta.get("waiting", {}))  # runs from before it was counted don't have it
    # Runs from before FLOPs were counted had one image size.
    counted = {"train_flops": meta["clock"]["train_images"] * flops.training(module.cfg)}
    return meta["evaluated"], counted | meta["clock"], waiting


def _due(config: Config, num_train: int, plan: Plan) -> dict[str, Due]:
    """When evaluations, checkpoints and rows of metrics.jsonl fall due."""
    size = {"num_examples": num_train, "batch_size": config.train.batch_size}
    texts = {"eval": config.eval.every, "checkpoint": config.checkpoint.every, "log": config.log.every}
    return {kind: due_of(text, f"config.{kind}.every", **size, plan=plan) for kind, text in texts.items()}


def _with_reserve(plan: Plan, config: Config, splits: Splits, speed: float) -> Plan:
    """The plan with the time that evaluating its splits takes at so many images/s kept for the end."""
    validation, test = (len(part.labels) if part is not None else 0 for part in (splits.validation, splits.test))
    return dataclasses.replace(plan, reserve=reserve_of(config, validation, test, speed))


def say_split(state: TrainState, mesh: Mesh) -> None:
    """How much of the state each device has, where several share it."""
    leaves = jax.tree.leaves(state)
    own = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    whole = sum(x.nbytes for x in leaves)
    say(
        f"State: {own / 2**20:,.1f} MiB on each device, of {whole / 2**20:,.1f} MiB sharded over {mesh.shape[FSDP]} "
        f"devices; {mesh.shape['data']} {'replica' if mesh.shape['data'] == 1 else 'replicas'}"
    )


def compared(config: Config) -> dict[str, str]:
    """All of a config by its keys that processes of a job share: all but where the data lie on their machines."""
    here = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=None, cache_dir=None))
    found: dict[str, str] = {}
    for name, value in to_dict(here).items():
        inside = {f".{key}": one for key, one in value.items()} if isinstance(value, dict) else {"": value}
        found |= {f"config.{name}{key}": json.dumps(one) for key, one in inside.items()}
    return found


def meta_of(
    total: int, splits: Splits, teacher: Teacher | None, clock: Clock, evaluated: bool, waiting: Waiting
) -> dict[str, Any]:
    """What a checkpoint says beside its state; `evaluated`: whether its step's evaluation, if one is due, is done."""
    return {
        "evaluated": evaluated,
        "waiting": dataclasses.asdict(waiting),
        "clock": clock.totals(),
        "total_steps": total,
        "num_train": len(splits.train.labels),
        "teacher": None if teacher is None else teacher.sha256,
    }
