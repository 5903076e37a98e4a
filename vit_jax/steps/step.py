"""The compiled steps: pure functions of state and data. B batch, A micro-batches, H/W pixels."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vit_jax.config import AugmentConfig, Config
from vit_jax.data.augment import augment, preprocess
from vit_jax.data.geometry import enlarged
from vit_jax.data.pipeline import Batch
from vit_jax.data.targets import Targets
from vit_jax.models import VisionTransformer
from vit_jax.models.encoder import is_of_blocks
from vit_jax.models.stems import image_shape
from vit_jax.steps import state as states
from vit_jax.steps.distill import Teacher, distillation, teacher_logits
from vit_jax.steps.losses import mixed_cross_entropy, rank_of_label
from vit_jax.steps.optim import rates, updates_done
from vit_jax.steps.partition import specs_of
from vit_jax.steps.rules import path_of
from vit_jax.steps.schedules import Schedule, TimedProgress, ramp
from vit_jax.steps.state import TrainState
from vit_jax.system.sharding import batch_sharding, gathered, of_each_device

# From what the loop hands in (a resident pipeline or a batch), the seed and the step, to the batch.
Fetch = Callable[[Any, jax.Array, jax.Array], Batch]


def train_step(
    state: TrainState,
    data: Any,
    timed: TimedProgress | None = None,
    teacher: Teacher | None = None,
    ahead: jax.Array | int = 0,
    *,
    fetch: Fetch,
    module: VisionTransformer,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    config: Config,
    mesh: Mesh,
    total: int,
    class_weights: tuple[float, ...] | None = None,
    split: Mapping[str, int] = MappingProxyType({}),
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: batch, augmentation, gradients averaged over the whole batch, optimizer.

    All randomness is fold_in(key of the seed, state.step). The progress of the run, up to `total` (schedules.py), is
    state.step or, where it follows the clock, timed.now + ahead * timed.per_step. The metrics, () float32 each, are
    those of this batch, before the update: loss (what is minimised: of the targets, mixed and smoothed if the config
    says so, times `class_weights`, losses.weights_of of the train labels), top1, top5 (of an image mixed of two by the
    first one's label), grad_norm, learning_rate.

    With a `teacher` its logits are a target beside the labels, as config.train.distill says. Of a model with a
    distillation token the loss of the labels is then the class token's, that of the teacher the other's.

    `split` says which parameters the mesh's devices share, by path, and along which axis (partition.split_axes).

    With config.train.overfit_one_batch the batch is that of step 0, and nothing about it or in the model is random.
    """
    if (config.train.class_weights != "none") != (class_weights is not None):
        raise ValueError(f"config.train.class_weights={config.train.class_weights!r}, class_weights={class_weights}")
    progress = state.step if timed is None else timed.now + ahead * timed.per_step
    augment_key, dropout_key = keys_at(state.seed, state.step)
    # Scopes name the parts of the program where its memory's traffic is looked at (aot/hlo.py).
    with jax.named_scope("fetch"):
        number = jnp.zeros_like(state.step) if config.train.overfit_one_batch else state.step
        batch = jax.lax.with_sharding_constraint(fetch(data, state.seed, number), batch_sharding(mesh))
    with jax.named_scope("augment"):
        size = image_shape(module.seen)[:2]
        images, targets = shown(augment_key, batch, config, size, progress, total)  # (B, H, W, C)
    accumulate = config.train.accumulate or 1
    if teacher is not None:
        targets = targets._replace(teacher=teacher_logits(teacher, images, config.augment, accumulate, mesh))
    drop_path_share = ramp(module.cfg.drop_path_ramp, progress, total)
    if accumulate > 1 or split:  # each device computes for itself
        module = module.of_one_device(split)
    loss_fn = _loss_of(module, config, rates(config.optim, state.params), drop_path_share, class_weights, split)
    grads, sums = _gradients(loss_fn, state.params, images, targets, dropout_key, accumulate, mesh, split)
    rate = jnp.asarray(schedule(progress), jnp.float32)
    with jax.named_scope("update"):
        updates, opt_state = tx.update(grads, state.opt_state, state.params, learning_rate=rate)
        params = optax.apply_updates(state.params, updates)
    count = jnp.float32(config.train.batch_size)
    metrics = {name: value / count for name, value in sums.items()}
    metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": rate}
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return _after(state, params, opt_state, {**sums, "count": count}, finite, config), metrics


def _after(
    state: TrainState, params: Any, opt_state: Any, sums: dict[str, jax.Array], finite: jax.Array, config: Config
) -> TrainState:
    """The state after a step, of its new parameters and the sums of its metrics; `finite` are its loss and gradient."""
    updated = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        totals=jax.tree.map(jnp.add, state.totals, sums),
        ema=None
        if state.ema is None or config.train.ema is None
        else averaged(state.ema, params, updates_done(state.opt_state), config.train.ema),
    )
    if config.optim.skip_nonfinite:
        # As if the step hadn't been, the optimizer's own count of updates and the totals too; but it is counted in
        # state.step, so that schedule and data go on.
        updated = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        updated = updated.replace(step=state.step + 1)
    return updated


def _loss_of(
    module: VisionTransformer,
    config: Config,
    shares: Any,
    drop_path_share: jax.Array | float,
    class_weights: tuple[float, ...] | None,
    split: Mapping[str, int],
) -> Callable[[Any, jax.Array, Targets, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
    """(params, images, targets, dropout key) -> the mean loss, and sums of the metrics over the images.

    `shares` are those of the learning rate that each parameter takes; one with 0 isn't trained.
    """
    overfit = config.train.overfit_one_batch

    def loss_fn(params: Any, images: jax.Array, targets: Targets, key: jax.Array) -> tuple[jax.Array, dict]:
        # What isn't trained costs no backward pass, and is no part of the gradient's norm.
        params = jax.tree.map(lambda p, share: p if share else jax.lax.stop_gradient(p), params, shares)
        outside = {path: axis for path, axis in split.items() if not is_of_blocks(path)}
        params = gathered(params, outside)  # blocks gather their own
        logits, aux = module.apply(
            {"params": params}, images, train=not overfit, drop_path_share=drop_path_share, rngs={"dropout": key}
        )
        smoothing = 0.0 if overfit else config.train.label_smoothing
        if targets.teacher is None:
            losses = mixed_cross_entropy(logits, targets, smoothing, class_weights)
        else:
            distill = config.train.distill
            losses = mixed_cross_entropy(aux.get("logits_token", logits), targets, smoothing, class_weights)
            other = distillation(aux.get("logits_distill", logits), targets.teacher, distill)
            losses = (1 - distill.weight) * losses + distill.weight * other
        ranks = rank_of_label(logits, targets.label)
        sums = {"loss": losses.sum(), "top1": (ranks < 1).sum(), "top5": (ranks < 5).sum()}
        return losses.mean(), jax.tree.map(lambda x: x.astype(jnp.float32), sums)

    return loss_fn


def keys_at(seed: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of a step's augmentation and of its dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(states.keys(seed)[1], step))
    return augment_key, dropout_key


def shown(
    key: jax.Array, batch: Batch, config: Config, size: tuple[int, int], progress: jax.Array, total: int
) -> tuple[jax.Array, Targets]:
    """What the model is shown of a batch at this progress: float32 (B, *size, C), normalised, and its targets."""
    cfg = config.augment
    if config.train.overfit_one_batch:
        cfg = AugmentConfig(mean=cfg.mean, std=cfg.std)
    images = enlarged(batch["image"], batch["extent"]) if "extent" in batch else batch["image"]
    return augment(
        key,
        images,
        batch["label"],
        batch["parity"],
        cfg,
        size,
        ramp(cfg.ramp, progress, total),
        1.0 - progress / total,
    )


def train_steps(
    state: TrainState,
    data: Any,
    timed: TimedProgress | None = None,
    teacher: Teacher | None = None,
    *,
    count: int,
    **bound: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`count` steps of `train_step`, bound as it is, in one call. Each metric is (count,) float32, step by step."""
    return jax.lax.scan(lambda state, i: train_step(state, data, timed, teacher, i, **bound), state, jnp.arange(count))


def averaged(ema: Any, params: Any, updates: jax.Array, decay: float) -> Any:
    """The exponential moving average after one more update, its decay at first (1 + updates) / (10 + updates) if less.

    That start-up is TensorFlow's (tf.train.ExponentialMovingAverage): the average doesn't linger at the initial values.
    """
    now = jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))
    return jax.tree.map(lambda old, new: old + (1 - now) * (new - old), ema, params)


def _gradients(
    loss_fn: Callable,
    params: Any,
    images: jax.Array,
    targets: Targets,
    key: jax.Array,
    accumulate: int,
    mesh: Mesh,
    split: Mapping[str, int],
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradients of the mean loss and sums of the metrics, over `accumulate` micro-batches in turn.

    Of these each device adds up its own, and all meet once, at the end: left to XLA's partitioning, they would wait for
    each other in every micro-batch. Parameters that are `split` are gathered anew in each, for the memory's sake, and
    their gradients come out split likewise.
    """
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if accumulate == 1 and not split:
        return grad_fn(params, images, targets, key)

    def parts(x: jax.Array) -> jax.Array:  # every accumulate-th example, on each device
        return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)  # (A, B/A, ...)

    def own(params: Any, images: jax.Array, targets: Targets, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        def add(total: Any, micro: Any) -> tuple[Any, None]:
            images, targets, i = micro
            return jax.tree.map(jnp.add, total, grad_fn(params, images, targets, jax.random.fold_in(key, i))), None

        if accumulate == 1:
            return together(*grad_fn(params, images, targets, key))
        micros = (parts(images), jax.tree.map(parts, targets), jnp.arange(accumulate))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(grad_fn, params, *jax.tree.map(lambda x: x[0], micros[:2]), key),
        )
        return together(*jax.lax.scan(add, zeros, micros)[0])

    def together(grads: Any, sums: Any) -> tuple[Any, Any]:
        # What is split was summed over those that share it when its gradient went back (sharding.gathered).
        summed = jax.tree_util.tree_map_with_path(
            lambda path, g: jax.lax.psum(g, "data" if path_of(path) in split else mesh.axis_names), grads
        )
        return summed, jax.lax.psum(sums, mesh.axis_names)

    lie = specs_of(params, split)
    grads, sums = of_each_device(own, mesh, takes=(lie, True, True, False), gives=(lie, False))(
        params, images, targets, key
    )
    return jax.tree.map(lambda g: g / (accumulate * mesh.size), grads), sums


def features_step(params: Any, images: jax.Array, *, module: VisionTransformer, config: Config) -> jax.Array:
    """uint8 (B, H, W, channels) -> what the classifier is given, (B, D) float32."""
    x = preprocess(images, config.augment, image_shape(module.cfg)[:2])  # (B, H, W, C) of the model
    return module.apply({"params": params}, x, train=False)[1]["pre_logits"].astype(jnp.float32)


def eval_step(params: Any, images: jax.Array, *, module: VisionTransformer, config: Config) -> jax.Array:
    """uint8 (B, H, W, channels) -> logits (B, C) float32."""
    x = preprocess(images, config.augment, image_shape(module.cfg)[:2])  # (B, H, W, C) of the model
    return module.apply({"params": params}, x, train=False)[0]
