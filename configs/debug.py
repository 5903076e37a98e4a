"""Two tiny layers and a few steps, to see that everything runs: under 30 s, on any data set.

python -m vit_jax.main --config=configs/debug.py --workdir=runs/debug --config.data.name=digits
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
