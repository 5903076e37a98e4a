"""Encoded images decoded by tf.data as they are needed, batch after batch. B batch, G images of a group."""

import atexit
import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from vit_jax.data.crops import Crops, central
from vit_jax.data.decode import decoder
from vit_jax.data.encoded import EncodedImages
from vit_jax.data.images import ends
from vit_jax.errors import UserError
from vit_jax.system.processor import cores
from vit_jax.system.tensorflow import import_tensorflow

_GROUP = 32  # images decoded in one call, at most
_AHEAD = 2  # batches that lie ready

T = TypeVar("T")

# Batch number -> which images (B,) int64, and what to cut out of each.
Request = Callable[[int], tuple[np.ndarray, Crops]]


def batches(images: np.ndarray | EncodedImages, size: int) -> Iterator[np.ndarray]:
    """All images in order, `size` at a time, the last ones fewer: uint8 (B, H, W, C)."""
    if isinstance(images, EncodedImages) and importlib.util.find_spec("tensorflow") is not None:
        whole = len(images) // size
        for first, count in ((0, whole * size), (whole * size, len(images) % size)):
            if count:
                yield from _in_order(images, first, count, min(size, count))
    else:
        for start in range(0, len(images), size):
            yield np.asarray(images[start : start + size])


def _in_order(images: EncodedImages, first: int, count: int, size: int) -> Iterator[np.ndarray]:
    def request(i: int) -> tuple[np.ndarray, Crops]:
        index = first + np.arange(i * size, (i + 1) * size)
        return index, central(images.sizes(index), images.view)

    return (pixels for pixels, _ in decoded(images, request, 0, count // size))


def closed_at_exit(iterator: Iterator[T]) -> Iterator[T]:
    """The same elements of an iterator of tf.data's that calls Python functions.

    Such an iterator must not outlive the interpreter: it would wait for functions that wait for the interpreter.
    """
    held = [iterator]
    del iterator  # the list alone holds it
    atexit.register(held.clear)
    try:
        while held:
            try:
                yield next(held[0])
            except StopIteration:
                return
    finally:
        held.clear()
        atexit.unregister(held.clear)


def decoded(
    images: EncodedImages, request: Request, start: int, stop: int | None = None, enlarge: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches `start` to `stop` - 1 (None: without end), decoded ahead: uint8 (B, H, W, C), and int32 (B, 2).

    The latter are height and width of the part of each image, from the top left corner, that is still to be enlarged to
    all of it: none with `enlarge`. All batches have as many images as the first. Seeking costs nothing. Raises
    UserError, with the name, for an image that can't be read.
    """
    tf = import_tensorflow()
    request = functools.lru_cache(maxsize=64)(request)  # each of a batch's groups asks
    size = len(request(start)[0])
    # Groups of one size; the last of a batch is filled up with its last image.
    groups = -(-size // _GROUP)
    members = -(-size // groups)
    failures: dict[int, Exception] = {}  # by the batch

    def fetch(number: np.ndarray) -> tuple[Any, ...]:
        i, group = divmod(int(number), groups)
        index, (windows, boxes) = request(i)
        chosen = np.minimum(np.arange(group * members, (group + 1) * members), size - 1)
        try:
            raw = images.read(index[chosen])
        except Exception as error:  # if it were raised here, TensorFlow would print a traceback
            failures[i] = error
            raw = [b""] * members
        # What was cut off since the start is left to Pillow, which says so; TensorFlow prints more than that.
        plain = images.plain(index[chosen]) & np.array([ends(content) for content in raw])
        return np.array(raw, object), plain, images.sizes(index[chosen]), windows[chosen], boxes[chosen]

    def element(number: Any) -> Any:
        types = (tf.string, tf.bool, tf.int32, tf.int32, tf.float32)
        found = tf.numpy_function(fetch, [number], types, stateful=False)
        shapes = ((), (), (2,), (4,), (4,))
        return [tf.ensure_shape(x, (members, *shape)) for x, shape in zip(found, shapes, strict=True)]

    numbers = tf.data.Dataset.range(start * groups, tf.int64.max if stop is None else stop * groups)
    # Not tf.data's own choice, which fills half of the machine's memory with batches.
    encoded = numbers.map(element, num_parallel_calls=2 * cores(), deterministic=True)
    pixels = encoded.map(decoder(images.view, enlarge), num_parallel_calls=cores(), deterministic=True)
    found = closed_at_exit(iter(pixels.batch(groups).prefetch(_AHEAD).as_numpy_iterator()))
    for i in itertools.count(start):
        try:
            batch, extent, read = next(found)  # (groups, G, H, W, C), (groups, G, 2), (groups, G)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise _unread(images, request(i)[0], " ".join(str(error).split())[:200]) from error
        if not read.all():
            raise failures.get(i) or _unread(images, request(i)[0][read.reshape(-1)[:size] == 0])
        yield batch.reshape(-1, *batch.shape[2:])[:size], extent.reshape(-1, 2)[:size]


def _unread(images: EncodedImages, index: np.ndarray, reason: str = "it has changed since the start") -> Exception:
    """What is said of images `index` (M,), of which one at least could not be decoded."""
    try:
        images[index]
    except UserError as error:  # says which of them, and why
        return error
    return UserError(f"{images.name(int(index[0]))} can't be decoded ({reason}); start again")
