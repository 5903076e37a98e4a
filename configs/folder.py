"""A folder of one's own pictures, from scratch: a small ViT behind two convolutions, at 64 pixels.

vit-jax --config=folder --config.data.dir=pictures --workdir=runs/pictures

Expected: depends on the pictures; a few hundred of each class are needed for more than a first impression
Budget: 60 epochs, of 2,000 images some 9 minutes on 2 CPU cores; ends early where validation gets no better

The folder has one folder of images for each class, alone or under train/, val/ and test/. `:224` after the name sees
224 pixels with patches of 16 (ViT-S/16 of Touvron et al. 2021): for tens of thousands of pictures and an accelerator.
With few pictures, start from published weights: finetune_folder.
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "224"):
        raise ValueError(f"there is 224, or nothing after the name; found {variant}")
    config = base_config()
    config.data.name = "image_folder"
    config.data.crop_pct = 0.875

    m = config.model
    if variant:
        m.variant, m.image_size = "S/16", 224
        m.drop_path = 0.1
    else:
        m.image_size, m.patch_size = 64, 2
        m.stem.kind, m.stem.widths, m.stem.strides = "conv", (48, 96), (2, 2)
        m.width, m.depth, m.heads, m.mlp_dim = 128, 6, 4, 256

    a = config.augment
    a.crop_scale, a.flip, a.policy = (0.25, 1.0), True, "trivialaugment"
    a.off_last = 0.1

    o = config.optim
    o.learning_rate, o.weight_decay, o.warmup = 1e-3, 0.05, "10 %"

    t = config.train
    t.length, t.batch_size, t.label_smoothing, t.patience = "60 epochs", 64, 0.1, 15
    config.eval.select = "best"
    return config
