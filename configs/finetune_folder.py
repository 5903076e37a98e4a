"""Fine-tunes published weights on a folder of one's own pictures.

vit-jax --config=finetune_folder --config.init_from=B_16.npz --config.data.dir=pictures --workdir=runs/tuned

Expected: depends on the pictures and the weights; not run here on published ones
Budget: 20 epochs: an accelerator, or for a small model and some hundred pictures a CPU

The folder has one folder of images for each class, alone or under train/, val/ and test/. Images are made as large as
the weights are for, cut and normalised as for those. SGD as in Steiner et al. 2022, "How to train your ViT?", section
3, with a batch and a rate an eighth as large: own sets are small. `:probe` after the name trains the classifier alone,
`:lora` low-rank products beside the kernels, too with AdamW (Hu et al. 2022, "LoRA").
"""

from ml_collections import ConfigDict

from vit_jax.config import base_config


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "probe", "lora"):
        raise ValueError(f"there are probe and lora, or nothing after the name; found {variant}")
    config = base_config()
    config.data.name = "image_folder"
    config.augment.crop_scale, config.augment.flip = (0.4, 1.0), True

    o = config.optim
    o.name, o.momentum, o.weight_decay, o.warmup = "sgd", 0.9, 0.0, "10 %"
    o.learning_rate = 0.03 / 8
    if variant == "lora":
        o.name, o.learning_rate, o.lora_rank = "adamw", 1e-3, 8
    elif variant == "probe":
        o.learning_rate = 0.03
        o.rate_rules = ((r"head/.*", 1.0), (r".*", 0.0))

    t = config.train
    t.length, t.batch_size, t.patience = "20 epochs", 64, 5
    config.eval.select = "best"
    return config
