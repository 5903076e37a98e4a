"""What a page shows as the model's images is what the first step gave it."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import debug
from vit_jax.config import from_config_dict
from vit_jax.data import sources
from vit_jax.data.augment import augment
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.models.backend import Target
from vit_jax.system.sharding import make_mesh, replicated
from vit_jax.training import shown
from vit_jax.training.resolve import with_data

DEBUG = from_config_dict(debug.get_config())
# Everything that changes images: a step, a seed or an order of its own would show.
CONFIG = dataclasses.replace(
    DEBUG,
    seed=3,
    augment=dataclasses.replace(DEBUG.augment, policy="trivialaugment", mixup=0.8, erase=0.5, rotate=0.1),
)


def resolved(config):
    return with_data(config, sources.load(config), Target("cpu"))


@pytest.mark.slow
def test_images_are_those_of_the_first_step():
    """Drawn as train_step draws them: the batch of step 0 and the first key of the split of the step's."""
    pytest.importorskip("tensorflow")
    config, parts = resolved(dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, pipeline="mapped")))
    images, targets = shown.first_shown(config, parts)
    assert images.shape == (32, 32, 32, 3) and images.dtype == np.uint8

    mesh = make_mesh(jax.devices()[:1])
    first = DevicePipeline.of(parts.train, config.train.batch_size, replicated(mesh)).batch_at(3, 0)
    key = jax.random.split(jax.random.fold_in(jax.random.split(jax.random.key(3))[1], 0))[0]
    x, expected = jax.jit(
        lambda batch: augment(key, batch["image"], batch["label"], batch["parity"], config.augment, (32, 32), 1.0, 1.0)
    )(first)
    jax.tree.map(np.testing.assert_allclose, targets, expected)
    assert len(set(targets.weight.tolist())) == 1 and 0 < targets.weight[0] < 1
    pixels = 255 * (np.asarray(x) * config.augment.std + config.augment.mean)
    assert np.abs(images - pixels.clip(0, 255)).max() <= 0.51


def test_without_augmentation_images_are_those_of_the_data():
    config, parts = resolved(DEBUG)
    plain = dataclasses.replace(config, augment=dataclasses.replace(config.augment, flip=False, crop_padding=0))
    one_batch = dataclasses.replace(CONFIG, seed=0, train=dataclasses.replace(config.train, overfit_one_batch=True))
    one_batch = dataclasses.replace(
        one_batch, augment=dataclasses.replace(one_batch.augment, mean=(0.5,) * 3, std=(0.2,) * 3)
    )
    images, _ = shown.first_shown(plain, parts)
    again, _ = shown.first_shown(one_batch, parts)
    known = {image.tobytes() for image in parts.train.images}
    assert all(image.tobytes() in known for image in images)
    np.testing.assert_array_equal(images, again)  # a run that overfits one batch doesn't augment
