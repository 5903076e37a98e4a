"""Many encoded images at speed, for tf.data. G images of a group, H height, W width, C channels of the view.

A plain JPEG is decoded in the graph, no more of it than its window; there it is also resized where that is an
enlargement in both directions, in which TensorFlow's bilinear filter is Pillow's. The rest of a group goes to Pillow in
one call of Python: a call costs as much as an image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images import pixels, upright
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.system.tensorflow import import_tensorflow

# Columns that are decoded beside a window: libjpeg smooths colours across them, but not across the window's border.
_BESIDE = 4
_CUT, _ENLARGED, _OTHER, _NOT_PLAIN = range(4)


class BrokenImage(UserError):
    """An image of a group can't be read: for this reason."""

    def __init__(self, place: int, reason: str):
        super().__init__(reason)
        self.place = place  # in the group


def by_pillow(raw: Sequence[bytes], window: np.ndarray, box: np.ndarray, view: View) -> np.ndarray:
    """The images as (G, H, W, C) uint8, one by one: what all of this module gives, within one level of 255.

    Raises BrokenImage for the first that can't be read.
    """
    out = np.empty((len(raw), *view.size, view.channels), np.uint8)
    for i, content in enumerate(raw):
        try:
            image = upright(content, view.channels)
            out[i] = pixels(image, window[i], box[i], view.size, view.interpolation).reshape(out.shape[1:])
        except UserError as error:
            raise BrokenImage(i, str(error)) from error
    return out


def decoder(view: View) -> Callable[[Any, Any, Any, Any], Any]:
    """A function of tensors: raw (G,) string, plain (G,) bool, window (G, 4) int32 and box (G, 4) float32, as
    `crops.Crops` has them -> (G, H, W, C) uint8. G is static.

    It fails with a tf.errors.OpError for an image that can't be read; `by_pillow` then says which, and why.
    """
    tf = import_tensorflow()

    def plainly(raw: Sequence[bytes], window: np.ndarray, box: np.ndarray) -> np.ndarray:
        return by_pillow(raw, window, box, view)

    def decode(raw: Any, plain: Any, window: Any, box: Any) -> Any:
        out = tf.numpy_function(plainly, [raw, window, box], tf.uint8, stateful=False)
        return tf.ensure_shape(out, (raw.shape[0], *view.size, view.channels))

    return decode
