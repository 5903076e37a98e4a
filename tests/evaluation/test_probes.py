"""Nearest neighbours and linear probes find what is in features, and no more."""

import numpy as np
import pytest

from vit_jax.evaluation import probes

CLASSES, WIDTH = 3, 8


def drawn(count, seed, apart=1.0):
    """Features around a place for each class, so far apart."""
    rng = np.random.RandomState(seed)
    places = np.random.RandomState(99).normal(size=(CLASSES, WIDTH)) * apart
    labels = rng.randint(CLASSES, size=count)
    return probes.Labelled((places[labels] + rng.normal(size=(count, WIDTH))).astype(np.float32), labels)


def test_neighbours_vote_by_their_similarity():
    train, test = drawn(60, 0, apart=0.5), drawn(40, 1, apart=0.5)
    found = probes.knn(train, test, (1, 7), CLASSES)
    for k, top1 in found.items():
        right = 0
        for x, label in zip(test.features, test.labels, strict=True):
            similar = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in train.features]
            votes = np.zeros(CLASSES)
            for i in np.argsort(similar)[::-1][:k]:
                votes[train.labels[i]] += np.exp(similar[i] / 0.07)
            right += votes.argmax() == label
        assert top1 == right / len(test.labels)
    assert found[1] != found[7]  # else it would show nothing


def test_more_neighbours_than_images_are_all_of_them():
    train, test = drawn(5, 0, apart=9), drawn(4, 1, apart=9)
    found = probes.knn(train, test, (5, 20), CLASSES)
    assert found[20] == found[5] == probes.knn(train, test, (20,), CLASSES)[20]


@pytest.mark.parametrize(("apart", "least", "most"), [(2.0, 0.9, 1.0), (0.0, 0.2, 0.5)])
def test_a_probe_by_gradient_finds_what_is_there(apart, least, most):
    train, validation, test = (drawn(count, seed, apart) for seed, count in enumerate((400, 100, 200)))
    top1, rate = probes.by_gradient(train, validation, test, CLASSES)
    assert least <= top1 <= most and rate in probes._RATES
