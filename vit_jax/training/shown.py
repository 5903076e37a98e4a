"""What a run's first step showed its model, made again from the run's config and data. B batch, H/W pixels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import Config
from vit_jax.data.dataset import Splits
from vit_jax.data.pipeline import indices_at, parity_at
from vit_jax.data.targets import Targets
from vit_jax.models import create
from vit_jax.models.backend import target_at_hand
from vit_jax.models.stems import image_shape
from vit_jax.steps.plan import plan_of
from vit_jax.steps.step import keys_at, shown
from vit_jax.system.sharding import make_mesh
from vit_jax.training.pieces import pipeline_of
from vit_jax.training.resolve import pipeline_of_data


def first_shown(config: Config, splits: Splits) -> tuple[np.ndarray, Targets]:
    """The batch of step 0 as the model saw it, uint8 (B, H, W, C) without the normalisation, and its targets.

    All of the batch is augmented, as its images are mixed with each other; of the data nothing else is read. Raises
    ImportError where the batches are streamed and what streams them isn't installed.
    """
    examples, target = splits.train, target_at_hand()
    if pipeline_of_data(config, examples, target)[0] == "resident":
        # Those few images needn't wait for all to be on the device.
        n = len(examples.labels)
        index = indices_at(config.seed, 0, n, config.train.batch_size)  # (B,)
        parity = parity_at(np.full(1, config.seed, np.uint32), np.zeros(1, np.uint32), index, n)
        batch = {"image": examples.images[index], "label": examples.labels[index], "parity": parity}
    else:
        batch = pipeline_of(config, splits, target, make_mesh()).batch_at(config.seed, 0)
    module = create(config.model, target).clone(input_size=config.train.sizes[0][1] if config.train.sizes else None)
    size = image_shape(module.seen)[:2]
    total = plan_of(config, len(examples.labels)).total
    progress = jnp.int32(0)
    key = jax.jit(keys_at)(jnp.uint32(config.seed), progress)[0]
    x, targets = jax.jit(partial(shown, config=config, size=size, total=total))(key, batch, progress=progress)
    pixels = np.asarray(x) * np.array(config.augment.std) + np.array(config.augment.mean)  # (B, H, W, C)
    return (255 * pixels).round().clip(0, 255).astype(np.uint8), jax.tree.map(np.asarray, targets)
