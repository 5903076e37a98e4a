"""CIFAR-10 in 600 s on two CPU cores, everything included, by pure attention: linear patches, no convolution.

python -m vit_jax.main --config=configs/laptop_attention.py --workdir=runs/laptop_attention
"""

from ml_collections import ConfigDict

from configs import laptop
from vit_jax.config import StemConfig, to_config_dict


def get_config() -> ConfigDict:
    config = laptop.get_config()
    m = config.model
    m.stem = to_config_dict(StemConfig())
    m.patch_size, m.width, m.depth, m.heads, m.mlp_dim = 4, 128, 4, 4, 256
    config.optim.muon = r"block_\d+/.*kernel"
    return config
