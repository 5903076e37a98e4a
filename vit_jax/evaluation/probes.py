"""How much a classifier that is simple finds in features: nearest neighbours and linear probes on all train images.

As DINO and DINOv2 report it (Caron et al. 2021, section 4.1; Oquab et al. 2023, section 7.1). N images, D features, C
classes, S settings.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

_TEMPERATURE = 0.07  # of the votes (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Discrimination")
_CHUNK = 1000  # images whose neighbours are looked for at a time
_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_EPOCHS, _BATCH = 20, 256


class Labelled(NamedTuple):
    features: np.ndarray  # (N, D) float32
    labels: np.ndarray  # (N,) int


def knn(train: Labelled, test: Labelled, ks: tuple[int, ...], num_classes: int) -> dict[int, float]:
    """Top-1, a fraction, by the `k` train images of the greatest cosine similarity, for each k.

    Each votes for its class with exp(similarity / 0.07).
    """
    known, asked = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train[0], test[0]))
    most, right = min(max(ks), len(known)), dict.fromkeys(ks, 0)
    for start in range(0, len(asked), _CHUNK):
        similar = asked[start : start + _CHUNK] @ known.T  # (M, N)
        nearest = np.argpartition(-similar, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(similar, nearest, axis=1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)  # (M, K), the most similar first
        votes = np.exp((np.take_along_axis(similar, nearest, axis=1) - 1) / _TEMPERATURE)
        for k in ks:
            counts = np.zeros((len(similar), num_classes))
            np.add.at(counts, (np.arange(len(similar))[:, None], train.labels[nearest[:, :k]]), votes[:, :k])
            right[k] += int((counts.argmax(axis=1) == test.labels[start : start + _CHUNK]).sum())
    return {k: count / len(asked) for k, count in right.items()}


def by_gradient(train: Labelled, validation: Labelled, test: Labelled, num_classes: int) -> tuple[float, float]:
    """Test top-1 of a linear classifier trained by SGD with momentum, and its rate, the best of seven on validation.

    All rates are trained at once, for 20 epochs in batches of 256, falling by a cosine. Features are brought to mean 0
    and variance 1 by the train images.
    """
    mean, std = train.features.mean(axis=0), train.features.std(axis=0) + 1e-5
    x, *others = (((part.features - mean) / std).astype(np.float32) for part in (train, validation, test))
    batch = min(_BATCH, len(x))
    steps = _EPOCHS * (len(x) // batch)
    order = np.random.RandomState(0)
    index = np.concatenate([order.permutation(len(x))[: len(x) // batch * batch] for _ in range(_EPOCHS)])
    weights = _trained(jnp.asarray(x), jnp.asarray(train.labels), index.reshape(steps, batch), num_classes)
    chosen, tested = (
        np.asarray(_top1(weights, part, labels.labels)) for part, labels in zip(others, (validation, test), strict=True)
    )
    best = int(np.argmax(chosen))
    return float(tested[best]), _RATES[best]


@jax.jit
def _top1(weights: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
    """(S,) fractions."""
    logits = jnp.einsum("nd,sdc->snc", x, weights["kernel"]) + weights["bias"][:, None]
    return (logits.argmax(axis=-1) == labels).mean(axis=-1)


def _trained(x: jax.Array, labels: jax.Array, index: np.ndarray, num_classes: int) -> Any:
    """Kernels (S, D, C) and biases (S, C) after a step for each row of `index` (steps, B)."""
    tx = optax.trace(0.9)
    rates = jnp.array(_RATES)
    zeros = {
        "kernel": jnp.zeros((len(_RATES), x.shape[1], num_classes)),
        "bias": jnp.zeros((len(_RATES), num_classes)),
    }
    shares = optax.cosine_decay_schedule(1.0, len(index))(jnp.arange(len(index)))

    def loss(weights: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        logits = x @ weights["kernel"] + weights["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def run(x: jax.Array, labels: jax.Array, index: jax.Array) -> Any:
        def step(carry: Any, at: Any) -> tuple[Any, None]:
            weights, state = carry
            rows, share = at
            grads = jax.vmap(jax.grad(loss), (0, None, None))(weights, x[rows], labels[rows])
            updates, state = tx.update(grads, state)
            change = jax.tree.map(lambda u: -share * rates.reshape(-1, *[1] * (u.ndim - 1)) * u, updates)
            return (optax.apply_updates(weights, change), state), None

        return jax.lax.scan(step, (zeros, tx.init(zeros)), (index, shares))[0][0]

    return run(x, labels, jnp.asarray(index))
