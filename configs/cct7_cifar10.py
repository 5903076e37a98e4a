"""CCT-7/3x1 on CIFAR-10, 300 epochs: the Compact Convolutional Transformer of Hassani et al. 2021.

vit-jax --config=cct7_cifar10 --workdir=runs/cct7

Expected: 96.53 % published; not yet run here
Budget: 300 epochs, 96 PFLOPs: hours on an accelerator

Published: 96.53 % test top-1, the best epoch on the test images, by github.com/SHI-Labs/Compact-Transformers with
configs/pretrained/cct_7-3x1_cifar10_300epochs.yml. The model is that of its src/cct.py, parameter by parameter
(3,760,139) and with its initial values, but for the blocks: they are plainly pre-norm here, where CCT's also normalise
the residual stream before the MLP. The other settings are the file's, but for shifted crops in place of resized ones of
80 to 100 % of the area; rates that change with each step, not each epoch, from 0 in the warmup, and no 10 epochs at the
last one; 45,000 training images. Meant for an accelerator: 7.1 GFLOPs an image and step, 96 PFLOPs in all.
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()

    m = config.model
    m.stem.kind, m.stem.widths, m.stem.activation = "conv", (256,), "relu"
    m.stem.bias, m.stem.pool, m.stem.project = False, True, False
    m.patch_size, m.width, m.depth, m.heads, m.mlp_dim = 1, 256, 7, 4, 512
    m.posemb, m.pool, m.norm_eps, m.qkv_bias, m.init = "learned", "sequence", 1e-5, False, "cct"
    m.attention_dropout, m.drop_path = 0.1, 0.1

    a = config.augment
    a.flip, a.crop_padding = True, 4
    a.policy, a.mixup, a.cutmix = "randaugment", 0.8, 1.0
    a.mix_off_last = 1 - 175 / 300

    o = config.optim
    o.learning_rate, o.weight_decay, o.clip_norm = 5.5e-4, 0.06, None
    o.warmup, o.final_fraction = "10 epochs", 1e-5 / 5.5e-4
    # timm's optimizer spares what has one axis; the positions, (1, N, D) there, have three.
    o.decay_rules = ((r".*/kernel|posemb", 1.0), (r".*", 0.0))

    config.train.length, config.train.batch_size, config.train.label_smoothing = "300 epochs", 128, 0.1
    config.eval.every = config.checkpoint.every = "5 epochs"
    return config
