"""Many encoded images at speed, for tf.data. G images of a group, H height, W width, C channels of the view.

A plain image is decoded in the graph, and no more of a JPEG than its window; there it is also resized where that is an
enlargement in both directions, in which TensorFlow's bilinear filter is Pillow's, or left to `geometry.enlarged`. One
call of Python puts a group together and gives its rest to Pillow: calls wait for each other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images import converted, pixels, upright
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.system.tensorflow import import_tensorflow

# Columns that are decoded beside a window: libjpeg smooths colours across them, but not across the window's border.
_BESIDE = 4

# What the graph makes of an image: nothing, as it is Pillow's; a window that Pillow resizes; the pixels of the view, or
# its top left corner; the whole view, enlarged.
_NONE, _WINDOW, _CORNER, _WHOLE = range(4)


def by_pillow(raw: Sequence[bytes], window: np.ndarray, box: np.ndarray, view: View) -> np.ndarray:
    """The images as (G, H, W, C) uint8, one by one: what all of this module gives, within one level of 255.

    Raises UserError for one that can't be read.
    """
    out = np.empty((len(raw), *view.size, view.channels), np.uint8)
    for i, content in enumerate(raw):
        image = upright(content, view.channels)
        if (window[i, :2] + window[i, 2:] > image.size[::-1]).any():
            raise UserError("it is smaller than it was")
        out[i] = pixels(image, window[i], box[i], view.size, view.interpolation).reshape(out.shape[1:])
    return out


def decoder(view: View, enlarge: bool = True) -> Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]:
    """A function of tensors: raw (G,) string, plain (G,) bool, sizes (G, 2) int32 of the images, heights and widths,
    window (G, 4) int32 and box (G, 4) float32, as `crops.Crops` has them -> (G, H, W, C) uint8, (G, 2) int32: how high
    and wide a part of each, from the top left corner, is still to be enlarged to all of it, and (G,) bool: which of
    them could be read. G is static.

    With `enlarge` nothing is left to be enlarged. It fails with a tf.errors.OpError for a plain image that TensorFlow
    can't read.
    """
    tf = import_tensorflow()
    part = _part(tf, view)

    def finish(
        raw: np.ndarray, form: np.ndarray, window: np.ndarray, box: np.ndarray, beside: np.ndarray, *parts: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Puts the decoded windows in their places, and resizes those, or reads those images, that are Pillow's.

        Nothing is raised: TensorFlow would print a traceback.
        """
        out, read = np.zeros((len(raw), *view.size, view.channels), np.uint8), np.ones(len(raw), bool)
        for i, part in enumerate(parts):
            if form[i] == _NONE:
                try:
                    out[i] = by_pillow([raw[i]], window[i : i + 1], box[i : i + 1], view)[0]
                except Exception:  # a UserError, or Pillow's for an image of another size than it had
                    read[i] = False
            elif form[i] == _WINDOW:
                inside = part[:, beside[i] : beside[i] + window[i, 3]]
                out[i] = _resized(inside, box[i], view)
            elif form[i] == _CORNER:
                height, width = np.minimum(window[i, 2:], view.size)
                out[i, :height, :width] = part[:, beside[i] : beside[i] + width]
            else:
                out[i] = part
        return out, read

    def decode(raw: Any, plain: Any, sizes: Any, window: Any, box: Any) -> tuple[Any, Any, Any]:
        cut, smaller = _without_pillow(tf, view, window, box)
        inner = tf.concat([window[:, :2] + tf.cast(box[:, :2], tf.int32), tf.zeros_like(window[:, :2]) + view.size], 1)
        wanted = tf.where(cut[:, None], inner, window)  # (G, 4)
        left = tf.maximum(wanted[:, 1] - _BESIDE, 0)
        right = tf.minimum(wanted[:, 1] + wanted[:, 3] + _BESIDE, sizes[:, 1])
        wider = tf.stack([wanted[:, 0], left, wanted[:, 2], right - left], 1)  # (G, 4)
        form = tf.where(smaller & tf.constant(enlarge), _WHOLE, tf.where(cut | smaller, _CORNER, _WINDOW))
        form = tf.where(plain, form, _NONE)  # (G,)
        beside = wanted[:, 1] - left
        each = zip(*map(tf.unstack, (raw, form, wider, beside, wanted[:, 3])), strict=True)
        parts = [part(*arguments) for arguments in each]
        rest = [tf.where(plain, "", raw), form, window, box, beside, *parts]
        out, read = tf.numpy_function(finish, rest, (tf.uint8, tf.bool), stateful=False)
        kept = smaller & tf.equal(form, _CORNER)
        extent = tf.where(kept[:, None], window[:, 2:], tf.zeros_like(window[:, 2:]) + view.size)  # (G, 2)
        return tf.ensure_shape(out, (raw.shape[0], *view.size, view.channels)), extent, tf.ensure_shape(read, raw.shape)

    return tf.autograph.experimental.do_not_convert(decode)


def _resized(window: np.ndarray, box: np.ndarray, view: View) -> np.ndarray:
    """A decoded window (h, w, 3) uint8 by Pillow, (H, W, C)."""
    from PIL import Image

    image = converted(Image.fromarray(window), view.channels)
    inside = np.array([0, 0, *window.shape[:2]])
    return pixels(image, inside, box, view.size, view.interpolation).reshape(*view.size, view.channels)


def _without_pillow(tf: Any, view: View, window: Any, box: Any) -> tuple[Any, Any]:
    """Which views of plain images are pixels of theirs as they are (G,), and which enlarge a window (G,)."""
    size = tf.constant(view.size, tf.float32)
    unit = tf.reduce_all(tf.equal(box[:, 2:] - box[:, :2], size), 1)
    cut = unit & tf.reduce_all(tf.equal(box, tf.round(box)), 1)
    sides = tf.cast(window[:, 2:], tf.float32)
    whole = tf.reduce_all(tf.equal(box, tf.concat([tf.zeros_like(sides), sides], 1)), 1)
    enlarged = whole & tf.reduce_all(sides <= size, 1) & ~cut
    colours = tf.constant(view.channels == 3)  # Pillow's grey is another than JPEG's
    return cut & colours, enlarged & colours & tf.constant(view.interpolation == "bilinear")


def _part(tf: Any, view: View) -> Callable[[Any, Any, Any, Any, Any], Any]:
    """A function, traced once for all images: raw, form, a window (4,), and within it the columns that are wanted, from
    `beside` on, `width` many -> the window of a plain image as (h, w, 3) uint8, or of _WHOLE those columns enlarged to
    (H, W, 3); (0, 0, 3) of _NONE.
    """

    def jpeg(raw: Any, window: Any) -> Any:
        return tf.io.decode_and_crop_jpeg(raw, window, channels=3, dct_method="INTEGER_ACCURATE")

    def png(raw: Any, window: Any) -> Any:
        top, left, height, width = tf.unstack(window)
        return tf.io.decode_png(raw, channels=3)[top : top + height, left : left + width]

    def enlarged(image: Any) -> Any:
        large = tf.raw_ops.ResizeBilinear(images=image[None], size=view.size, half_pixel_centers=True)  # (1, H, W, 3)
        return tf.cast(large[0] + 0.5, tf.uint8)

    def decoded(raw: Any, form: Any, window: Any, beside: Any, width: Any) -> Any:
        is_jpeg = tf.equal(tf.strings.substr(raw, 0, 1), b"\xff")
        image = tf.cond(is_jpeg, lambda: jpeg(raw, window), lambda: png(raw, window))
        return tf.cond(tf.equal(form, _WHOLE), lambda: enlarged(image[:, beside : beside + width]), lambda: image)

    def part(raw: Any, form: Any, window: Any, beside: Any, width: Any) -> Any:
        none = tf.zeros((0, 0, 3), tf.uint8)
        image = tf.cond(tf.equal(form, _NONE), lambda: none, lambda: decoded(raw, form, window, beside, width))
        return tf.ensure_shape(image, (None, None, 3))

    kinds = (((), tf.string), ((), tf.int32), ((4,), tf.int32), ((), tf.int32), ((), tf.int32))
    return tf.function(part, input_signature=[tf.TensorSpec(*kind) for kind in kinds], autograph=False)
