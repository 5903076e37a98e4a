"""Cutout and random erasing take from images what they say."""

import jax
import numpy as np

from vit_jax.data.erase import cutout, random_erasing

X = np.ones((500, 32, 32, 3), np.float32)


def test_cutout_sets_a_square_to_the_mean():
    holes = np.asarray(jax.jit(lambda key: cutout(key, X, 8))(jax.random.key(0)))[..., 0] == 0
    areas = holes.sum(axis=(1, 2))
    assert areas.max() == 64 and areas.min() >= 16 and (areas == 64).mean() > 0.4
    middle = holes[:, 8:24, 8:24].mean(axis=0)
    np.testing.assert_allclose(middle, 64 / 1024, atol=0.045)  # everywhere alike


def test_random_erasing_fills_some_images_with_noise():
    out = np.asarray(jax.jit(lambda key: random_erasing(key, X, 0.25))(jax.random.key(0)))
    erased = (out != 1).all(axis=-1)
    areas = erased.sum(axis=(1, 2))
    assert 0.17 < (areas > 0).mean() < 0.33
    shares = areas[areas > 0] / 1024
    assert 0.01 < shares.min() < 0.06 and 0.25 < shares.max() < 0.38
    noise = out[np.broadcast_to(erased[..., None], out.shape)]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    for image in erased[areas > 0]:  # one rectangle each
        assert image.sum() == image.any(axis=1).sum() * image.any(axis=0).sum()
