"""The parts of a run, each with its compiled step: one, or one for each size of the images (train.sizes)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vit_jax.config import Config
from vit_jax.data.pipeline import Batch, DevicePipeline, TfDataPipeline
from vit_jax.models import VisionTransformer, flops
from vit_jax.steps.distill import Teacher
from vit_jax.steps.plan import Plan
from vit_jax.steps.schedules import Schedule, TimedProgress
from vit_jax.steps.state import TrainState
from vit_jax.steps.step import train_step, train_steps
from vit_jax.system.sharding import batch_sharding, replicated


@dataclass(frozen=True)
class Phase:
    """A part of a run: its images' size, and its compiled steps."""

    start: float  # progress at which it begins
    flops_per_image: int  # of a training step
    step_fn: Any  # compiled train_step: (state, data, timed[, teacher]) -> (state, metrics)
    steps_fn: Any  # compiled train_steps, train.steps_per_call at once; None for 1


def compile_phases(
    config: Config,
    module: VisionTransformer,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    plan: Plan,
    mesh: Mesh,
    pipeline: DevicePipeline | TfDataPipeline,
    state: TrainState,
    class_weights: tuple[float, ...] | None,
    split: Mapping[str, int],
    teacher: Teacher | None,
) -> tuple[Phase, ...]:
    """The run's phases in order, their steps compiled, as `traced_step` traces them.

    All at once: compiling one keeps less than two cores busy, and an accelerator's machine has more. In turn where
    several processes would have to agree on an order, as XLA's GPU does while it tries kernels.
    """
    if isinstance(pipeline, DevicePipeline):
        data: DevicePipeline | Batch = pipeline
    else:
        data = pipeline.shapes(batch_sharding(mesh))  # reading a batch would hold up the start
    several = config.train.steps_per_call
    counts = (1,) if several == 1 else (1, several)
    sizes = config.train.sizes or ((0.0, config.model.image_size),)
    lowered = [
        traced_step(
            config,
            module.clone(input_size=size),
            tx,
            schedule,
            plan,
            mesh,
            data,
            state,
            n,
            class_weights,
            split,
            teacher,
        ).lower()
        for _, size in sizes
        for n in counts
    ]
    with ThreadPoolExecutor(1 if jax.process_count() > 1 else len(lowered)) as pool:
        compiled = iter(list(pool.map(lambda one: one.compile(), lowered)))
    return tuple(
        Phase(
            start * plan.total,
            flops_per_image(module.clone(input_size=size), teacher),
            next(compiled),
            next(compiled) if several > 1 else None,
        )
        for start, size in sizes
    )


def traced_step(
    config: Config,
    module: VisionTransformer,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    plan: Plan,
    mesh: Mesh,
    data: DevicePipeline | Batch,
    state: TrainState,
    count: int = 1,
    class_weights: tuple[float, ...] | None = None,
    split: Mapping[str, int] = MappingProxyType({}),
    teacher: Teacher | None = None,
) -> Any:
    """`train_step`, or `train_steps` for a count above 1, traced: (state, data, timed[, teacher]) -> (state, metrics).

    It is compiled by `.lower().compile()`. Config and module made for a target that isn't at hand (models/backend.py),
    with a mesh of its devices, give the program for those.

    `data` is the pipeline itself where it is resident, else one batch; its arrays, the state's and the teacher's may be
    shapes (`shapes_of`). The new state lies as the old one, its parameters `split` as `train_step` says. `timed` is
    for runs by the clock, None for others. The state is given up (donated).
    `class_weights` are constants of the program.
    """
    resident = isinstance(data, DevicePipeline)
    number: Any = jax.ShapeDtypeStruct((), np.float32, sharding=replicated(mesh))
    timed = None if plan.seconds is None else TimedProgress(number, number)
    step = partial(
        train_step if count == 1 else partial(train_steps, count=count),
        fetch=(lambda data, seed, step: data.batch_at(seed, step)) if resident else (lambda data, seed, step: data),
        module=module,
        tx=tx,
        schedule=schedule,
        config=config,
        mesh=mesh,
        total=plan.total,
        class_weights=class_weights,
        split=split,
    )
    lie = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(lie, replicated(mesh))).trace(
        state, data, timed, *taught_by(teacher)
    )


def taught_by(teacher: Teacher | None) -> tuple[Teacher, ...]:
    """What a compiled step is given after state, data and progress: a teacher, where there is one."""
    return () if teacher is None else (teacher,)


def flops_per_image(module: VisionTransformer, teacher: Teacher | None) -> int:
    """Of a training step: the student's three passes (flops.training), and the teacher's one."""
    return flops.training(module.seen) + (0 if teacher is None else flops.forward(teacher.module.cfg))
