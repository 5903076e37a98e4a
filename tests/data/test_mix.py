"""Mixup and CutMix, against what timm 1.0's Mixup (batch mode) makes of the same images, weights and boxes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.config import AugmentConfig
from vit_jax.data import mix as mixing
from vit_jax.data.targets import Targets
from vit_jax.steps.losses import mixed_cross_entropy
from vit_jax.system.sharding import batch_sharding, make_mesh

# boxes: weight, centre row and column, first and last rows, first and last columns, corrected weight
TIMM = dict(np.load(Path(__file__).parents[1] / "fixtures" / "timm_mix.npz"))
IMAGES, LABELS = jnp.asarray(TIMM["images"]), jnp.asarray(TIMM["labels"])


def test_boxes_and_their_shares_are_timms():
    box = jax.jit(lambda weight, centre: mixing.box(weight, centre, 32, 32))
    for weight, row, column, top, bottom, left, right, corrected in TIMM["boxes"]:
        inside, share = box(np.float32(weight), np.array([row, column], np.int32))
        expected = np.zeros((32, 32), bool)
        expected[int(top) : int(bottom), int(left) : int(right)] = True
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_allclose(share, corrected, atol=1e-6)


def drawn(monkeypatch, weight, centre=(0, 0)):
    """`mix` with these draws in place of random ones."""
    monkeypatch.setattr(jax.random, "beta", lambda *_: jnp.float32(weight))
    monkeypatch.setattr(jax.random, "randint", lambda *_: jnp.asarray(centre, jnp.int32))


def soft(targets, smoothing):
    """The target distribution (B, C) that timm would write out."""
    one_hot = np.eye(10) * (1 - smoothing) + smoothing / 10
    weight = np.asarray(targets.weight)[:, None]
    return weight * one_hot[targets.label] + (1 - weight) * one_hot[targets.partner]


def test_mixup_is_timms(monkeypatch):
    drawn(monkeypatch, float(TIMM["mixup_weight"]))
    images, targets = mixing.mix(jax.random.key(0), IMAGES, LABELS, AugmentConfig(mixup=0.8))
    np.testing.assert_allclose(images, TIMM["mixup_images"], atol=1e-6)
    np.testing.assert_allclose(soft(targets, 0.1), TIMM["mixup_targets"], atol=1e-6)
    np.testing.assert_allclose(soft(targets, 0.0), TIMM["mixup_targets_plain"], atol=1e-6)


def test_cutmix_is_timms(monkeypatch):
    row = TIMM["boxes"][int(TIMM["cutmix_box"])]
    drawn(monkeypatch, row[0], row[1:3])
    images, targets = mixing.mix(jax.random.key(0), IMAGES, LABELS, AugmentConfig(cutmix=1.0))
    np.testing.assert_array_equal(images, TIMM["cutmix_images"])
    np.testing.assert_allclose(soft(targets, 0.1), TIMM["cutmix_targets"], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_soft_targets(smoothing):
    logits = jnp.asarray(np.random.RandomState(0).normal(size=(8, 10)), jnp.float32)
    targets = Targets(LABELS, LABELS[::-1], jnp.linspace(0, 1, 8))
    expected = optax.softmax_cross_entropy(logits, soft(targets, smoothing))
    np.testing.assert_allclose(mixed_cross_entropy(logits, targets, smoothing), expected, rtol=1e-5)


def test_with_both_each_batch_takes_one_and_weights_are_beta_distributed():
    cfg = AugmentConfig(mixup=0.8, cutmix=1.0)
    mixed = jax.jit(lambda key: mixing.mix(key, IMAGES, LABELS, cfg))
    kinds, weights = [], []
    for k in range(60):
        images, targets = mixed(jax.random.key(k))
        # CutMix only moves pixels: each is one of the two images'.
        moved = ((images == IMAGES) | (images == IMAGES[::-1])).all()
        kinds.append(bool(moved))
        weights.append(float(targets.weight[0]))
    assert 15 < sum(kinds) < 45
    assert min(weights) < 0.2 and max(weights) > 0.8 and 0.35 < np.mean(weights) < 0.65


def test_a_share_leaves_batches_as_they_are():
    mixed = jax.jit(lambda key, share: mixing.mix(key, IMAGES, LABELS, AugmentConfig(mixup=1.0), share))
    keys = [jax.random.key(k) for k in range(60)]
    assert not any((mixed(key, 0.0)[0] != IMAGES).any() or (mixed(key, 0.0)[1].weight != 1).any() for key in keys)
    assert 15 < sum(bool((mixed(key, 0.5)[0] != IMAGES).any()) for key in keys) < 45


def test_devices_exchange_images_and_labels_at_once():
    """Two exchanges may be begun in another order by each device of a CPU, which then wait for each other for ever."""
    everywhere = batch_sharding(make_mesh())
    images = jax.ShapeDtypeStruct((16, 4, 4, 3), jnp.float32, sharding=everywhere)
    labels = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=everywhere)
    mixed = jax.jit(lambda key, x, y: mixing.mix(key, x, y, AugmentConfig(mixup=0.8, cutmix=1.0)))
    text = mixed.lower(jax.random.key(0), images, labels).compile().as_text()
    assert sum(" collective-permute(" in line for line in text.splitlines()) == 1
