"""CIFAR-10 in 600 s on two CPU cores, everything included: a convolution stem, then two encoder blocks.

vit-jax --config=laptop --workdir=runs/laptop

Expected: 85.33 +- 0.20 % test top-1, with flips 86.71 +- 0.14 % (5 seeds); :attention 81.10 and 80.39 %
Budget: 600 s on two CPU cores, everything included

That was on an AMD EPYC with AVX-512. On an Intel Xeon with AMX: 85.12 +- 0.32 and 86.55 +- 0.30 % (5 seeds). By pure
attention, linear patches and four blocks, --config=laptop:attention; without AVX-512 72.09 +- 0.48 % (3 seeds).
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config(tokens: str = "convolutions") -> ConfigDict:
    """The config; `tokens` come from "convolutions", or in "attention" straight from patches."""
    config = base_config()

    m = config.model
    if tokens == "attention":
        m.patch_size, m.width, m.depth, m.heads, m.mlp_dim = 4, 128, 4, 4, 256
    elif tokens != "convolutions":
        raise ValueError(f'tokens come from "convolutions" or "attention"; found {tokens!r}')
    else:
        m.stem.kind, m.stem.whiten = "conv", 2
        m.stem.widths, m.stem.pools, m.stem.residual = (64, 128, 128), (2, 1, 1), (False, False, True)
        m.stem.norm, m.stem.activation = "layer", "gelu_tanh"
        m.patch_size, m.width, m.depth, m.heads, m.mlp_dim = 2, 192, 2, 4, 384
    m.posemb, m.activation = "sincos2d", "gelu_tanh"

    a = config.augment
    a.flip, a.alternate_flip, a.crop_padding = True, True, 2

    o = config.optim
    o.name, o.learning_rate, o.adam_learning_rate, o.muon_iterations = "muon", 0.02, 2e-3, 3
    o.momentum, o.b2, o.weight_decay, o.clip_norm = 0.9, 0.95, 0.01, None
    o.schedule, o.warmup = "linear", "5 %"

    t = config.train
    t.length, t.batch_size, t.label_smoothing = "600 s", 256, 0.1
    config.eval.every = config.checkpoint.every = "0 steps"
    config.eval.flips = True
    return config
