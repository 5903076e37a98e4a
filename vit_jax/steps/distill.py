"""Distillation: what a teacher says of the images that the student is shown, as a target. B batch, C classes."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit_jax.config import AugmentConfig, DistillConfig
from vit_jax.models import VisionTransformer
from vit_jax.models.stems import image_shape
from vit_jax.steps.losses import cross_entropy
from vit_jax.system.sharding import of_each_device


class Teacher(flax.struct.PyTreeNode):
    """A model that isn't trained, and what its images are normalised with, per channel, of pixels in [0, 1]."""

    params: Any
    module: VisionTransformer = flax.struct.field(pytree_node=False)
    mean: tuple[float, ...] = flax.struct.field(pytree_node=False)
    std: tuple[float, ...] = flax.struct.field(pytree_node=False)
    sha256: str = flax.struct.field(pytree_node=False)  # of its numbers and what it is, by which it is known again


@jax.named_scope("teacher")
def teacher_logits(teacher: Teacher, images: jax.Array, cfg: AugmentConfig, parts: int, mesh: Mesh) -> jax.Array:
    """Logits (B, C) float32 of augmented images (B, H, W, channels), normalised by `cfg`, in `parts` micro-batches.

    Teacher and student see the same crop of the same mixture (Beyer et al. 2022, "A good teacher is patient and
    consistent"), resized where the teacher's images have another size.
    """
    size = image_shape(teacher.module.cfg)[:2]
    # From the student's normalisation to the teacher's; as they are where the two agree.
    scale = jnp.asarray(cfg.std) / jnp.asarray(teacher.std)
    shift = (jnp.asarray(cfg.mean) - jnp.asarray(teacher.mean)) / jnp.asarray(teacher.std)

    def logits(params: Any, images: jax.Array, module: VisionTransformer) -> jax.Array:
        x = jax.image.resize(images * scale + shift, (images.shape[0], *size, images.shape[3]), "bilinear")
        return module.apply({"params": params}, x)[0]

    if parts == 1:
        return logits(teacher.params, images, teacher.module)
    alone = teacher.module.of_one_device()

    def own(params: Any, images: jax.Array) -> jax.Array:
        split = images.reshape(parts, -1, *images.shape[1:])  # (A, B/A, H, W, channels)
        rows = jax.lax.map(lambda part: logits(params, part, alone), split)  # (A, B/A, C)
        return rows.reshape(-1, rows.shape[-1])

    return of_each_device(own, mesh, takes=(False, True), gives=True)(teacher.params, images)


def distillation(logits: jax.Array, teacher: jax.Array, cfg: DistillConfig) -> jax.Array:
    """Per-example loss (B,) of a student's logits (B, C) against a teacher's, in nats.

    hard  cross-entropy with the class that the teacher prefers (Touvron et al. 2021, DeiT)
    soft  T^2 KL(teacher / T || student / T) of a temperature T (Hinton, Vinyals and Dean 2015). DeiT's own program
          divides by the number of classes, too
    """
    if cfg.kind == "hard":
        return cross_entropy(logits, teacher.argmax(axis=-1))
    wanted = jax.nn.log_softmax(teacher / cfg.temperature)  # (B, C)
    found = jax.nn.log_softmax(logits / cfg.temperature)
    return cfg.temperature**2 * (jnp.exp(wanted) * (wanted - found)).sum(axis=-1)
