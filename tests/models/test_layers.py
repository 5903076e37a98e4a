"""Dense and dropout: the fast forms are the plain ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.backend import Compute
from vit_jax.models.dropout import Dropout, index_of, keep, words_of
from vit_jax.models.layers import Dense


def test_dense_is_a_matmul_on_the_last_axis_with_any_output_shape():
    x = np.random.RandomState(0).normal(size=(2, 3, 4)).astype(np.float32)
    layer = Dense((5, 6), Compute(), jax.nn.initializers.normal(1.0))
    params = layer.init(jax.random.key(0), x)["params"]
    expected = np.einsum("bnd,dke->bnke", x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_are_balanced_and_independent(rate):
    """Shares, correlations between neighbours on every axis and between keys, within 5 standard errors."""
    shape = (64, 4, 64, 64)
    masks = [np.asarray(keep(words_of(jax.random.key(seed)), rate, index_of(shape))) for seed in range(4)]
    size = masks[0].size
    for mask in masks:
        assert abs(mask.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / size)
    pairs = [(a, b) for a, b in itertools.combinations(masks, 2)]
    pairs += [(masks[0], np.roll(masks[0], shift, axis)) for axis in range(4) for shift in (1, 2, 3)]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(size)


@pytest.mark.parametrize("axis", range(4))
def test_counts_along_every_axis_vary_as_coin_tosses_do(axis):
    mask = np.asarray(keep(words_of(jax.random.key(7)), 0.3, index_of((64, 16, 64, 32))))
    counts = mask.sum(axis)
    expected = mask.shape[axis] * 0.3 * 0.7
    assert abs(counts.var() / expected - 1) < 5 * np.sqrt(2 / counts.size)


def test_pairs_of_bits_are_uniform():
    """Chi-squared of 8 neighbouring decisions as one number, 255 degrees of freedom: 5 standard deviations."""
    for seed in range(3):
        mask = np.asarray(keep(words_of(jax.random.key(seed)), 0.5, index_of((2**14, 8))))
        counts = np.bincount(mask @ (2 ** np.arange(8)), minlength=256)
        chi2 = ((counts - 64) ** 2 / 64).sum()
        assert abs(chi2 - 255) < 5 * np.sqrt(2 * 255)


def test_dropout_keeps_the_mean_and_drops_whole_examples_where_asked():
    x = jnp.ones((2000, 3, 4))
    rngs = {"dropout": jax.random.key(0)}
    dropped = Dropout(0.25, train=True).apply({}, x, rngs=rngs)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs(dropped.mean() - 1) < 0.02
    paths = np.asarray(Dropout(0.25, train=True, broadcast_axes=(1, 2)).apply({}, x, rngs=rngs)).reshape(2000, -1)
    assert (paths == paths[:, :1]).all() and abs(paths.mean() - 1) < 0.1
