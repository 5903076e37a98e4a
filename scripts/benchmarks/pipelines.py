"""Data pipelines alone: images/s of batches ready for the model, 32 x 32 pixels, random crop and flip."""

import argparse
import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.training import Contestant, rounds

IMAGES = 20_000


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each pipeline; each runs in a process of its own, in rounds that alternate between them."""
    contestants = [Contestant(name, name, "uint8", False, needs) for name, (needs, _) in PIPELINES.items()]
    spec = {"task": "pipeline", "batch_size": args.batch or 256, "steps": args.steps * 20, "warmup": args.warmup + 10}
    results = rounds(contestants, spec, args.rounds)
    rows: list[dict[str, Any]] = []
    for name, (needs, _) in PIPELINES.items():
        rates = [spec["steps"] * spec["batch_size"] / sum(r["seconds"]) for r in results[name] if "failed" not in r]
        if rates:
            rows.append({"pipeline": name, "images_per_second": statistics.median(rates)})
            rows[-1] |= {"lowest": min(rates), "highest": max(rates)}
        else:
            why = results[name][0]["failed"] if results[name] else f"{needs} is not installed"
            rows.append({"pipeline": name, "absent": why})
    return rows


def start(name: str, batch_size: int) -> Callable[[], Any]:
    """A function that waits for the next batch of a pipeline."""
    images = np.random.RandomState(0).randint(256, size=(IMAGES, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(IMAGES, dtype=np.int32) % 10
    return PIPELINES[name][1](images, labels, batch_size)


def _device(images: np.ndarray, labels: np.ndarray, batch_size: int, augmented: bool) -> Callable[[], Any]:
    import jax

    from vit_jax.config import AugmentConfig
    from vit_jax.data.augment import augment
    from vit_jax.data.dataset import Examples
    from vit_jax.data.pipeline import DevicePipeline
    from vit_jax.system.processor import cores
    from vit_jax.system.sharding import make_mesh, replicated

    jax.config.update("jax_num_cpu_devices", cores())
    everywhere = replicated(make_mesh())
    pipeline = DevicePipeline.of(Examples(images, labels), batch_size, everywhere)
    cfg = AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=4, flip=True)

    @jax.jit
    def batch(pipeline: DevicePipeline, step: jax.Array) -> Any:
        out = pipeline.batch_at(0, step)
        key, batch = jax.random.fold_in(jax.random.key(0), step), (out["image"], out["label"], out["parity"])
        return augment(key, *batch, cfg, (32, 32))[0] if augmented else out

    steps = iter(range(10**9))
    return lambda: jax.block_until_ready(batch(pipeline, next(steps)))


def _tfdata(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Callable[[], Any]:
    from vit_jax.data.dataset import Examples
    from vit_jax.data.pipeline import TfDataPipeline

    return _next(TfDataPipeline(Examples(images, labels), batch_size).stream(0, 0))


def _plain_tfdata(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Callable[[], Any]:
    import tensorflow as tf

    def distort(image: Any, label: Any) -> Any:
        image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]], "REFLECT"), (32, 32, 3))
        image = tf.image.random_flip_left_right(image)
        return tf.cast(image, tf.float32) / 127.5 - 1, label

    data = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().shuffle(10_000)
    data = data.map(distort, tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return _next(data.as_numpy_iterator())


def _torch(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, Dataset

    class Images(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            x = torch.from_numpy(images[i]).permute(2, 0, 1).float()[None] / 127.5 - 1
            x = F.pad(x, (4, 4, 4, 4), mode="reflect")[0]
            y0, x0, flip = torch.randint(9, ()), torch.randint(9, ()), torch.rand(()) < 0.5
            x = x[:, y0 : y0 + 32, x0 : x0 + 32]
            return (x.flip(2) if flip else x), int(labels[i])

    loader = DataLoader(Images(), batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    return _next(forever())


def _next(batches: Iterator[Any]) -> Callable[[], Any]:
    return lambda: next(batches)


# By name: the module that it needs, and (images, labels, batch size) -> a function that waits for the next batch.
PIPELINES: dict[str, tuple[str, Callable[..., Callable[[], Any]]]] = {
    "vit_jax_device": ("jax", functools.partial(_device, augmented=False)),
    "vit_jax_device_augmented": ("jax", functools.partial(_device, augmented=True)),
    "vit_jax_tfdata": ("tensorflow", _tfdata),
    "tf.data_augmented": ("tensorflow", _plain_tfdata),
    "torch_dataloader_augmented": ("torch", _torch),
}
