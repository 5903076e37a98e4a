"""vit_jax's own step and inference, as the program runs them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import models
from vit_jax.config import Config
from vit_jax.data.dataset import Examples
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.evaluation.evaluate import traced_evaluation
from vit_jax.models.backend import target_at_hand
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.cpu import use_cpu_cores, with_micro_batches
from vit_jax.steps.phases import traced_step
from vit_jax.steps.plan import Plan
from vit_jax.steps.schedules import learning_rate
from vit_jax.system.sharding import batch_sharding, make_mesh, put, replicated

STORED = 2048  # images in the resident data set


def training(config: Config, compiled: bool) -> tuple[Callable[[], float], int]:
    """A function that runs one step of training, with the batch's gathering, and returns its loss; parameters.

    `compiled` is for peers: ours always is.
    """
    call, program = training_with_program(config)
    return lambda: float(np.ravel(call())[-1]), program.params


@dataclass(frozen=True)
class Program:
    params: int
    compiled: Any

    def text(self) -> str:
        return self.compiled.as_text()


def training_with_program(config: Config) -> tuple[Callable[[], jax.Array], Program]:
    """A function that starts one call of config.train.steps_per_call steps, and its compiled program.

    It gives the loss, () float32 or that of each of several steps, and does not wait for it.
    """
    use_cpu_cores(config)
    mesh, target = make_mesh(), target_at_hand()
    module, config = models.create(config.model, target), with_micro_batches(config, target)
    schedule = learning_rate(config.optim, 10_000, 0)
    sharing = optim.sharing_mesh(config, target, mesh)
    tx = optim.optimizer(config.optim, states.abstract_params(module), module.dtype, sharing)
    state = states.create(module, tx, config.seed, mesh, ema=config.train.ema is not None)
    random, everywhere = np.random.RandomState(0), replicated(mesh)
    images = random.randint(256, size=(max(STORED, config.train.batch_size), 32, 32, 3)).astype(np.uint8)
    labels = random.randint(config.model.num_classes, size=len(images)).astype(np.int32)
    pipeline = DevicePipeline.of(Examples(images, labels), config.train.batch_size, everywhere)
    plan, several = Plan(10_000, None), config.train.steps_per_call
    traced = traced_step(config, module, tx, schedule, plan, mesh, pipeline, state, several)
    step_fn = traced.lower().compile()
    count = states.count(state.params)
    carried = [state]

    def call() -> jax.Array:
        carried[0], metrics = step_fn(carried[0], pipeline, None)
        return metrics["loss"]

    return call, Program(count, step_fn)


def inference(config: Config, compiled: bool) -> tuple[Callable[[], float], int]:
    """A function that computes the logits of one batch of stored images, as predictions do (always `compiled`)."""
    batch_size = config.train.batch_size
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch_size=batch_size))
    use_cpu_cores(config)
    mesh, module = make_mesh(), models.create(config.model)
    first = jax.jit(lambda: states.init_params(module, jnp.uint32(0)), out_shardings=replicated(mesh))()
    params = jax.block_until_ready(models.rounded_once(first, module))
    images = np.random.RandomState(0).randint(256, size=(batch_size, 32, 32, 3)).astype(np.uint8)
    logits = traced_evaluation(module, config, mesh, params, images.shape[1:]).lower().compile()
    images = put(images, batch_sharding(mesh))
    return (lambda: float(logits(params, images)[0, 0])), states.count(params)


def accelerator_bytes() -> int:
    """The most memory of the first accelerator that was in use; 0 on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
