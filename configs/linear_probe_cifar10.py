"""Trains a new head on frozen weights, on CIFAR-10: how good are their features?

vit-jax --config=linear_probe_cifar10 --config.init_from=B_16.npz --workdir=runs/probe

Expected: as good as the features of the weights are
Budget: 10 epochs at the cost of forward passes

Nothing but head/logits (and DeiT's head/logits_distill) is trained, so a step costs little more than a forward pass.
Images are made as large as the weights are for, and normalised as for those; --config.model.image_size takes another
size. A run of this project, or an export, can be the start, too: --config.init_from=runs/laptop. Its head is new where
the classes are others.
"""

from vit_jax.config import base_config


def get_config():
    config = base_config()
    config.augment.flip = True
    config.optim.rate_rules = ((r"head/logits(_distill)?/.*", 1.0), (r".*", 0.0))
    config.optim.weight_decay = 0.0
    config.optim.learning_rate = 1e-3
    config.train.length = "10 epochs"
    return config
