"""Data sets by their names: arrays as they are, encoded images decoded once into arrays or, if large, as needed.

A source has an *identity*, cheap and without heavy imports, which changes when the content does and names the cached
copy.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.config import Config, DataConfig
from vit_jax.data import cache
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.data.encoded import EncodedImages
from vit_jax.data.index import Index, index_of
from vit_jax.data.sources import cifar_files, image_folder, npz, parquet, small, tfds
from vit_jax.data.sources.names import shown
from vit_jax.data.sources.source import Source, Split
from vit_jax.data.view import View, view_of
from vit_jax.errors import UserError
from vit_jax.schema import unknown
from vit_jax.system.disk import cache_root, expanded
from vit_jax.system.progress import say

NAMES = ("cifar10", "cifar100", "cifar10_batches", "image_folder", "parquet", "npz", "digits", "fake")

# Examples in each split where they are known without looking.
SIZES = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "digits": small.DIGITS,
    "fake": small.FAKE,
}

_KEPT_AS_ARRAYS = 4 * 2**30  # bytes that decoded images may take in any case
_BATCH = 256  # images converted at a time


def check_name(name: str) -> None:
    """Raises UserError for a name that no data set has."""
    if _is_tfds(name):
        tfds.parse(name)
    elif name not in NAMES:
        raise UserError(f"config.data.name: {unknown('data set', name, [*NAMES, 'tfds:NAME'])}")


def load(config: Config, *, must_find_dir: bool = True, download: bool = True, sha256: str = "") -> DataSet:
    """The data set that `config.data` names, from its cached arrays if there are any.

    Encoded images become pixels as `view_of` says; those that all have one size keep theirs unless
    config.data.image_size says another, and arrays keep theirs. With its `sha256`, cached arrays are those of that
    content, if there are such. Raises UserError if the data can't be had (without `download`, if they aren't
    here); with `must_find_dir`, also if config.data.dir doesn't exist though cached arrays would do (a typing mistake).
    """
    dataset = _loaded(config, must_find_dir, download, sha256)
    # Whatever a file calls them, they go to screens, tables and pictures.
    return dataclasses.replace(dataset, classes=tuple(map(shown, dataset.classes)))


def _loaded(config: Config, must_find_dir: bool, download: bool, sha256: str) -> DataSet:
    data, view, crops = config.data, view_of(config.data, config.model), bool(config.augment.crop_scale)
    if data.name == "fake":
        return _with_channels(small.fake(view.size), view.channels)
    exists = data.dir is None or expanded(data.dir).exists()
    if not exists and must_find_dir:
        raise UserError(f"config.data.dir={data.dir!r} does not exist; name the folder that holds the data set")
    store = cache_root(data.cache_dir)
    if data.name in _ARRAYS:
        identity, reader = _ARRAYS[data.name](data)
        if identity is None and not download:
            raise _absent(data)
        return _with_channels(_kept(store, data.name, identity, reader, sha256) or reader(), view.channels)
    source = _source(data, store)
    if source is None:
        dataset = _kept(store, data.name, None, None, sha256)
        if dataset is not None:
            if data.dir is not None and exists:
                say(f"{data.dir} holds no {data.name}; it is taken from the arrays that are cached in {store}.")
            return _with_channels(_of_view(dataset, view), view.channels)
        if not (download and _is_tfds(data.name)):
            raise _absent(data)
        tfds.fetch(data.name, data.dir)
        source = _source(data, store)
        assert source is not None
    if source.size is not None and data.image_size is None:
        view = dataclasses.replace(view, size=source.size, crop_pct=1.0)
    if decodes_as_needed(data, source, view, crops):
        return _encoded(data.name, source, view, store)
    identity = (source.arrays_identity or source.identity) | (
        {} if _keeps_size(source, view) else {"view": dataclasses.asdict(view)}
    )
    identity |= {"channels": view.channels} if view.channels != 3 else {}
    dataset = _kept(store, data.name, identity, lambda: _encoded(data.name, source, view, store))
    assert dataset is not None
    # Sizes and what is to be said of single images are of files alone: opening others may take TensorFlow.
    notes = _encoded(data.name, source, view, store).notes if data.name == "image_folder" else source.notes
    return dataclasses.replace(dataset, notes=notes)


def decodes_as_needed(data: DataConfig, source: Source, view: View, crops: bool) -> bool:
    """Whether the images stay encoded: as configured, or where arrays of them would be large. Not by what's cached."""
    if data.pipeline != "auto":
        return data.pipeline == "decoded"
    nbytes = sum(source.counts.values()) * view.size[0] * view.size[1] * view.channels
    return (crops and source.size is None) or nbytes > max(_KEPT_AS_ARRAYS, 2 * source.nbytes)


def _keeps_size(source: Source, view: View) -> bool:
    """Whether all images become pixels as they are."""
    return source.size == view.size and view.crop_pct == 1


def _of_view(dataset: DataSet, view: View) -> DataSet:
    """The same; raises UserError for cached arrays that were made for other settings."""
    made = dataset.view and dataclasses.replace(dataset.view, channels=view.channels)
    if made not in (None, view):
        theirs, ours = (f"{v.size} pixels, crop_pct {v.crop_pct}, {v.interpolation}" for v in (made, view))
        raise UserError(
            f"{dataset.name} isn't here, and its cached arrays are for another config ({theirs}; not {ours}); bring "
            "the data, or set config.data.image_size, .crop_pct and .interpolation to those"
        )
    return dataset


def _absent(data: DataConfig) -> UserError:
    return UserError(f"{data.name} isn't here (config.data.dir={data.dir!r}); bring it to where it was")


def _is_tfds(name: str) -> bool:
    return name in tfds.TITLES or name.startswith("tfds:")


def _source(data: DataConfig, store: Path) -> Source | None:
    """What is known of a set of encoded images; None where it isn't there."""
    if _is_tfds(data.name):
        return tfds.source_of(data.name, data.dir, store)
    if data.dir is None:
        form = "a folder with a folder of images for each class" if data.name == "image_folder" else "*.parquet"
        raise UserError(f"config.data.name={data.name} needs config.data.dir, with {form} in it")
    root = expanded(data.dir)
    if not root.exists():
        return None
    if data.name == "image_folder":
        return image_folder.source_of(image_folder.scan(root, data.follow_links))
    return parquet.source_of(data.dir, store)


def _kept(
    store: Path, name: str, identity: dict[str, Any] | None, reader: Callable[[], DataSet] | None, sha256: str = ""
) -> DataSet | None:
    """The cached arrays; else those of what `reader` gives, cached. Without an identity the newest, if any.

    Those of a `sha256` are preferred then.
    """
    if identity is None:
        path = cache.newest(store, name, sha256) or cache.newest(store, name)
    else:
        path = cache.folder(store, name, identity)
    dataset = cache.read(path) if path else None
    if dataset is None and identity is not None and reader is not None:
        say(f"Decoding {name} into arrays, once ...")
        assert path is not None
        dataset = cache.write(path, reader())
    return dataset


def _encoded(name: str, source: Source, view: View, store: Path) -> DataSet:
    """The images, still encoded."""
    splits = source.open()
    records = {split: found.records for split, found in splits.items()}
    index, notes = index_of(store, name, source.identity, records, source.where)
    sets = {
        split: Examples(EncodedImages(found.records, index[split], view), found.labels)
        for split, found in splits.items()
    }
    notes = [*source.notes, *([] if source.size else [_sizes(index)]), *notes]
    resized = None if _keeps_size(source, view) else view
    return DataSet(name, source.classes, sets, _digest(source, splits, index), tuple(notes), resized)


def _sizes(index: dict[str, Index]) -> str:
    sizes = np.concatenate([of_split.sizes for of_split in index.values()])  # (N, 2)
    by_area = sizes[np.argsort(sizes.astype(np.int64).prod(axis=1), kind="stable")]
    three = (f"{width} x {height}" for height, width in (by_area[0], by_area[len(by_area) // 2], by_area[-1]))
    return "Width x height in pixels: smallest {}, median {}, largest {}.".format(*three)


def _digest(source: Source, splits: dict[str, Split], index: dict[str, Index]) -> str:
    """Of the encoded images, wherever they lie, and what they show."""
    digest = hashlib.sha256(json.dumps([source.classes, source.counts]).encode())
    for split, found in splits.items():
        for array in (found.labels, index[split].crc):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _with_channels(dataset: DataSet, channels: int) -> DataSet:
    """The same with arrays (N, H, W, channels): grey of colours (ITU-R 601, as Pillow), or three times the grey."""

    def converted(images: np.ndarray | EncodedImages) -> np.ndarray:
        assert isinstance(images, np.ndarray)
        if images.shape[3] == channels:
            return images
        if channels == 3:
            return np.repeat(images, 3, axis=3)
        grey = np.empty((*images.shape[:3], 1), np.uint8)
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH].astype(np.uint32)
            weighted = (part * np.array([19595, 38470, 7471], np.uint32)).sum(axis=3, keepdims=True)
            grey[start : start + _BATCH] = (weighted + 0x8000) >> 16
        return grey

    splits = {name: Examples(converted(images), labels) for name, (images, labels) in dataset.splits.items()}
    return dataclasses.replace(dataset, splits=splits)


def _cifar10_batches(data: DataConfig) -> tuple[dict[str, Any] | None, Callable[[], DataSet]]:
    """The original distribution; data.dir is its folder or archive."""
    where = data.dir
    if where is None:
        raise UserError("config.data.name=cifar10_batches needs config.data.dir: the folder or .tar.gz of CIFAR-10")

    def read(files: list[Path]) -> DataSet:
        return DataSet("cifar10_batches", cifar_files.CLASSES, cifar_files.read(files))

    if not expanded(where).exists():
        return None, lambda: read(cifar_files.find(where))
    files = cifar_files.find(where)
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"version": 2, "files": stats}, lambda: read(files)


def _npz(data: DataConfig) -> tuple[dict[str, Any] | None, Callable[[], DataSet]]:
    if data.dir is not None and not expanded(data.dir).exists():
        return None, lambda: npz.read(npz.files_of(data.dir))
    files = npz.files_of(data.dir)
    return npz.identity(files), lambda: npz.read(files)


_ARRAYS: dict[str, Callable[[DataConfig], tuple[dict[str, Any] | None, Callable[[], DataSet]]]] = {
    "cifar10_batches": _cifar10_batches,
    "digits": lambda _: ({"version": 1}, small.digits),
    "npz": _npz,
}
