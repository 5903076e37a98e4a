"""Two tiny layers and a few steps, to see that everything runs: under 30 s, on any data set.

vit-jax --config=debug --workdir=runs/debug --config.data.name=digits

Expected: a run that ends well, no accuracy
Budget: under 30 s on two CPU cores
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.data.name = "fake"

    m = config.model
    m.patch_size, m.width, m.depth, m.heads, m.mlp_dim = 8, 32, 2, 2, 64

    config.augment.flip, config.augment.crop_padding = True, 2
    config.train.length, config.train.batch_size = "20 steps", 32
    config.eval.every = config.checkpoint.every = "10 steps"
    config.log.every, config.log.tensorboard = "5 steps", False
    return config
