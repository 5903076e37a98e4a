"""Batches as a pure function of (seed, step).

Example i of a run, counted from 0 over all epochs, is image `shuffle(i % N)` of epoch `i // N`, and step s takes
examples s*B to (s+1)*B - 1. Nothing is carried from step to step: resuming is starting at a later step, every epoch
shows every image once, and one device or eight see the same. N examples, B batch, C channels.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from vit_jax.data.crops import Crops, central, random_resized
from vit_jax.data.dataset import Examples
from vit_jax.data.encoded import EncodedImages, cut
from vit_jax.data.streaming import closed_at_exit, decoded
from vit_jax.system.hashing import fmix32
from vit_jax.system.sharding import put
from vit_jax.system.tensorflow import import_tensorflow

MAX_EXAMPLES = 2**32  # of a run: example numbers are uint32

# "image": (B, H, W, C) uint8, "label": (B,) int32, "parity": (B,) bool, which begins at random for each image and turns
# in every epoch. With RandomCrop.enlarged_in_step also "extent": (B, 2) int32, height and width of the part of each
# image, from the top left corner, that the step enlarges to all of it.
Batch = dict[str, Any]


def _permute(x: Any, keys: list[Any], bits: int) -> Any:
    """A keyed bijection of the numbers below 2**bits: each of its operations can be undone (Kensler 2013)."""
    mask, half = np.uint32(2**bits - 1), np.uint32((bits + 1) // 2)
    for key in keys:
        x = (x + key) & mask
        x = x ^ (x >> half)
        x = (x * (fmix32(key) | np.uint32(1))) & mask
        x = x ^ (x >> half)
    return x


def _positions(first: Any, batch_size: int, n: int, seed: Any) -> tuple[Any, list[Any], int]:
    """Places in their epochs of the examples from number `first` on, keys of their epochs, bits to hold n."""
    number = first + np.arange(batch_size, dtype=np.uint32)  # (B,) uint32
    epoch, position = number // np.uint32(n), number % np.uint32(n)
    base = fmix32(fmix32(epoch + np.uint32(0x9E3779B9)) ^ (fmix32(np.ones(1, np.uint32) * seed)))
    keys = [fmix32(base + np.uint32(round_)) for round_ in (1, 2, 3, 4)]
    return position, keys, max((n - 1).bit_length(), 1)


def indices_at(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """Indices (B,) int64 of the examples of one step, on the host."""
    first = np.full(1, step * batch_size, np.uint32)
    x, keys, bits = _positions(first, batch_size, n, np.uint32(seed))
    x = _permute(x, keys, bits)
    while (x >= n).any():  # walk the cycle until back among the n numbers: still a bijection of them
        x = np.where(x >= n, _permute(x, keys, bits), x)
    return x.astype(np.int64)


def indices_at_on_device(seed: jax.Array, step: jax.Array, n: int, batch_size: int) -> jax.Array:
    """The same indices (B,), in JAX; seed and step may be traced."""
    first = step.astype(jnp.uint32) * np.uint32(batch_size)
    x, keys, bits = _positions(first, batch_size, n, seed.astype(jnp.uint32))
    return jax.lax.while_loop(
        lambda x: (x >= n).any(), lambda x: jnp.where(x >= n, _permute(x, keys, bits), x), _permute(x, keys, bits)
    ).astype(jnp.int32)


def parity_at(seed: Any, step: Any, index: Any, n: int) -> Any:
    """The parity (B,) bool of the images `index` (B,) of one step; NumPy or JAX arrays."""
    first = step * np.uint32(len(index))
    epoch = (first + np.arange(len(index), dtype=np.uint32)) // np.uint32(n)
    coin = fmix32(fmix32(index.astype(np.uint32) + np.uint32(0x85EBCA6B)) ^ seed)
    return ((coin + epoch) & np.uint32(1)).astype(bool)


class DevicePipeline(flax.struct.PyTreeNode):
    """The whole train split in every device's memory; a batch is a gather inside the compiled step.

    Each image is one row: with axes as short as three channels, a TPU would copy all of them in every step.
    """

    images: Any  # (N, H*W*C) uint8; array or shape
    labels: Any  # (N,) int32; likewise
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)  # (H, W, C)
    batch_size: int = flax.struct.field(pytree_node=False)
    # Of the indices: on every device, so that the loop that computes them needs no word from the others.
    everywhere: NamedSharding = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, examples: Examples, batch_size: int, everywhere: NamedSharding) -> "DevicePipeline":
        """Puts the examples, the same on every host, on all devices."""
        images, labels = np.asarray(examples.images[:]), examples.labels
        rows = put(images.reshape(len(images), -1), everywhere)  # (N, H*W*C)
        return cls(rows, put(labels, everywhere), images.shape[1:], batch_size, everywhere)

    def batch_at(self, seed: jax.Array | int, step: jax.Array | int) -> Batch:
        """The batch of `step`; both numbers may be traced."""
        n = self.labels.shape[0]
        index = indices_at_on_device(jnp.asarray(seed), jnp.asarray(step), n, self.batch_size)  # (B,)
        index = jax.lax.with_sharding_constraint(index, self.everywhere)
        parity = parity_at(jnp.uint32(seed), jnp.uint32(step), index, n)
        images = self.images[index].reshape(self.batch_size, *self.image_shape)  # (B, H, W, C)
        return {"image": images, "label": self.labels[index], "parity": parity}


class RandomCrop(NamedTuple):
    """A random resized crop of each image (Szegedy et al. 2015), as torchvision's RandomResizedCrop has it."""

    scale: tuple[float, float]  # share of the image's area
    ratio: tuple[float, float]  # width / height
    interpolation: str  # bilinear | bicubic | lanczos
    # Whether parts that are to be enlarged in both directions are left to the step: an accelerator enlarges in no time,
    # and the host decodes more images. For bilinear alone.
    enlarged_in_step: bool = False


def batch_shapes(examples: Examples, batch_size: int, sharding: NamedSharding, crop: RandomCrop | None = None) -> Batch:
    """Shapes of a batch of the streamed examples, over all processes: for tracing a step without reading one."""
    shapes = {"image": (examples.images.shape[1:], np.uint8), "label": ((), np.int32), "parity": ((), np.bool_)}
    if crop is not None and crop.enlarged_in_step:
        shapes["extent"] = (2,), np.int32
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }


class TfDataPipeline:
    """Batches that tf.data reads ahead, for splits that don't fit in the accelerator's memory.

    Images of an array, which may be memory-mapped, are gathered; encoded ones are decoded as they are needed. In a job
    of several processes each takes its own part of every batch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        process: int = 0,
        processes: int = 1,
        crop: RandomCrop | None = None,
    ):
        """With a random crop of each image, which is as large as the images then, or all of it."""
        self._examples, self._batch_size, self._crop = examples, batch_size, crop
        share = batch_size // processes
        self._part = slice(process * share, (process + 1) * share)

    def shapes(self, sharding: NamedSharding) -> Batch:
        """Those of a whole batch, as it lies on the devices of all processes."""
        return batch_shapes(self._examples, self._batch_size, sharding, self._crop)

    def batch_at(self, seed: int, step: int) -> Batch:
        return next(self.stream(seed, step))

    def stream(self, seed: int, start: int) -> Iterator[Batch]:
        """Batches of the steps from `start` on, read ahead by tf.data. Seeking costs nothing."""
        images, labels = self._examples
        left = self._crop is not None and self._crop.enlarged_in_step
        if isinstance(images, EncodedImages):
            found = decoded(images, partial(self._request, seed), start, enlarge=not left)
        else:
            found = self._gathered(images, seed, start, enlarge=not left)
        for step, (image, extent) in zip(itertools.count(start), found, strict=False):
            every = self._indices(seed, step)
            parity = parity_at(np.full(1, seed, np.uint32), np.full(1, step, np.uint32), every, len(labels))
            label = np.asarray(labels[every[self._part]])
            batch = {"image": image, "label": label, "parity": parity[self._part]}
            yield {**batch, "extent": extent} if left else batch

    def _indices(self, seed: int, step: int) -> np.ndarray:
        """Of the whole batch, (B,)."""
        return indices_at(seed, step, len(self._examples.labels), self._batch_size)

    def _request(self, seed: int, step: int) -> tuple[np.ndarray, Crops]:
        """The images of this process' part of a batch, and what to cut out of each."""
        images, every = self._examples.images, self._indices(seed, step)
        if isinstance(images, EncodedImages):
            sizes = images.sizes(every)
        else:
            sizes = np.broadcast_to(np.array(images.shape[1:3], np.int32), (len(every), 2))
        if self._crop is not None:
            crops = random_resized(seed, step, sizes, self._crop.scale, self._crop.ratio)
        else:
            assert isinstance(images, EncodedImages)
            crops = central(sizes, images.view)
        return every[self._part], Crops(*(field[self._part] for field in crops))

    def _gathered(
        self, images: np.ndarray, seed: int, start: int, enlarge: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        tf = import_tensorflow()
        whole = np.array(images.shape[1:3], np.int32)

        def gather(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self._crop is None:
                chosen = images[self._indices(seed, int(step))[self._part]]
                return chosen, np.broadcast_to(whole, (len(chosen), 2))
            index, crops = self._request(seed, int(step))
            return cut(images[index], crops, self._crop.interpolation, enlarge)

        def element(step: Any) -> Any:
            return tuple(tf.numpy_function(gather, [step], (tf.uint8, tf.int32), stateful=False))

        steps = tf.data.Dataset.range(start, tf.int64.max)
        batches = steps.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return closed_at_exit(iter(batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()))
