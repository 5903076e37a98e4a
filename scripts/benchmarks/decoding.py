"""Encoded images to batches: images/s of JPEGs of 256 x 256 pixels that become 224 x 224, from a folder or a TFRecord.

python -m benchmarks.decoding '{"adapter": "vit_jax", "view": "random", "root": "/tmp/x", "batch_size": 64, "steps": 5,
"warmup": 2}' measures one contestant; it imports nothing of this repository for a peer, whose Python may lack it.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.child import SCRIPTS, result_of

IMAGES, SIDE, SIZE, CROP_PCT = 256, 256, 224, 0.875
VIEWS = ("random", "centre")


def chosen(args: argparse.Namespace) -> list[str]:
    """The contestants that the command asks for, ours first."""
    return [name for name in ADAPTERS if any(part in name for part in (args.contestants or "").split(","))]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contestant and view, in rounds that alternate between the contestants."""
    spec = {"batch_size": args.batch or 64, "steps": args.steps * 4, "warmup": args.warmup * 4}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {(view, name): [] for view in VIEWS for name in chosen(args)}
    with tempfile.TemporaryDirectory() as root:
        write(Path(root))
        for _ in range(args.rounds):
            for (view, name), results in found.items():
                if not any("failed" in result for result in results):
                    python = args.peer_python or sys.executable if name.startswith("torch") else sys.executable
                    results.append(_run(python, {"adapter": name, "view": view, "root": root, **spec}))
    return [_row(view, name, results) for (view, name), results in found.items()]


def _row(view: str, name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"view": view, "contestant": name}
    if "failed" in results[-1]:
        return {**row, "absent": results[-1]["failed"]}
    rates = [result["images_per_second"] for result in results]
    cpu = [result["cpu_ms_per_image"] for result in results]
    row |= {"images_per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
    return row | {"cpu_ms_per_image": statistics.median(cpu), "least_cpu_ms": min(cpu), "most_cpu_ms": max(cpu)}


def _run(python: str, spec: dict[str, Any]) -> dict[str, Any]:
    paths = () if spec["adapter"].startswith("torch") else (str(SCRIPTS.parent),)
    return result_of("benchmarks.decoding", spec, paths, python=python)


def write(root: Path) -> None:
    """IMAGES JPEGs in two class folders, the same in a TFRecord, as TFDS writes them, and one behind the other."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(root / "images.tfrecord")) as writer, (root / "images.bin").open("wb") as large:
        for i in range(IMAGES):
            # The classes one behind the other, as the names of the files are sorted.
            raw, file = picture(i), root / "train" / f"class{2 * i // IMAGES}" / f"{i:04d}.jpg"
            large.write(raw)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw)
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[raw]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[2 * i // IMAGES]))
            features = tf.train.Features(feature={"image": image, "label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())


def picture(seed: int) -> bytes:
    """A JPEG whose content has, as natural images do, less contrast the finer it is; some 30 kB at quality 90."""
    import numpy as np
    from PIL import Image

    rng = np.random.RandomState(seed)
    total = np.full((SIDE, SIDE, 3), 127.0)
    for cells, contrast in ((4, 1.0), (16, 0.67), (64, 0.42), (256, 0.15)):
        noise = Image.fromarray(rng.randint(256, size=(cells, cells, 3)).astype(np.uint8))
        total += contrast * (np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float) - 127)
    stream = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _vit_jax(root: Path, view: str, batch_size: int, enlarged_in_step: bool = False) -> Iterator[Any]:
    """Ours, with the images one behind the other in a large file, as in TFDS's files and our copies of parquet's."""
    import numpy as np

    from vit_jax.data.sources.pieces import Pieces

    contents = [file.read_bytes() for file in sorted(root.glob("train/*/*.jpg"))]
    lengths = np.array([len(content) for content in contents], np.int64)
    checks = np.array([zlib.crc32(content) for content in contents], np.uint32)
    places = {"offsets": np.cumsum(lengths) - lengths, "lengths": lengths, "checks": checks}
    pieces = Pieces([root / "images.bin"], [len(contents)], places, "")
    return _streamed(pieces, contents, view, batch_size, enlarged_in_step)


def _vit_jax_accelerated(root: Path, view: str, batch_size: int) -> Iterator[Any]:
    """The same where the step runs on an accelerator, which enlarges the crops."""
    return _vit_jax(root, view, batch_size, enlarged_in_step=True)


def _vit_jax_folder(root: Path, view: str, batch_size: int) -> Iterator[Any]:
    """Ours, with a file for each image."""
    from vit_jax.data.sources.image_folder import Files

    files = sorted(root.glob("train/*/*.jpg"))
    return _streamed(Files(files), [file.read_bytes() for file in files], view, batch_size)


def _streamed(
    records: Any, contents: list[bytes], view: str, batch_size: int, enlarged_in_step: bool = False
) -> Iterator[Any]:
    import numpy as np

    from vit_jax.data.dataset import Examples
    from vit_jax.data.encoded import EncodedImages, Index
    from vit_jax.data.images import header
    from vit_jax.data.pipeline import RandomCrop, TfDataPipeline
    from vit_jax.data.view import View

    headers = [header(content) for content in contents]
    sizes, plain = np.array([h[:2] for h in headers], np.int32), np.array([h.plain for h in headers])
    index = Index(sizes, plain, np.zeros(len(headers), np.uint32))
    images = EncodedImages(records, index, View((SIZE, SIZE), 3, CROP_PCT))
    crop = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), "bilinear", enlarged_in_step) if view == "random" else None
    labels = np.arange(len(headers), dtype=np.int32)
    return TfDataPipeline(Examples(images, labels), batch_size, crop=crop).stream(0, 0)


def _tfdata(root: Path, view: str, batch_size: int) -> Iterator[Any]:
    """As tutorials have it: decode, crop, resize to float32, image by image."""
    import tensorflow as tf

    def example(record: Any) -> Any:
        features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(parsed["image"], channels=3)
        if view == "random":
            box = tf.zeros((1, 0, 4))
            start, size, _ = tf.image.sample_distorted_bounding_box(
                tf.shape(image), box, area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3),
                use_image_if_no_bounding_boxes=True,
            )  # fmt: skip
            image = tf.image.resize(tf.slice(image, start, size), (SIZE, SIZE))
        else:
            image = tf.image.resize(image, (round(SIZE / CROP_PCT),) * 2)
            image = tf.image.resize_with_crop_or_pad(image, SIZE, SIZE)
        return tf.ensure_shape(image, (SIZE, SIZE, 3)), parsed["label"]

    data = tf.data.TFRecordDataset(str(root / "images.tfrecord")).repeat().shuffle(IMAGES)
    data = data.map(example, tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return data.as_numpy_iterator()


def _torchvision(root: Path, view: str, batch_size: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    if view == "random":
        steps = [transforms.RandomResizedCrop(SIZE)]
    else:
        steps = [transforms.Resize(round(SIZE / CROP_PCT)), transforms.CenterCrop(SIZE)]
    images = datasets.ImageFolder(str(root / "train"), transforms.Compose([*steps, transforms.ToTensor()]))
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    while True:
        yield from loader


ADAPTERS: dict[str, Callable[[Path, str, int], Iterator[Any]]] = {
    "vit_jax": _vit_jax,
    "vit_jax, enlarging in an accelerator's step": _vit_jax_accelerated,
    "vit_jax, folder": _vit_jax_folder,
    "tf.data": _tfdata,
    "torchvision": _torchvision,
}


def _cpu_seconds() -> float:
    """Of this process and of the workers that it runs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    total = used.ru_utime + used.ru_stime
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main(spec: dict[str, Any]) -> dict[str, Any]:
    batches = ADAPTERS[spec["adapter"]](Path(spec["root"]), spec["view"], spec["batch_size"])
    for _ in range(spec["warmup"]):
        next(batches)
    images, began, cpu = spec["steps"] * spec["batch_size"], time.perf_counter(), _cpu_seconds()
    for _ in range(spec["steps"]):
        next(batches)
    seconds, used = time.perf_counter() - began, _cpu_seconds() - cpu
    return {"images_per_second": images / seconds, "cpu_ms_per_image": 1000 * used / images}


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(sys.argv[1]))), flush=True)
