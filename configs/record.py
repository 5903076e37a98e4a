"""CIFAR-10 in 10 minutes of training on one accelerator: residual convolutions, then eight encoder blocks.

vit-jax --config=record --workdir=runs/record

Expected: not yet run on an accelerator: no result is claimed
Budget: 600 s of training on one accelerator

Compiling, validation and the test come on top of the 600 s.
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()

    m = config.model
    m.stem.kind, m.stem.norm = "conv", "layer"
    m.stem.widths = (96, 96, 96, 256, 256, 256)
    m.stem.pools = (1, 1, 1, 2, 1, 1)
    m.stem.residual = (False, True, True, False, True, True)
    m.patch_size, m.width, m.depth, m.heads, m.mlp_dim = 2, 512, 8, 8, 2048
    m.posemb, m.qk_norm, m.drop_path = "sincos2d", True, 0.15

    a = config.augment
    a.flip, a.crop_padding = True, 4
    a.policy, a.mixup, a.cutmix, a.erase = "randaugment", 0.8, 1.0, 0.25
    a.mix_off_last = 0.15

    o = config.optim
    o.name, o.learning_rate, o.adam_learning_rate = "muon", 0.02, 1e-3
    o.momentum, o.b2, o.weight_decay, o.clip_norm = 0.95, 0.95, 0.05, None
    o.schedule, o.warmup = "cosine", "2 %"

    t = config.train
    t.length, t.clock, t.batch_size, t.label_smoothing = "600 s", "train", 1024, 0.1
    t.ema, t.steps_per_call = 0.9995, 20
    config.eval.every = config.checkpoint.every = "25 epochs"
    config.eval.flips, config.eval.params = True, "ema"
    config.log.tensorboard = False  # its import would compete with the host's part of the steps
    return config
