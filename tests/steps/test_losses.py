import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.data.targets import Targets
from vit_jax.steps.losses import cross_entropy, mixed_cross_entropy, rank_of_label, weights_of

LOGITS = np.random.RandomState(0).normal(size=(50, 10)).astype(np.float32)
LABELS = np.random.RandomState(1).randint(10, size=50).astype(np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_optaxs(smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 10), smoothing)
    expected = optax.softmax_cross_entropy(LOGITS, targets)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, smoothing), expected, atol=1e-5)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [3])
    found = weights_of("balanced", labels, 5)
    present = np.array([0, 1, 3])
    np.testing.assert_allclose(np.array(found)[present], compute_class_weight("balanced", classes=present, y=labels))
    assert found[2] == found[4] == 0  # they have no images
    assert np.mean(np.array(found)[labels]) == pytest.approx(1)
    assert weights_of("none", labels, 5) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_each_label_of_a_mixed_image_has_its_own_weight(smoothing):
    weights = tuple(np.linspace(0, 2, 10).tolist())
    targets = Targets(LABELS, LABELS[::-1], np.linspace(0, 1, 50).astype(np.float32))
    one, other = (np.asarray(cross_entropy(LOGITS, labels, smoothing)) for labels in (LABELS, LABELS[::-1]))
    share, by_class = targets.weight, np.array(weights)
    expected = share * by_class[LABELS] * one + (1 - share) * by_class[LABELS[::-1]] * other
    found = mixed_cross_entropy(LOGITS, targets, smoothing, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5])
def test_ranks_count_top_k_as_sorting_does(k):
    top = np.argsort(-LOGITS, axis=1)[:, :k]
    expected = (top == LABELS[:, None]).any(axis=1)
    np.testing.assert_array_equal(rank_of_label(LOGITS, LABELS) < k, expected)
    np.testing.assert_array_equal(rank_of_label(jnp.asarray(LOGITS), jnp.asarray(LABELS)) < k, expected)


def test_a_constant_model_scores_as_chance_and_a_broken_one_nothing():
    labels = np.arange(10)
    assert (rank_of_label(np.zeros((10, 10)), labels) < 1).sum() == 1
    assert (rank_of_label(np.zeros((10, 10)), labels) < 5).sum() == 5
    assert (rank_of_label(np.full((10, 10), np.nan), labels) < 5).sum() == 0
    assert (rank_of_label(np.full((3, 3), np.nan), labels[:3]) < 5).sum() == 0
