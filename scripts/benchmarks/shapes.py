"""What is measured: models by name, as configs of vit_jax. Every contestant reads its sizes from the same config."""

import dataclasses

from ml_collections import ConfigDict

from configs import article, conv_stem_cifar10, vit_ti4_cifar10
from vit_jax.config import Config, base_config, from_config_dict
from vit_jax.models import resolve


def _vit(width: int, depth: int, heads: int, mlp_dim: int, patch_size: int, batch_size: int) -> ConfigDict:
    config = base_config()
    m = config.model
    m.num_classes, m.patch_size = 10, patch_size
    m.width, m.depth, m.heads, m.mlp_dim = width, depth, heads, mlp_dim
    config.train.batch_size = batch_size
    return config


MODELS = {
    "article": article.get_config,
    "conv_stem": conv_stem_cifar10.get_config,
    "vit_d192": lambda: _vit(192, 6, 3, 384, 4, 256),
    "vit_s4": lambda: _vit(384, 12, 6, 1536, 4, 1024),
    "vit_ti4": vit_ti4_cifar10.get_config,
    "tiny": lambda: _vit(32, 2, 2, 64, 8, 16),  # for trials of the benchmark itself
}


def sized(sizes: dict[str, int]) -> Config:
    """The config of a plain ViT (width, depth, patch_size, batch_size) in float32, heads of 64 channels."""
    width = sizes["width"]
    config = _vit(width, sizes["depth"], width // 64, 2 * width, sizes["patch_size"], sizes["batch_size"])
    config.model.dtype = "float32"
    return _typed(config)


def config_of(model: str, batch_size: int | None, dtype: str, augment: bool = False) -> Config:
    """The resolved config of a named model; without its augmentation unless asked for, so that peers do as much.

    Stochastic depth is off: not every peer has a layer for it.
    """
    config = MODELS[model]()
    config.model.dtype, config.model.drop_path = dtype, 0.0
    if not augment:
        config.augment.crop_padding, config.augment.flip = 0, False
        config.augment.rotate = config.augment.zoom = 0.0
    config.train.batch_size = batch_size or config.train.batch_size
    config.train.steps_per_call = 1  # a step is what is timed
    config.optim.warmup = "0 steps"
    return _typed(config)


def _typed(config: ConfigDict) -> Config:
    config.augment.mean = config.augment.std = (0.5, 0.5, 0.5)
    typed = from_config_dict(config)
    return dataclasses.replace(typed, model=resolve(typed.model))
