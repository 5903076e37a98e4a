"""The operations of RandAugment and TrivialAugment, each as what it changes of a few numbers. B batch.

Every image goes through the same computations (`geometry.py`, `colour.py`), which leave it as it is at the neutral
numbers, so that a batch costs the same whatever its images' operations are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Change:
    """What happens to each image: (B,) float32 each. The neutral values change nothing."""

    # Where a pixel comes from: its row is (yy, yx) @ (row, column) of where it goes + dy, its column likewise; all in
    # pixels from the upper left corner (centred 0) or from the centre (1).
    yy: Any = 1.0
    yx: Any = 0.0
    xy: Any = 0.0
    xx: Any = 1.0
    dy: Any = 0.0
    dx: Any = 0.0
    centred: Any = 0.0
    # Values, 0 to 255, by themselves.
    step: Any = 1.0  # values are rounded down to a multiple
    threshold: Any = 256.0  # values from here on are inverted
    added: Any = 0.0  # to values below 128
    gain: Any = 1.0  # of differences from black or, where `about_mean`, from the image's mean grey
    about_mean: Any = 0.0
    stretched: Any = 0.0  # 1: each channel to the whole range
    equalized: Any = 0.0  # 1: each channel's histogram flattened
    # Values, beside those of other channels and pixels.
    factor: Any = 1.0  # of differences from the grey image or, where `from_smooth`, from the smoothed one
    from_smooth: Any = 0.0


jax.tree_util.register_dataclass(Change)

# (magnitude from 0 to 1, sign 1 or -1), (B,) each -> fields of Change that differ from the neutral ones.
Operation = Callable[[jax.Array, jax.Array], Mapping[str, Any]]


def change(index: jax.Array, operations: tuple[Operation, ...], magnitude: jax.Array, sign: jax.Array) -> Change:
    """Of each image by the operation of this number, all (B,); none where there is no such number."""
    fields = {name: jnp.full(index.shape, neutral, jnp.float32) for name, neutral in vars(Change()).items()}
    for number, operation in enumerate(operations):
        for name, value in operation(magnitude, sign).items():
            fields[name] = jnp.where(index == number, value, fields[name])
    return Change(**fields)


def rotate(degrees: float) -> Operation:
    """About the centre."""

    def operation(magnitude: jax.Array, sign: jax.Array) -> Mapping[str, Any]:
        angle = sign * magnitude * degrees * jnp.pi / 180
        # Rounded to what float32 has near 1, so that a right angle's are 0 and 1, as Pillow's.
        cos, sin = (jnp.round(of(angle) * 2**23) / 2**23 for of in (jnp.cos, jnp.sin))
        return {"yy": cos, "yx": sin, "xy": -sin, "xx": cos, "centred": 1.0}

    return operation


def enhance(most: float, factor: str, **fields: float) -> Operation:
    """A factor 1 ± `most`."""
    return lambda magnitude, sign: {factor: 1 + sign * magnitude * most, **fields}


def always(**fields: float) -> Operation:
    """Whatever the magnitude."""
    return lambda magnitude, sign: fields


def _power_of_two(exponent: jax.Array) -> jax.Array:
    return jnp.left_shift(1, exponent.astype(jnp.int32))  # a TPU's 2.0 ** x is not exact


# TrivialAugmentWide's (Müller and Hutter 2021, table 7), with torchvision's ranges.
TRIVIAL: tuple[Operation, ...] = (
    always(),
    lambda magnitude, sign: {"xy": sign * magnitude * 0.99},
    lambda magnitude, sign: {"yx": sign * magnitude * 0.99},
    lambda magnitude, sign: {"dx": sign * jnp.trunc(magnitude * 32)},
    lambda magnitude, sign: {"dy": sign * jnp.trunc(magnitude * 32)},
    rotate(135),
    enhance(0.99, "gain"),
    enhance(0.99, "factor"),
    enhance(0.99, "gain", about_mean=1.0),
    enhance(0.99, "factor", from_smooth=1.0),
    lambda magnitude, sign: {"step": _power_of_two(jnp.round(6 * magnitude))},
    lambda magnitude, sign: {"threshold": 255 * (1 - magnitude)},
    always(stretched=1.0),
    always(equalized=1.0),
)


def random(height: int, width: int) -> tuple[Operation, ...]:
    """RandAugment's (Cubuk et al. 2020), magnitudes growing in effect, as timm's "rand-...-inc1"; sides in pixels."""
    return (
        always(stretched=1.0),
        always(equalized=1.0),
        always(threshold=0.0),  # inverts
        rotate(30),
        lambda magnitude, sign: {"step": _power_of_two(4 + jnp.floor(4 * magnitude))},
        lambda magnitude, sign: {"threshold": 256 - jnp.floor(256 * magnitude)},
        lambda magnitude, sign: {"added": jnp.floor(110 * magnitude)},
        enhance(0.9, "factor"),
        enhance(0.9, "gain", about_mean=1.0),
        enhance(0.9, "gain"),
        enhance(0.9, "factor", from_smooth=1.0),
        lambda magnitude, sign: {"xy": sign * magnitude * 0.3},
        lambda magnitude, sign: {"yx": sign * magnitude * 0.3},
        lambda magnitude, sign: {"dx": sign * magnitude * 0.45 * width},
        lambda magnitude, sign: {"dy": sign * magnitude * 0.45 * height},
    )
