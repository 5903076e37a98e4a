import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.steps.losses import cross_entropy, rank_of_label

LOGITS = np.random.RandomState(0).normal(size=(50, 10)).astype(np.float32)
LABELS = np.random.RandomState(1).randint(10, size=50).astype(np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_optaxs(smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 10), smoothing)
    expected = optax.softmax_cross_entropy(LOGITS, targets)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, smoothing), expected, atol=1e-5)


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
