"""Fine-tunes published weights on CIFAR-10 (Steiner et al. 2022, "How to train your ViT?", section 3).

vit-jax --config=finetune_cifar10 --config.init_from=B_16.npz --workdir=runs/finetune

Expected: 98.6 to 99.0 % published for an ImageNet-21k ViT-B/16; not run here
Budget: 1,000 steps of 512 images: an accelerator

Images are made as large as the weights are for, mostly 224 pixels, and normalised as for those. `:384` after the name
takes 384 pixels; `:adamw` takes AdamW with rates that fall by 0.75 from block to block below the head
(BEiT, Bao et al. 2022) in place of SGD. Weights: an .npz of google-research/vision_transformer, a folder of Hugging
Face's ViT, or a state dict of timm's (with --config.model.heads=12). The published figures are of 500 to
10,000 steps of 512 images.
"""

from vit_jax.config import base_config


def get_config(variant: str = ""):
    if unknown := set(variant.split(",")) - {"", "384", "adamw"}:
        raise ValueError(f"there are 384 and adamw, or both with a comma between; found {', '.join(sorted(unknown))}")
    config = base_config()
    if "384" in variant:
        config.model.image_size = 384
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.train.length = "1000 steps"
    config.train.batch_size = 512
    config.optim.warmup = "10 %"
    config.optim.weight_decay = 0.0
    if "adamw" in variant:
        config.optim.learning_rate = 1e-3
        depth = 12  # blocks of the weights; another depth needs other rules
        blocks = tuple((rf"block_{i:02d}/.*", 0.75 ** (depth - i)) for i in range(depth))
        config.optim.rate_rules = ((r"(head|norm)/.*", 1.0), *blocks, (r".*", 0.75 ** (depth + 1)))
    else:
        config.optim.name = "sgd"
        config.optim.momentum = 0.9
        config.optim.learning_rate = 0.03
    config.eval.every = config.checkpoint.every = "100 steps"
    return config
