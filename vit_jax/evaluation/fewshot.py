"""Few-shot evaluation: how well a linear classifier in closed form does on a model's features, from a few images.

Ridge regression on labels of -1 and 1, as in Dosovitskiy et al. 2021 (section 4). N images, D features, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.config import DataConfig
from vit_jax.data.dataset import DataSet, take
from vit_jax.errors import UserError
from vit_jax.evaluation import probes
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.evaluation.features import Extractor
from vit_jax.steps.step import features_step
from vit_jax.system.progress import doing, percent, say, say_table
from vit_jax.system.sharding import make_mesh

_STRENGTHS = [2.0**power for power in range(-10, 21)]  # of the ridge; features have variance 1
_DRAWS = 3  # of the few images


def ridge(features: np.ndarray, labels: np.ndarray, num_classes: int, strengths: Sequence[float]) -> np.ndarray:
    """Weights (S, D + 1, C) of ridge regressions from features (N, D) to labels (N,), for S strengths.

    The last row is the bias, of a feature that is always 1 and penalised like the others.
    """
    x = _with_ones(features.astype(np.float64))  # (N, D + 1)
    y = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)  # (N, C)
    # One decomposition serves all strengths.
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    uy = u.T @ y  # (R, C)
    return np.stack([vt.T @ ((s / (s * s + strength))[:, None] * uy) for strength in strengths])


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def accuracy(weights: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Top-1, fractions (S,), of weights (S, D + 1, C) on features (N, D)."""
    scores = _with_ones(features.astype(np.float64)) @ weights  # (S, N, C)
    return (scores.argmax(axis=-1) == labels).mean(axis=-1)


def few_of_each(labels: np.ndarray, shots: int, seed: int, classes: Sequence[str]) -> np.ndarray:
    """Indices (C, shots) of images of each class that has any, drawn by `seed`.

    `classes` are the labels' names. Raises UserError where a class has fewer.
    """
    rng, chosen = np.random.RandomState(seed), []
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        if len(where) < shots:
            raise UserError(f"--shots={shots}: class {classes[label]!r} has only {len(where)} images to learn from")
        chosen.append(rng.choice(where, shots, replace=False))
    return np.stack(chosen)


def score(
    features: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
) -> tuple[float, float]:
    """Test top-1 of what is learned from features (N, D), and the ridge that was the best on validation.

    Validation and test are (features, labels). Features are brought to mean 0 and variance 1 by the N images.
    """
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-5
    weights = ridge((features - mean) / std, labels, num_classes, _STRENGTHS)
    best = int(np.argmax(accuracy(weights, (validation[0] - mean) / std, validation[1])))
    top1 = accuracy(weights[best : best + 1], (test[0] - mean) / std, test[1])[0]
    return float(top1), float(_STRENGTHS[best])


def fewshot(
    model: Extractor,
    dataset: DataSet,
    data: DataConfig,
    shots: Sequence[int],
    knn: Sequence[int] = (),
    linear: bool = False,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Scores a model's features for each number of shots and says a table; gives what fewshot.json is to say.

    Of all train images, too, if asked for: by their `knn` nearest ones, each number of them, and by `linear` probes.
    Learns from train images, chooses on validation, tests on test: `data` has all three splits. Raises UserError for
    more shots or neighbours than there are images.
    """
    classes = dataset.classes
    train, validation, test = (
        take(dataset, str(split), f"config.data.{key}")
        for key, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    )
    if knn and max(knn) > len(train.labels):
        raise UserError(f"--knn={max(knn)}: there are {len(train.labels):,} train images; look for fewer")
    # Of fewer shots, each draw takes the first ones.
    draws_of_each = [few_of_each(train.labels, max(shots), seed, classes) for seed in range(_DRAWS)]
    few = np.stack(draws_of_each)  # (draws, C, shots)
    say(f"Features of {model.name} ...")
    with doing("Computing features"):
        shape = train.images.shape[1:]
        compute = Evaluator(model.module, model.config, make_mesh(), model.params, shape, features_step).logits
        features = compute(model.params, train.images[few.reshape(-1)], check)
        features = features.reshape(*few.shape, -1)  # (draws, C, shots, D)
        to_choose, to_test = ((compute(model.params, part.images, check), part.labels) for part in (validation, test))
    if lost := sum(int((~np.isfinite(x)).any(axis=-1).sum()) for x in (features, to_choose[0], to_test[0])):
        raise UserError(f"the model's features of {lost:,} images aren't finite; take another --checkpoint")
    results = [_by_few(features, train.labels[few], shot, to_choose, to_test, len(classes)) for shot in shots]
    probed: dict[str, Any] = {}
    if knn or linear:
        with doing("Computing features of all train images"):
            of_all = probes.Labelled(compute(model.params, train.images, check), train.labels)
        with doing("Probing"):
            probed = _probed(of_all, probes.Labelled(*to_choose), probes.Labelled(*to_test), knn, linear, len(classes))
    rows = [
        (f"{r['shots']} of each class", f"{percent(r['top1'])} ({', '.join(percent(v) for v in r['draws'])})")
        for r in results
    ]
    say_table(f"{dataset.name}, {data.test}: top-1 by a linear classifier on few images", rows)
    if probed:
        rows = [(f"{row['k']} nearest", percent(row["top1"])) for row in probed.get("knn", [])]
        rows += [(f"linear, {way}", percent(row["top1"])) for way, row in probed.get("linear", {}).items()]
        say_table(f"{dataset.name}, {data.test}: top-1 by all {len(train.labels):,} train images", rows)
    return {"results": results, **probed}


def _by_few(
    features: np.ndarray,
    labels: np.ndarray,
    shot: int,
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
) -> dict[str, Any]:
    """Test top-1 by `shot` images of each class, of features (draws, C, shots, D) and labels (draws, C, shots)."""
    draws = [
        score(x[:, :shot].reshape(-1, x.shape[-1]), y[:, :shot].reshape(-1), validation, test, num_classes)
        for x, y in zip(features, labels, strict=True)
    ]
    top1, strengths = zip(*draws, strict=True)
    return {"shots": shot, "top1": float(np.mean(top1)), "draws": list(top1), "ridge": list(strengths)}


def _probed(
    train: probes.Labelled,
    validation: probes.Labelled,
    test: probes.Labelled,
    knn: Sequence[int],
    linear: bool,
    num_classes: int,
) -> dict[str, Any]:
    """What fewshot.json keeps of probes on all train images."""
    if lost := int((~np.isfinite(train.features)).any(axis=-1).sum()):
        raise UserError(f"the model's features of {lost:,} images aren't finite; take another --checkpoint")
    found: dict[str, Any] = {}
    if knn:
        top1 = probes.knn(train, test, tuple(knn), num_classes)
        found["knn"] = [{"k": k, "top1": top1[k]} for k in knn]
    if linear:
        closed, strength = score(*train, validation, test, num_classes)
        trained_top1, rate = probes.by_gradient(train, validation, test, num_classes)
        found["linear"] = {
            "closed form": {"top1": closed, "ridge": strength},
            "SGD": {"top1": trained_top1, "learning_rate": rate},
        }
    return found
