"""Carries a prepared data set to a machine without TensorFlow or a network, in pieces of limited size.

python scripts/carry_data.py cut  --name=cifar10 --pieces=DIR [--size=60]     here, after vit-jax prepare
python scripts/carry_data.py join --pieces=DIR                                there, once all pieces are in DIR

Each piece is an .npz of at most --size MiB; in it, images are columns of lossless WebP, some 55 % of the bytes of
photographs. `join` puts the arrays where a run of cifar10 or cifar100 looks for them where it finds no other: in
$VIT_JAX_CACHE, else ~/.cache/vit_jax. What arrives is what was cut, by its checksum.
"""

import argparse
import io
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vit_jax.data import cache
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root

_HIGHEST = 16_000  # pixels of a column of images; WebP's limit is 16,383
_BESIDES = 1000  # bytes of a strip in a piece besides its images: labels are less than 4 each, and names

Strip = tuple[str, bytes, np.ndarray]  # the split's name, a column of images as WebP, their labels


def cut(name: str, pieces: Path, size: float) -> list[Path]:
    """Writes the newest prepared data set of this name as pieces; raises UserError if there is none."""
    found = cache.newest(cache_root(None), name)
    dataset = cache.read(found) if found else None
    if dataset is None:
        raise UserError(f"{cache_root(None)} holds no {name}; run vit-jax prepare --name={name} first")
    pieces.mkdir(parents=True, exist_ok=True)
    for old in pieces.glob(f"{name}_*.npz"):
        old.unlink()
    written: list[Path] = []
    strips: list[Strip] = []
    used = 0.0
    for strip in _strips(dataset, size):
        bytes_of_it = len(strip[1]) + strip[2].nbytes + _BESIDES
        if strips and used + bytes_of_it > size * 2**20:
            written.append(_write(pieces, dataset, len(written), strips))
            strips, used = [], 0.0
        strips.append(strip)
        used += bytes_of_it
    return [*written, _write(pieces, dataset, len(written), strips)]


def _strips(dataset: DataSet, size: float) -> Iterator[Strip]:
    """All images in order, as many to a strip as fit its height and surely a piece of `size` MiB."""
    for split, examples in dataset.splits.items():
        height = examples.images.shape[1]
        count = max(min(_HIGHEST // height, int(size * 2**20 / (1.1 * examples.images[0].nbytes))), 1)
        for start in range(0, len(examples.labels), count):
            images = examples.images[start : start + count]  # (N, H, W, 3)
            column, file = images.reshape(-1, *images.shape[2:]), io.BytesIO()  # (N * H, W, 3)
            # The least effort that finds WebP's predictors: more takes 100 times as long for 1 % (CIFAR-10).
            Image.fromarray(column).save(file, "WEBP", lossless=True, method=2, quality=30)
            yield split, file.getvalue(), examples.labels[start : start + count]


def _write(pieces: Path, dataset: DataSet, number: int, strips: list[Strip]) -> Path:
    path = pieces / f"{dataset.name}_{number:06d}.npz"
    facts = {
        "classes": np.array(dataset.classes),
        "sha256": dataset.sha256,
        "total": sum(len(examples.labels) for examples in dataset.splits.values()),
    }
    arrays = {f"{i:04d}_{split}_images": np.frombuffer(webp, np.uint8) for i, (split, webp, _) in enumerate(strips)}
    labels = {f"{i:04d}_{split}_labels": labels for i, (split, _, labels) in enumerate(strips)}
    np.savez(path, **facts, **arrays, **labels)
    return path


def join(pieces: Path) -> Path:
    """Puts a data set together again, in the cache; raises UserError for pieces that are not those of one whole."""
    files = sorted(pieces.glob("*_*.npz"))
    names = {file.name.rpartition("_")[0] for file in files}
    if len(names) != 1:
        raise UserError(f"{pieces} needs the pieces of one data set, NAME_000000.npz and so on; found {sorted(names)}")
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    try:
        for file in files:
            with np.load(file, allow_pickle=False) as piece:
                facts = {key: piece[key] for key in ("classes", "sha256", "total")}
                for split, images, labels in _read(piece):
                    parts.setdefault(split, []).append((images, labels))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, UnidentifiedImageError) as error:
        raise UserError(f"a piece in {pieces} is damaged ({error}); carry it again") from error
    splits = {split: Examples(*map(np.concatenate, zip(*rows, strict=True))) for split, rows in parts.items()}
    count, expected = sum(len(examples.labels) for examples in splits.values()), int(facts["total"])
    if count != expected:
        raise UserError(f"the pieces in {pieces} hold {count:,} of {expected:,} images; carry the missing ones, too")
    name = names.pop()
    target = cache.folder(cache_root(None), name, {"carried": name})
    if target.exists():
        shutil.rmtree(target)
    written = cache.write(target, DataSet(name, tuple(map(str, facts["classes"])), splits))
    if written.sha256 != str(facts["sha256"]):
        shutil.rmtree(target)
        raise UserError(f"the pieces in {pieces} aren't of one cut (their checksum differs); cut and carry all anew")
    return target


def _read(piece: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The strips of a piece: split, images (N, H, W, 3) uint8, labels (N,) int32."""
    for key in sorted(key for key in piece.files if key.endswith("_images")):
        labels = piece[key.removesuffix("images") + "labels"]
        column = np.asarray(Image.open(io.BytesIO(piece[key].tobytes())).convert("RGB"))  # (N * H, W, 3)
        yield key[5 : -len("_images")], column.reshape(len(labels), -1, *column.shape[1:]), labels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cut", "join"])
    # Of these a run takes the newest arrays that it finds; those of others have their folder's name in theirs.
    parser.add_argument("--name", default="cifar10", choices=["cifar10", "cifar100"])
    parser.add_argument("--pieces", required=True, type=Path, help="the folder of the pieces")
    parser.add_argument("--size", type=float, default=60, help="MiB of a piece at most")
    args = parser.parse_args()
    try:
        if args.what == "cut":
            for path in cut(args.name, args.pieces, args.size):
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        else:
            print(f"in {join(args.pieces)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
