"""Preprocessing and augmentation of batches, pure JAX, inside the compiled step.

B batch, H/W pixels, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import AugmentConfig
from vit_jax.data.erase import cutout, random_erasing
from vit_jax.data.geometry import crop_and_flip, rotate_and_zoom
from vit_jax.data.mix import mix, unmixed
from vit_jax.data.policies import apply_policy
from vit_jax.data.targets import Targets


def preprocess(images: jax.Array | np.ndarray, cfg: AugmentConfig, size: tuple[int, int]) -> jax.Array:
    """uint8, or float of the same range, (B, H, W, C) -> normalised float32 (B, *size, C): all that evaluation does.

    Mean and standard deviation in `cfg` are per channel, of pixels in [0, 1]. Resizing is bilinear.
    """
    x = images.astype(jnp.float32) / 255
    x = (x - jnp.asarray(cfg.mean)) / jnp.asarray(cfg.std)
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear")  # as it is where sizes agree


def augment(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    parity: jax.Array,
    cfg: AugmentConfig,
    size: tuple[int, int],
    strength: jax.Array | float = 1.0,
    left: jax.Array | float = 1.0,
) -> tuple[jax.Array, Targets]:
    """uint8 (B, H, W, C), labels (B,) -> float32 (B, *size, C) and their targets.

    In this order: crop and flip, policy, preprocessing, rotation and zoom, cutout, erasing, mixing. `parity` (B,) bool
    decides on alternating flips. `strength` from 0 to 1 scales magnitudes and the probabilities of erasing and mixing;
    `left` is the part of the run that is left, on which `off_last` and `mix_off_last` depend.
    """
    crop_key, affine_key, policy_key, cutout_key, erase_key, mix_key = jax.random.split(key, 6)
    on, mix_on = left > cfg.off_last, left > cfg.mix_off_last
    if cfg.crop_padding or cfg.flip:
        mirrored = parity if cfg.alternate_flip else None
        images = crop_and_flip(crop_key, images, cfg.crop_padding, cfg.flip, mirrored)
    if cfg.policy != "none":
        images = jax.lax.cond(on, lambda x: apply_policy(policy_key, x, cfg, strength), lambda x: x, images)
    x = preprocess(images, cfg, size)
    if cfg.rotate or cfg.zoom:
        x = rotate_and_zoom(affine_key, x, cfg.rotate * strength, cfg.zoom * strength)
    if cfg.cutout:
        x = jnp.where(on, cutout(cutout_key, x, cfg.cutout), x)
    if cfg.erase:
        x = random_erasing(erase_key, x, cfg.erase * strength * on)
    if cfg.mixup or cfg.cutmix:
        return mix(mix_key, x, labels, cfg, strength * mix_on)
    return x, unmixed(labels)
