"""Every key at its default (`vit_jax/config.py` says what each means). The other configs start from here.

python -m vit_jax.main --config=configs/base.py --config.model.variant=Ti/4 --workdir=runs/base
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config() -> ConfigDict:
    return base_config()
