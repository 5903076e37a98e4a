"""What a config leaves to the data and to the machine, filled in."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vit_jax.config import Config
from vit_jax.data.dataset import DataSet, Examples, Splits, take, with_default_splits
from vit_jax.data.encoded import EncodedImages
from vit_jax.data.streaming import batches
from vit_jax.data.view import crop_pct_of, interpolation_of
from vit_jax.errors import UserError
from vit_jax.models import backend, resolve
from vit_jax.models.backend import Target
from vit_jax.steps.cpu import with_micro_batches
from vit_jax.system.progress import say
from vit_jax.system.tensorflow import import_tensorflow
from vit_jax.training.checks import check_splits, warnings_of

_RESIDENT_LIMIT = 4 * 2**30  # bytes, of all copies in one memory, up to which "auto" keeps the train images resident
_COUNTED_PIXELS = 2**26  # of the images from which mean and standard deviation are computed: all of CIFAR's


def with_data(config: Config, dataset: DataSet, target: Target) -> tuple[Config, Splits]:
    """The config with what it leaves to the data and to the target filled in, and the slices of the data that it uses.

    Raises UserError for a config that doesn't fit them.
    """
    config = dataclasses.replace(config, data=with_default_splits(config.data, dataset.splits))
    num_train = check_splits(config, {split: len(examples.labels) for split, examples in dataset.splits.items()})
    for line in warnings_of(config, num_train):
        say(f"Warning: {line}")
    classes = len(dataset.classes)
    if config.model.num_classes not in (None, classes):
        raise UserError(
            f"config.model.num_classes={config.model.num_classes}, but {dataset.name} has {classes} classes; "
            f"set --config.model.num_classes={classes}"
        )
    splits = split(config, dataset)
    side = min(splits.train.images.shape[1:3])
    if config.augment.crop_padding >= side:
        raise UserError(
            f"config.augment.crop_padding={config.augment.crop_padding} is not below the {side} pixels of an image"
        )
    augment = config.augment
    if not (augment.mean and augment.std):
        mean, std = channel_statistics(splits.train.images)
        augment = dataclasses.replace(augment, mean=augment.mean or mean, std=augment.std or std)
    model = config.model
    if config.train.deterministic and model.attention == "auto" and target.platform == "gpu":
        model = dataclasses.replace(model, attention="xla")  # cuDNN adds up gradients in any order
    model = resolve(model, classes)
    model = dataclasses.replace(model, dtype=jnp.dtype(backend.compute_dtype(model.dtype, target)).name)
    data = dataclasses.replace(
        config.data, crop_pct=crop_pct_of(config.data), interpolation=interpolation_of(config.data)
    )
    config = dataclasses.replace(config, augment=augment, data=data, model=model)
    config = with_micro_batches(config, target)
    if pipeline_of_data(config, splits.train, target)[0] != "resident":
        resident = "--config.data.pipeline=resident"
        resident += " --config.augment.crop_scale='()'" if config.augment.crop_scale else ""
        if config.train.steps_per_call > 1:
            raise UserError(
                f"config.train.steps_per_call={config.train.steps_per_call} needs the images on the device, and they "
                f"are streamed; set it to 1, or set {resident}"
            )
        try:
            import_tensorflow()
        except ImportError as error:
            raise UserError(
                f"streaming needs TensorFlow ({error}); install it, or set {resident} to keep the "
                f"{splits.train.images.nbytes * backend.resident_copies(target) / 2**30:.1f} GiB of images in memory"
            ) from error
    return config, splits


def split(config: Config, dataset: DataSet) -> Splits:
    """The config's train, validation and test examples, without a copy; `""` is to have none."""
    data = config.data
    assert data.train is not None
    has_test = data.test and (data.test in dataset.splits or "[" in data.test)
    return Splits(
        train=take(dataset, data.train, "config.data.train"),
        validation=take(dataset, data.validation, "config.data.validation") if data.validation else None,
        test=take(dataset, data.test, "config.data.test") if data.test and has_test else None,
        sha256=dataset.sha256,
    )


def channel_statistics(images: np.ndarray | EncodedImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], from counts of each byte value: exact.

    images (N, H, W, C) uint8; of more than _COUNTED_PIXELS, which may be larger than memory, evenly spaced ones.
    """
    n, h, w, channels = images.shape
    counts = np.zeros((channels, 256), np.int64)
    count = min(n, max(_COUNTED_PIXELS // (h * w), 1))
    chosen = np.arange(count) * n // count
    size = max(2**20 // (h * w), 1)
    parts = batches(images, size) if count == n else (images[chosen[i : i + size]] for i in range(0, count, size))
    for part in parts:
        counts += np.stack([np.bincount(part[..., c].ravel(), minlength=256) for c in range(channels)])
    share, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ values  # (C,)
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 1e-6))  # a constant channel stays finite
    return tuple(mean.tolist()), tuple(std.tolist())


def pipeline_of_data(config: Config, examples: Examples, target: Target) -> tuple[str, str]:
    """Where the train images come from, "resident", "mapped" or "decoded" as they are needed, and why."""
    asked, images = config.data.pipeline, examples.images
    if isinstance(images, EncodedImages):
        if asked == "decoded":
            return asked, "as config.data.pipeline says"
        if config.augment.crop_scale:
            return "decoded", "random crops are cut out of whole images"
        return "decoded", f"as arrays they would take {images.nbytes / 2**30:,.1f} GiB"
    if asked == "decoded":
        return "mapped", f"{config.data.name} has no encoded images"
    if asked != "auto":
        return asked, "as config.data.pipeline says"
    if config.augment.crop_scale:
        return "mapped", "random resized crops are cut on the host"
    nbytes = images.nbytes * backend.resident_copies(target)
    size, limit = f"{nbytes / 2**20:,.1f} MiB", f"{_RESIDENT_LIMIT / 2**30:.0f} GiB"
    if nbytes <= _RESIDENT_LIMIT:
        return "resident", f"{size} of at most {limit}"
    return "mapped", f"{size} are more than {limit}"
