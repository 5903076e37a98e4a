"""A config's pieces for a training loop of one's own. B batch, H/W pixels, C classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from vit_jax.config import Config
from vit_jax.data import sources
from vit_jax.data.dataset import Splits
from vit_jax.data.pipeline import Batch, DevicePipeline
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer
from vit_jax.models.backend import Target, target_at_hand
from vit_jax.steps import step as steps
from vit_jax.steps.losses import weights_of
from vit_jax.steps.schedules import Schedule
from vit_jax.steps.state import TrainState
from vit_jax.system.sharding import batch_sharding, put_local, replicated
from vit_jax.training.checks import check_config
from vit_jax.training.pieces import Pipeline, first_state, pieces_of, pipeline_of
from vit_jax.training.resolve import with_data
from vit_jax.training.teacher import on_devices, teacher_of

Metrics = dict[str, jax.Array]  # () float32 each


@dataclass(frozen=True, repr=False)
class Setup:
    """What training a config takes, without a folder, a loop or a clock.

        state, metrics = setup.step(setup.state)  # compiled; any number of times

    or the pure pieces, to be transformed and compiled as one likes:

        batch = setup.batch_at(config.seed, 0)
        state, metrics = jax.jit(setup.train_step)(setup.state, batch)
        logits = jax.jit(setup.eval_step)(state.params, setup.splits.test.images[:100])
    """

    config: Config  # resolved: class count, mean and standard deviation, number format filled in
    classes: tuple[str, ...]
    splits: Splits  # train, validation and test images and labels, on the host
    mesh: Mesh
    module: VisionTransformer
    schedule: Schedule  # step -> learning rate
    tx: optax.GradientTransformationExtraArgs
    state: TrainState  # before the first step
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]  # pure: steps/step.py:train_step
    eval_step: Callable[[Any, jax.Array], jax.Array]  # pure: params, uint8 (B, H, W, 3) -> logits (B, C) float32
    _pipeline: Pipeline
    _compiled: Callable[[TrainState, Any], tuple[TrainState, Metrics]]

    def batch_at(self, seed: int, step: int) -> Batch:
        """The batch of one step, on the devices: image (B, H, W, 3) uint8, label (B,) int32, parity (B,) bool.

        On an accelerator with random crops also extent (B, 2) int32, of the parts that the step enlarges
        (data/geometry.py:enlarged).
        """
        if isinstance(self._pipeline, DevicePipeline):
            return self._pipeline.batch_at(jax.numpy.uint32(seed), jax.numpy.int32(step))
        return put_local(self._pipeline.batch_at(seed, step), batch_sharding(self.mesh))

    def step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """The state after one more step, and the figures of its batch before it. `state` stays as it is."""
        if isinstance(self._pipeline, DevicePipeline):
            return self._compiled(state, self._pipeline)
        return self._compiled(state, self.batch_at(int(state.seed), int(state.step)))


def setup(config: Config, target: Target | None = None) -> Setup:
    """Reads the data of a config and builds its pieces; compiles nothing yet.

    What it leaves to the machine is chosen for `target`, the devices at hand unless given: the pure pieces can then be
    traced and lowered for devices that aren't here; a config.train.mesh is of those that are. A run by the clock counts
    as one of 10,000 steps. Raises UserError for a config that can't be.
    """
    if config.train.sizes:
        raise UserError(
            f"config.train.sizes={config.train.sizes}: a loop of one's own has one size of images; set it to ()"
        )
    target = target or target_at_hand()
    check_config(config, target)
    if config.train.overfit_one_batch:
        raise UserError(
            "config.train.overfit_one_batch=True: a loop of one's own takes the batches that it is given; set it to "
            "False, and give each step the batch of step 0"
        )
    dataset = sources.load(config)
    config, splits = with_data(config, dataset, target)
    pieces = pieces_of(config, target, len(splits.train.labels))
    pipeline = pipeline_of(config, splits, target, pieces.mesh)
    bound = {
        "teacher": on_devices(teacher_of(config, dataset.classes, target), pieces.mesh),
        "module": pieces.module,
        "tx": pieces.tx,
        "schedule": pieces.schedule,
        "config": config,
        "mesh": pieces.mesh,
        "total": pieces.plan.total,
        "class_weights": weights_of(config.train.class_weights, splits.train.labels, len(dataset.classes)),
        "split": pieces.split,
    }
    of_batch = partial(steps.train_step, fetch=lambda batch, seed, step: batch, **bound)
    of_pipeline = partial(steps.train_step, fetch=lambda source, seed, step: source.batch_at(seed, step), **bound)
    step = of_pipeline if isinstance(pipeline, DevicePipeline) else of_batch
    state = first_state(config, pieces, splits)
    lie = jax.tree.map(lambda x: x.sharding, state)
    return Setup(
        config=config,
        classes=dataset.classes,
        splits=splits,
        mesh=pieces.mesh,
        module=pieces.module,
        schedule=pieces.schedule,
        tx=pieces.tx,
        state=state,
        train_step=of_batch,
        eval_step=partial(steps.eval_step, module=pieces.module, config=config),
        _pipeline=pipeline,
        _compiled=jax.jit(step, out_shardings=(lie, replicated(pieces.mesh))),
    )
