"""Encoded images by number, wherever they lie. N images, M of them."""

from typing import Protocol

import numpy as np


class Records(Protocol):
    """The images of one split, each as the bytes of a PNG, JPEG or other file, in any order at the same cost.

    Reading is safe in many threads at once, and keeps none of what it read.
    """

    def __len__(self) -> int:
        """N."""

    def read(self, index: np.ndarray) -> list[bytes]:
        """The images `index` (M,) int64. Raises UserError, with the name, for one that isn't there any more."""

    def name(self, index: int) -> str:
        """How a message calls the image: its file, or its place in one."""
