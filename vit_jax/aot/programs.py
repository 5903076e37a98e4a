"""The programs that a run of a config would compile, for devices that needn't be here."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.aot.machines import Machine
from vit_jax.aot.topology import devices_of
from vit_jax.config import Config
from vit_jax.data import sources
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.data.pipeline import Batch, DevicePipeline, batch_shapes
from vit_jax.evaluation.evaluate import batch_on, traced_evaluation
from vit_jax.models import flops
from vit_jax.steps import state as states
from vit_jax.steps.distill import Teacher
from vit_jax.steps.losses import weights_of
from vit_jax.steps.phases import flops_per_image, traced_step
from vit_jax.system.sharding import batch_sharding, replicated, shapes_of
from vit_jax.training.checks import check_config
from vit_jax.training.pieces import Pieces, crop_of, pieces_of
from vit_jax.training.resolve import pipeline_of_data, with_data
from vit_jax.training.teacher import teacher_of


@dataclass(frozen=True)
class Traced:
    """One program before it is compiled."""

    name: str  # "step", "20 steps", "step at 24 px", "evaluation"
    trace: Callable[[], Any]  # jax.stages.Traced
    flops: int  # by our count, of one device
    images: int  # that it takes, over all devices
    steps: int  # of training in it; 0: an evaluation


@dataclass(frozen=True)
class Run:
    """What a run on a machine would compile and keep."""

    config: Config  # resolved
    machine: Machine
    programs: tuple[Traced, ...]
    state_bytes: int  # on each device: parameters, moments, averages
    param_bytes: int  # of them: parameters that an evaluation takes as they are; it gathers those that are split
    data_bytes: int  # likewise: the resident train images, or one batch; and a teacher
    num_train: int  # images of the train split


def run_on(config: Config, machine: Machine, batch_size: int | None = None) -> Run:
    """The programs of a config on a machine; `batch_size` in the place of its own. Compiles nothing.

    Raises UserError as the start of a run there would. Of CIFAR no image is read: shapes are enough.
    """
    if batch_size is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch_size))
    check_config(config, machine.target)
    dataset = shapes_of_data(config) or sources.load(config)
    config, parts = with_data(config, dataset, machine.target)
    pieces = pieces_of(config, machine.target, len(parts.train.labels), devices_of(machine))
    mesh = pieces.mesh
    state = states.abstract_state(
        pieces.module, pieces.tx, config.train.ema is not None, mesh, pieces.split, config.optim.lora_rank
    )
    data = _data(config, parts.train, machine, mesh)
    count = batch_on(mesh, config)
    evaluation = Traced(
        "evaluation",
        lambda: traced_evaluation(pieces.module, config, mesh, state.params, parts.train.images.shape[1:]),
        flops.forward(pieces.module.cfg) * count // machine.devices,
        count,
        0,
    )
    weights = weights_of(config.train.class_weights, parts.train.labels, pieces.module.cfg.num_classes)
    teacher = shapes_of(teacher_of(config, dataset.classes, machine.target), replicated(mesh))
    programs = (*_steps(config, pieces, data, state, weights, teacher), evaluation)
    config = dataclasses.replace(config, model=pieces.module.cfg)  # with the attention that it takes there
    return Run(
        config,
        machine,
        programs,
        state_bytes=_bytes(state),
        param_bytes=0 if pieces.split else _bytes(state.params),
        data_bytes=_bytes((data, teacher)),
        num_train=len(parts.train.labels),
    )


def shapes_of_data(config: Config) -> DataSet | None:
    """Images that all are one black pixel in memory, of the shapes of a data set that is known; None for others.

    As there, each class has as many of them.
    """
    classes = {"cifar10": 10, "cifar100": 100}.get(config.data.name)
    if classes is None:
        return None
    shape = 32, 32, config.model.channels
    splits = {
        name: Examples(np.broadcast_to(np.uint8(0), (size, *shape)), np.arange(size, dtype=np.int32) % classes)
        for name, size in sources.SIZES[config.data.name].items()
    }
    return DataSet(config.data.name, tuple(map(str, range(classes))), splits)


def _data(config: Config, train: Examples, machine: Machine, mesh: Mesh) -> DevicePipeline | Batch:
    """Shapes of what a step reads its images from."""
    if pipeline_of_data(config, train, machine.target)[0] == "resident":
        everywhere = replicated(mesh)
        count, *shape = train.images.shape
        images = jax.ShapeDtypeStruct((count, math.prod(shape)), np.uint8, sharding=everywhere)
        labels = jax.ShapeDtypeStruct((count,), np.int32, sharding=everywhere)
        return DevicePipeline(images, labels, tuple(shape), config.train.batch_size, everywhere)
    return batch_shapes(train, config.train.batch_size, batch_sharding(mesh), crop_of(config, machine.target))


def _steps(
    config: Config,
    pieces: Pieces,
    data: Any,
    state: Any,
    class_weights: tuple[float, ...] | None,
    teacher: Teacher | None,
) -> list[Traced]:
    """The steps of all phases: one, and `steps_per_call` at once."""
    found, several = [], config.train.steps_per_call
    for _, size in config.train.sizes or ((0.0, config.model.image_size),):
        module = pieces.module.clone(input_size=size)
        work = flops_per_image(module, teacher) * config.train.batch_size
        for count in (1,) if several == 1 else (1, several):
            name = ("step" if count == 1 else f"{count} steps") + (f" at {size} px" if config.train.sizes else "")

            def trace(module: Any = module, count: int = count) -> Any:
                plan, mesh = pieces.plan, pieces.mesh
                bound = (config, module, pieces.tx, pieces.schedule, plan, mesh, data, state)
                return traced_step(*bound, count, class_weights, pieces.split, teacher)

            found.append(Traced(name, trace, count * work // pieces.mesh.size, config.train.batch_size * count, count))
    return found


def _bytes(tree: Any) -> int:
    """Of a tree of shapes, on each device."""
    shapes = [(x.sharding.shard_shape(x.shape), np.dtype(x.dtype).itemsize) for x in jax.tree.leaves(tree)]
    return sum(math.prod(shape) * size for shape, size in shapes)
