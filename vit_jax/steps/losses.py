"""Cross-entropy, the classes' weights in it, and ranks. B batch, C classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.targets import Targets


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Per-example softmax cross-entropy: logits (B, C) float32, labels (B,) int -> (B,), in nats.

    `smoothing` is the share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
    """
    log_probs = jax.nn.log_softmax(logits)  # (B, C)
    true = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]  # (B,)
    return -(1 - smoothing) * true - smoothing * log_probs.mean(axis=1)


def mixed_cross_entropy(
    logits: jax.Array, targets: Targets, smoothing: float = 0.0, class_weights: tuple[float, ...] | None = None
) -> jax.Array:
    """Per-example loss (B,) of logits (B, C) for images mixed of two: that of the mixed and smoothed targets.

    With `class_weights`, one for each class, the loss of each of the two labels counts times the weight of that label.
    The batch's loss is the plain mean of these: it isn't divided by the sum of their weights, so that the parts of a
    batch add up to the whole, however they are divided over devices and micro-batches.
    """

    def of(labels: jax.Array) -> jax.Array:
        losses = cross_entropy(logits, labels, smoothing)
        return losses if class_weights is None else jnp.asarray(class_weights, losses.dtype)[labels] * losses

    own = of(targets.label)
    return targets.weight * own + (1 - targets.weight) * of(targets.partner)


def weights_of(kind: str, labels: np.ndarray, classes: int | None) -> tuple[float, ...] | None:
    """The weight of each class that `config.train.class_weights` asks for; None for "none". labels (N,) int of a split.

    `classes`: None for as many as the labels have.

    "balanced" is scikit-learn's: N / (C * images of the class), C being the classes that have any. The weights of the N
    images then have the mean 1, and all classes the same sum. A class without images weighs 0.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=classes or 0)  # (C,)
    weights = np.where(counts > 0, len(labels) / ((counts > 0).sum() * np.maximum(counts, 1)), 0.0)
    return tuple(weights.tolist())


def rank_of_label(logits: Any, labels: Any) -> Any:
    """How many classes are preferred to the true one, (B,) int: top-k counts ranks below k. NumPy or JAX arrays.

    Of equal logits the first class is preferred, as argmax does, so that a constant model scores as chance;
    NaN is preferred to anything, so that a broken model scores 0.
    """
    true = logits[np.arange(logits.shape[0]), labels][:, None]  # (B, 1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]  # (B, C)
    preferred = (logits > true) | ((logits == true) & earlier) | (logits != logits) | (true != true)
    return preferred.sum(axis=1) + 5 * (true != true)[:, 0]  # out of the top 5, however few the classes
