"""The pieces that training is made of, each built once from a resolved config."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax.config import Config
from vit_jax.data.augment import preprocess
from vit_jax.data.dataset import Splits
from vit_jax.data.pipeline import DevicePipeline, RandomCrop, TfDataPipeline
from vit_jax.data.view import interpolation_of
from vit_jax.models import VisionTransformer, create
from vit_jax.models.backend import Target
from vit_jax.models.stems import WHITENING, image_shape, whitening_kernel
from vit_jax.pretrained.start import params_of
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.partition import mesh_for, split_axes
from vit_jax.steps.plan import Plan, plan_of, warmup_progress
from vit_jax.steps.schedules import Schedule, learning_rate
from vit_jax.steps.state import TrainState
from vit_jax.system.progress import say
from vit_jax.system.sharding import FSDP, replicated
from vit_jax.training.resolve import pipeline_of_data

_WHITENING_PIXELS = 5000 * 32 * 32  # from which the whitening layer is computed

Pipeline = DevicePipeline | TfDataPipeline


@dataclass(frozen=True)
class Pieces:
    """All but the data and the state."""

    mesh: Mesh
    module: VisionTransformer
    shapes: Any  # of the parameters
    plan: Plan
    schedule: Schedule
    tx: optax.GradientTransformationExtraArgs
    split: Mapping[str, int]  # the parameters that devices share, by path, and the axis of each (steps/partition.py)


def pieces_of(config: Config, target: Target, num_train: int, devices: Sequence[jax.Device] | None = None) -> Pieces:
    """The pieces of a resolved config with so many train examples, for a target and its devices: those at hand."""
    mesh = mesh_for(config.train, devices)
    module, plan = create(config.model, target), plan_of(config, num_train)
    shapes = states.abstract_params(module, config.optim.lora_rank)
    schedule = learning_rate(config.optim, plan.total, warmup_progress(config, num_train))
    tx = optim.optimizer(config.optim, shapes, module.dtype, optim.sharing_mesh(config, target, mesh))
    return Pieces(mesh, module, shapes, plan, schedule, tx, split_axes(config.train, shapes, mesh.shape.get(FSDP, 1)))


def blank_state(config: Config, pieces: Pieces, fixed: dict[str, Any] | None = None) -> TrainState:
    """A state of random parameters, but for those that are `fixed`, by path."""
    ema = config.train.ema is not None
    rank = config.optim.lora_rank
    return states.create(pieces.module, pieces.tx, config.seed, pieces.mesh, ema, fixed, pieces.split, rank)


def first_state(config: Config, pieces: Pieces, splits: Splits) -> TrainState:
    """The state that a run begins with: of random parameters, or of the weights of config.init_from."""
    if config.init_from is None:
        return blank_state(config, pieces, _fixed(config, splits))
    params = params_of(config, pieces.module)
    if jax.process_count() > 1:  # the same in all, whatever lies at that path on each machine
        params = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(params))
    state = states.with_params(blank_state(config, pieces), params)
    say(f"Starting from the weights in {config.init_from}")
    return state


def _fixed(config: Config, splits: Splits) -> dict[str, Any]:
    """Parameters that are computed from the train images, by path: those of process 0 in all."""
    if not config.model.stem.whiten:
        return {}
    size = image_shape(config.model)[:2]
    images = splits.train.images[: max(_WHITENING_PIXELS // math.prod(size), 1)]
    kernel = whitening_kernel(np.asarray(preprocess(images, config.augment, size)), config.model.stem.whiten)
    if jax.process_count() > 1:  # eigenvectors differ in sign and rounding from machine to machine
        kernel = np.asarray(multihost_utils.broadcast_one_to_all(kernel))
    return {WHITENING: kernel}


def pipeline_of(config: Config, splits: Splits, target: Target, mesh: Mesh) -> Pipeline:
    """Where the batches of the train split come from: resident on the devices, or streamed."""
    examples, batch_size = splits.train, config.train.batch_size
    if pipeline_of_data(config, examples, target)[0] == "resident":
        return DevicePipeline.of(examples, batch_size, replicated(mesh))
    return TfDataPipeline(examples, batch_size, jax.process_index(), jax.process_count(), crop_of(config, target))


def crop_of(config: Config, target: Target) -> RandomCrop | None:
    """The random crops of streamed images, if the config has any."""
    augment, interpolation = config.augment, interpolation_of(config.data)
    if not augment.crop_scale or config.train.overfit_one_batch:  # which sees images as they are
        return None
    least, most = augment.crop_scale
    # XLA's CPU enlarges at a third of the speed of TensorFlow.
    in_step = target.platform != "cpu" and interpolation == "bilinear"
    return RandomCrop((least, most), augment.crop_ratio, interpolation, in_step)
