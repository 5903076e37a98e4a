"""The compiled steps: pure functions of state and data. B batch, A micro-batches, S image size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vit_jax import state as states
from vit_jax.config import Config
from vit_jax.data.augment import augment, preprocess
from vit_jax.data.pipeline import Batch
from vit_jax.losses import cross_entropy, rank_of_label
from vit_jax.models import VisionTransformer
from vit_jax.sharding import batch_sharding
from vit_jax.state import TrainState

# From what the loop hands in (a resident pipeline or a batch), the seed and the step, to the batch.
Fetch = Callable[[Any, jax.Array, jax.Array], Batch]


def train_step(
    state: TrainState,
    data: Any,
    *,
    fetch: Fetch,
    module: VisionTransformer,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
    mesh: Mesh,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: batch, augmentation, gradients averaged over the whole batch, AdamW.

    All randomness is fold_in(key of the seed, state.step). The metrics, () float32 each, are those of this batch,
    before the update: loss (with label smoothing, if any), top1, top5, grad_norm, learning_rate.
    """
    key = jax.random.fold_in(states.keys(state.seed)[1], state.step)
    augment_key, dropout_key = jax.random.split(key)
    batch = jax.lax.with_sharding_constraint(fetch(data, state.seed, state.step), batch_sharding(mesh))
    images = augment(augment_key, batch["image"], config.augment, module.cfg.image_size)  # (B, S, S, 3)

    def loss_fn(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, dict]:
        logits, _ = module.apply({"params": params}, images, train=True, rngs={"dropout": key})
        losses = cross_entropy(logits, labels, config.train.label_smoothing)
        ranks = rank_of_label(logits, labels)
        sums = {"loss": losses.sum(), "top1": (ranks < 1).sum(), "top5": (ranks < 5).sum()}
        return losses.mean(), jax.tree.map(lambda x: x.astype(jnp.float32), sums)

    grads, sums = _gradients(loss_fn, state.params, images, batch["label"], dropout_key, config.train.accumulate or 1)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    count = jnp.float32(config.train.batch_size)
    metrics = {name: value / count for name, value in sums.items()}
    metrics["grad_norm"] = optax.tree.norm(grads)
    metrics["learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
    updated = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        totals=jax.tree.map(jnp.add, state.totals, {**sums, "count": count}),
    )
    if config.optim.skip_nonfinite:
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        # Steps are counted on, so that schedule and data go on as if nothing had happened.
        updated = jax.tree.map(
            lambda new, old: jnp.where(good, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new,
            updated, state,
        )  # fmt: skip
    return updated, metrics


def train_steps(state: TrainState, data: Any, *, count: int, **bound: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    """`count` steps of `train_step`, bound as it is, in one call. Each metric is (count,) float32, step by step."""
    return jax.lax.scan(lambda state, _: train_step(state, data, **bound), state, length=count)


def _gradients(
    loss_fn: Callable, params: Any, images: jax.Array, labels: jax.Array, key: jax.Array, accumulate: int
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradients of the mean loss and sums of the metrics, over `accumulate` micro-batches in turn."""
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if accumulate == 1:
        return grad_fn(params, images, labels, key)

    def split(x: jax.Array) -> jax.Array:  # every accumulate-th example: each micro-batch spans all devices
        return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)  # (A, B/A, ...)

    def add(total: Any, micro: Any) -> tuple[Any, None]:
        images, labels, i = micro
        return jax.tree.map(jnp.add, total, grad_fn(params, images, labels, jax.random.fold_in(key, i))), None

    micros = (split(images), split(labels), jnp.arange(accumulate))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(grad_fn, params, *jax.tree.map(lambda x: x[0], micros[:2]), key),
    )
    (grads, sums), _ = jax.lax.scan(add, zeros, micros)
    return jax.tree.map(lambda g: g / accumulate, grads), sums


def eval_step(params: Any, images: jax.Array, *, module: VisionTransformer, config: Config) -> jax.Array:
    """uint8 (B, H, W, 3) -> logits (B, C) float32."""
    x = preprocess(images, config.augment, module.cfg.image_size)  # (B, S, S, 3)
    return module.apply({"params": params}, x, train=False)[0]
