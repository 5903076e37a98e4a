"""Distillation: the two losses, what the teacher is shown, and the step's loss of both. B batch, C classes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from test_step import CONFIG, IMAGES, LABELS, assert_close, mesh_of

from vit_jax import models
from vit_jax.config import AugmentConfig, DistillConfig, ModelConfig
from vit_jax.data.augment import preprocess
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.distill import Teacher, distillation, teacher_logits
from vit_jax.steps.losses import cross_entropy
from vit_jax.steps.schedules import learning_rate
from vit_jax.steps.step import train_step
from vit_jax.system.sharding import put, replicated

LOGITS, TAUGHT = np.random.RandomState(2).normal(size=(2, 6, 5)).astype(np.float32) * 3
# Of other images than the student's: in size, and in what they are normalised with.
MODEL = ModelConfig(num_classes=5, image_size=12, patch_size=4, width=16, depth=1, heads=2, mlp_dim=32, init="keras2")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def teacher_on(mesh):
    module = models.create(MODEL)
    params = jax.tree.map(lambda x: put(np.asarray(x), replicated(mesh)), states.init_params(module, jnp.uint32(7)))
    return Teacher(params, module, MEAN, STD, "")


def test_the_hard_loss_is_that_of_the_class_that_the_teacher_prefers():
    found = distillation(LOGITS, TAUGHT, DistillConfig(kind="hard"))
    np.testing.assert_allclose(found, -log_softmax(LOGITS, -1)[np.arange(6), TAUGHT.argmax(-1)], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_soft_loss_is_the_divergence_from_the_teachers_probabilities(temperature):
    found = distillation(LOGITS, TAUGHT, DistillConfig(kind="soft", temperature=temperature))
    wanted = softmax(TAUGHT / temperature, -1)
    expected = (wanted * (np.log(wanted) - log_softmax(LOGITS / temperature, -1))).sum(-1) * temperature**2
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(distillation(TAUGHT, TAUGHT, DistillConfig(kind="soft")), 0, atol=1e-6)


def test_the_teacher_sees_the_students_images_as_its_own_would_be():
    """Also in micro-batches, each device its part."""
    teacher, mesh = teacher_on(mesh_of(2)), mesh_of(2)
    cfg = AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.asarray(preprocess(IMAGES[:16], cfg, (8, 8)))  # (B, 8, 8, 3)
    own = preprocess(IMAGES[:16], AugmentConfig(mean=MEAN, std=STD), (12, 12))
    expected = teacher.module.apply({"params": teacher.params}, own)[0]
    for parts in (1, 4):
        found = jax.jit(partial(teacher_logits, cfg=cfg, parts=parts, mesh=mesh))(teacher, images)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def step_of(config, devices):
    """One step from the first state: its loss and the parameters after it; and the teacher."""
    mesh, module = mesh_of(devices), models.create(config.model)
    tx = optim.optimizer(config.optim, states.abstract_params(module), module.dtype)
    state, teacher = states.create(module, tx, 0, mesh), teacher_on(mesh)
    batch = {"image": IMAGES[:16], "label": LABELS[:16], "parity": np.zeros(16, bool)}
    step = partial(
        train_step, fetch=lambda batch, *_: batch, module=module, tx=tx,
        schedule=learning_rate(config.optim, 10, 0), config=config, mesh=mesh, total=10,
    )  # fmt: skip
    after, metrics = jax.jit(step, out_shardings=replicated(mesh))(state, batch, teacher=teacher)
    return float(metrics["loss"]), after.params, state.params, teacher


@pytest.mark.slow
@pytest.mark.parametrize("token", [False, True])
def test_the_steps_loss_is_of_labels_and_teacher(token):
    """With a distillation token each has a classifier of its own; micro-batches on two devices give the same."""
    distill = DistillConfig(teacher="a run", kind="hard", weight=0.3)
    config = dataclasses.replace(
        CONFIG,
        augment=AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3),
        model=dataclasses.replace(CONFIG.model, pool="token" if token else "mean", distill_token=token),
        train=dataclasses.replace(CONFIG.train, distill=distill),
    )
    loss, params, first, teacher = step_of(config, 1)
    images = preprocess(IMAGES[:16], config.augment, (8, 8))
    logits, aux = models.create(config.model).apply({"params": first}, images)
    assert token == ("logits_token" in aux)
    preferred = teacher_logits(teacher, images, config.augment, 1, mesh_of(1)).argmax(-1)
    of_labels = cross_entropy(aux.get("logits_token", logits), LABELS[:16], 0.1)
    of_teacher = cross_entropy(aux.get("logits_distill", logits), preferred)
    np.testing.assert_allclose(loss, (0.7 * of_labels + 0.3 * of_teacher).mean(), rtol=1e-5)

    again = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=2))
    shared, together, _, _ = step_of(again, 2)
    np.testing.assert_allclose(shared, loss, rtol=1e-5)
    assert_close(together, params, 1e-4)
