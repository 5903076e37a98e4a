"""What logits say of a model: scores, guesses and probabilities. N examples, C classes."""

import numpy as np

from vit_jax.steps.losses import rank_of_label


def scorable(logits: np.ndarray) -> np.ndarray:
    """(N,) bool: the images all of whose logits (N, C) are finite. A model says nothing of the others.

    Such an image counts as wrong wherever something is counted; it has neither probabilities nor a loss.
    """
    return np.isfinite(logits).all(axis=1)


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean cross-entropy in nats, top-1 and top-5 as fractions, and how many images that is of.

    The loss is NaN where not all images are `scorable`.
    """
    good, true = scorable(logits), np.arange(len(labels))
    logits = np.where(good[:, None], logits.astype(np.float64), 0)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (N, C)
    ranks = rank_of_label(logits, labels)
    return {
        "loss": float(np.where(good, -log_probs[true, labels], np.nan).mean()),
        "top1": float((good & (ranks < 1)).mean()),
        "top5": float((good & (ranks < 5)).mean()),
        "num_examples": len(labels),
    }


def guesses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class (N,) for which each image is taken; one that isn't `scorable` for the class after its own."""
    return np.where(scorable(logits), logits.argmax(axis=1), (labels + 1) % logits.shape[1])


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C, C) int: how many images of the row's class were taken for the column's, as `guesses` says."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + guesses(logits, labels), minlength=classes**2).reshape(classes, classes)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits (N, C), float64; NaN for an image that isn't `scorable`."""
    logits = np.where(scorable(logits)[:, None], logits.astype(np.float64), np.nan)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap of confidence and accuracy over equal-width bins.

    Of an image that isn't `scorable` the confidence is 1: no other is as far from being wrong.
    """
    confidence = np.where(scorable(logits), probabilities(logits).max(axis=1), 1.0)  # (N,)
    gap = confidence - (guesses(logits, labels) == labels)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(which, gap, minlength=bins)).sum() / len(labels))
