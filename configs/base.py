"""Every key at its default (`vit_jax/config.py` says what each means). The other configs start from here.

vit-jax --config=base --config.model.variant=Ti/4 --workdir=runs/base

Expected: nothing of its own: a place to start from
Budget: 10 epochs
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config() -> ConfigDict:
    return base_config()
