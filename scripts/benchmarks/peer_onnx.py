"""Our own ONNX export, run by onnxruntime: inference alone, float32."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import models
from vit_jax.config import Config
from vit_jax.export.programs import WRITERS, program_of
from vit_jax.steps import state as states


def inference(config: Config, compiled: bool | str) -> tuple[Callable[[], float], int]:
    """A function that computes the logits of one batch of stored images; the number of parameters."""
    module = models.create(config.model)
    params = jax.jit(lambda: states.init_params(module, jnp.uint32(0)))()
    with tempfile.TemporaryDirectory() as folder:
        logits, _, _ = WRITERS["onnx"](program_of(config.model, config, params, (32, 32)), Path(folder))
    images = np.random.RandomState(0).randint(256, size=(config.train.batch_size, 32, 32, 3)).astype(np.uint8)
    return (lambda: float(logits(images)[0, 0])), states.count(params)


def accelerator_bytes() -> int:
    """None: it is run on the CPU."""
    return 0
