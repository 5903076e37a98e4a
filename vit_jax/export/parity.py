"""Whether what was written gives the model's own logits."""

from vit_jax.errors import RunError

_LARGEST_DIFFERENCE = 1e-4  # of logits, as a part of the largest: float32, summed in another order


def require_same(who: str, largest: float, scale: float) -> None:
    """Raises RunError where logits, the greatest of `scale`, differ by up to `largest`, which is no rounding."""
    if not largest <= _LARGEST_DIFFERENCE * scale:  # written so that NaN doesn't pass
        raise RunError(
            f"{who} gives other logits than the model: they differ by up to {largest:.3g}, where the largest is "
            f"{scale:.3g}; nothing is written. Versions of the libraries may not fit together"
        )
