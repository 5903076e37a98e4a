"""Mixup and CutMix: batches in which each image is blended with a partner, and so are the targets.

The partner of image i is image B - 1 - i, one weight or box for the whole batch, as timm's Mixup has them in its
"batch" mode. B batch, H/W pixels.
"""

import jax
import jax.numpy as jnp

from vit_jax.config import AugmentConfig
from vit_jax.data.targets import Targets


def unmixed(labels: jax.Array) -> Targets:
    """Targets of images that are what they are."""
    return Targets(labels, labels, jnp.ones(labels.shape, jnp.float32))


def mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, cfg: AugmentConfig, share: jax.Array | float = 1.0
) -> tuple[jax.Array, Targets]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of float images (B, H, W, C) and labels (B,).

    Where `cfg` has both, one of them is drawn for each batch, half and half. A batch is mixed with probability `share`.
    """
    apply_key, kind_key, weight_key, box_key = jax.random.split(key, 4)
    b, h, w, _ = images.shape
    # One pass for whichever it is: a share of each pixel stays, that of mixup everywhere, or 0 in CutMix's box.
    blends = jax.random.bernoulli(kind_key) if cfg.mixup and cfg.cutmix else jnp.bool_(cfg.mixup > 0)
    concentration = jnp.where(blends, cfg.mixup, cfg.cutmix)
    drawn = jax.random.beta(weight_key, concentration, concentration)
    inside, outside_share = box(drawn, jax.random.randint(box_key, (2,), 0, jnp.array([h, w])), h, w)
    weight = jnp.where(blends, drawn, outside_share)
    on = jax.random.bernoulli(apply_key, share)
    stays = jnp.where(on, jnp.where(blends, drawn, ~inside), 1.0)[:, :, None]  # (H, W, 1)
    # Images and labels go to their partners together. Of two exchanges, devices of a CPU may begin different ones
    # first, and wait for each other for ever (XLA of JAX 0.12).
    rows = jnp.concatenate([images.reshape(b, -1), labels[:, None].astype(images.dtype)], axis=1)[::-1]  # (B, H*W*C+1)
    partners, others = rows[:, :-1].reshape(images.shape), rows[:, -1].astype(labels.dtype)
    mixed = stays * images + (1 - stays) * partners
    return mixed, Targets(labels, others, jnp.full((b,), jnp.where(on, weight, 1.0), jnp.float32))


def box(weight: jax.Array, centre: jax.Array, h: int, w: int) -> tuple[jax.Array, jax.Array]:
    """The pixels (H, W) bool of CutMix's box around `centre` (row, column), and the share of the image outside of it.

    Its sides are sqrt(1 - weight) of the image's, rounded down as in the paper's code, and cut off at the borders; the
    share is exact.
    """
    side = jnp.sqrt(1 - weight)

    def within(middle: jax.Array, size: int) -> jax.Array:
        length = (size * side).astype(jnp.int32)
        place = jnp.arange(size) - (middle - length // 2)
        return (place >= 0) & (place < length)

    inside = within(centre[0], h)[:, None] & within(centre[1], w)[None, :]  # (H, W)
    return inside, 1 - inside.mean()
