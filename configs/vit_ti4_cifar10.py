"""ViT-Ti with 4x4 patches on CIFAR-10: 64 tokens, mean pooling, sound modern defaults.

vit-jax --config=vit_ti4_cifar10 --workdir=runs/ti4

Expected: not yet run to its end: no result is claimed
Budget: hours on an accelerator

Meant for an accelerator: 2.2 GFLOPs an image and step.
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()

    m = config.model
    m.variant, m.num_classes = "Ti/4", 10
    m.posemb = "sincos2d"
    m.drop_path = 0.1

    config.augment.flip, config.augment.crop_padding = True, 4

    o = config.optim
    o.learning_rate, o.warmup, o.weight_decay = 1e-3, "5 epochs", 0.05

    config.train.length, config.train.batch_size = "100 epochs", 256
    config.train.label_smoothing = 0.1
    return config
