"""Trains a new head on frozen weights, CIFAR-10 at 224 pixels: how good are their features?

python -m vit_jax.main --config=configs/linear_probe_cifar10.py --config.init_from=B_16.npz --workdir=runs/probe

Nothing but head/logits is trained, so a step costs little more than a forward pass. A run of this project can be the
start, too: --config.init_from=runs/laptop --config.model.image_size=32, with --config.augment.mean and .std as its
config.json has them, which are those of [-1, 1] here. Its head is new where the classes are others.
"""

from vit_jax.config import base_config


def get_config():
    config = base_config()
    config.model.image_size = 224
    config.augment.mean = config.augment.std = (0.5, 0.5, 0.5)
    config.augment.flip = True
    config.optim.rate_rules = ((r"head/logits/.*", 1.0), (r".*", 0.0))
    config.optim.weight_decay = 0.0
    config.optim.learning_rate = 1e-3
    config.train.length = "10 epochs"
    return config
