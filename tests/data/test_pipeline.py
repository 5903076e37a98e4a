"""Batches are a pure function of (seed, step), the same from both pipelines. N examples, B batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.dataset import Examples
from vit_jax.data.pipeline import DevicePipeline, TfDataPipeline, indices_at, indices_at_on_device
from vit_jax.system.sharding import make_mesh, replicated

EXAMPLES = Examples(
    np.random.RandomState(0).randint(256, size=(37, 4, 4, 3)).astype(np.uint8), np.arange(37, dtype=np.int32)
)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (2, 3), (37, 8), (64, 16), (1000, 256), (45_000, 256)])
def test_every_epoch_shows_every_example_once(n, batch_size):
    epochs = 3
    steps = -(-epochs * n // batch_size)
    seen = np.concatenate([indices_at(5, step, n, batch_size) for step in range(steps)])[: epochs * n]
    for epoch in seen.reshape(epochs, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_epochs_and_seeds_are_shuffled_apart():
    n = 10_000
    orders = [indices_at(seed, epoch, n, n) for seed in (0, 1) for epoch in (0, 1)] + [np.arange(n)]
    for a, b in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
        assert (a == b).sum() < 10  # one is expected
    gaps = np.bincount(np.abs(np.diff(orders[0])) * 10 // n, minlength=10)  # triangular, as of independent draws
    np.testing.assert_allclose(gaps / n, (19 - 2 * np.arange(10)) / 100, atol=0.03)


def test_places_are_uniform():
    """Where example 0 falls over 2,000 epochs, in 20 bins: chi-squared, 5 standard deviations."""
    n = 100
    orders = np.stack([indices_at(3, epoch, n, n) for epoch in range(2000)])
    places = (orders == 0).argmax(axis=1) // 5
    chi2 = ((np.bincount(places, minlength=20) - 100) ** 2 / 100).sum()
    assert abs(chi2 - 19) < 5 * np.sqrt(2 * 19)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (5, 175), (2**32 - 1, 1000), (9, 93_000)])
def test_host_and_device_agree(seed, step):
    on_device = jax.jit(lambda seed, step: indices_at_on_device(seed, step, 45_000, 256))
    np.testing.assert_array_equal(on_device(jnp.uint32(seed), jnp.int32(step)), indices_at(seed, step, 45_000, 256))


def test_both_pipelines_give_the_same_batches():
    pytest.importorskip("tensorflow")
    everywhere = replicated(make_mesh())
    device = DevicePipeline.of(EXAMPLES, 8, everywhere)
    streamed = TfDataPipeline(EXAMPLES, batch_size=8)
    for seed, step in ((0, 0), (3, 4), (3, 10_000_000)):
        a, b = device.batch_at(seed, step), streamed.batch_at(seed, step)
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_a_stream_goes_on_from_any_step_and_keeps_its_order():
    pytest.importorskip("tensorflow")
    pipeline = TfDataPipeline(EXAMPLES, batch_size=8)
    for step, batch in zip(range(3, 40), pipeline.stream(1, start=3), strict=False):
        index = indices_at(1, step, 37, 8)
        np.testing.assert_array_equal(batch["image"], EXAMPLES.images[index])
        np.testing.assert_array_equal(batch["label"], index)


def test_processes_share_a_batch():
    pytest.importorskip("tensorflow")
    whole = TfDataPipeline(EXAMPLES, 8).batch_at(1, 2)["label"]
    parts = [TfDataPipeline(EXAMPLES, 8, process, 2).batch_at(1, 2)["label"] for process in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("pipeline", ["resident", "mapped"])
def test_parity_begins_at_random_and_turns_in_every_epoch(pipeline):
    n, batch_size = 60, 20
    images = np.arange(n, dtype=np.uint8).repeat(3).reshape(n, 1, 1, 3)
    labels = np.arange(n, dtype=np.int32)
    if pipeline == "mapped":
        pytest.importorskip("tensorflow")
        batch_at = TfDataPipeline(Examples(images, labels), batch_size).batch_at
    else:
        everywhere = replicated(make_mesh())
        batch_at = DevicePipeline.of(Examples(images, labels), batch_size, everywhere).batch_at
    epochs = np.zeros((3, n), bool)
    for step in range(9):
        batch = batch_at(3, step)
        epochs[step // 3, np.asarray(batch["label"])] = np.asarray(batch["parity"])
    assert 15 < epochs[0].sum() < 45
    np.testing.assert_array_equal(epochs[1], ~epochs[0])
    np.testing.assert_array_equal(epochs[2], epochs[0])
