"""Integer hashes that work alike on NumPy and JAX arrays of uint32."""

from typing import TypeVar

import jax
import numpy as np

Uint32Array = TypeVar("Uint32Array", np.ndarray, jax.Array)


def fmix32(h: Uint32Array) -> Uint32Array:
    """The finalizer of MurmurHash3 (Appleby 2011): each input bit flips each output bit with probability near 1/2."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))
