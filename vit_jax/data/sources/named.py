"""Named data sets, each decoded once into uint8 arrays.

A source has two parts: an *identity*, cheap and without heavy imports, which changes when the content does and names
the cached copy, and a *reader*, which decodes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.config import DataConfig
from vit_jax.data import cache
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.data.sources import cifar_files
from vit_jax.data.sources.image_folder import folder_identity, read_folder
from vit_jax.data.sources.tfds import cifar
from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root, expanded

NAMES = ("cifar10", "cifar100", "cifar10_batches", "digits", "image_folder", "fake")

# Examples in each split where they are known without looking.
SIZES = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "digits": {"train": 1_437, "test": 360},
    "fake": {"train": 512, "test": 128},
}


def load(data: DataConfig, image_size: int, *, must_find_dir: bool = True, download: bool = True) -> DataSet:
    """The data set that `data` names, from its cached arrays if there are any.

    `image_size` is the side in pixels at which `image_folder` and `fake` store images where config.data.image_size
    is None. Raises UserError if the data can't be had (without `download`, if they aren't here); with `must_find_dir`,
    also if config.data.dir doesn't exist though cached arrays would do (a typing mistake).
    """
    image_size = data.image_size or image_size
    if data.name == "fake":
        return _read_fake(image_size)
    exists = data.dir is None or expanded(data.dir).exists()
    if not exists and must_find_dir:
        raise UserError(f"config.data.dir={data.dir!r} does not exist; name the folder that holds the data set")
    store = cache_root(data.cache_dir)
    identity, reader = _SOURCES[data.name](data, image_size)
    path = cache.folder(store, data.name, identity) if identity else cache.newest(store, data.name)
    try:
        dataset = cache.read(path) if path else None
    except OSError as error:
        raise UserError(f"the cache {path} can't be read ({error.strerror}); mend its permissions") from error
    if dataset is None:
        if not (identity or download):
            raise UserError(f"{data.name} isn't here (config.data.dir={data.dir!r}); bring it to where it was")
        if identity:
            print(f"Decoding {data.name} into arrays, once ...", flush=True)
        dataset = reader()
        identity = identity or _SOURCES[data.name](data, image_size)[0]  # a download gives it one
        assert identity is not None
        dataset = cache.write(cache.folder(store, data.name, identity), dataset)
    return dataset


Source = tuple[dict[str, Any] | None, Callable[[], DataSet]]


def _cifar10_batches(data: DataConfig, _: int) -> Source:
    """The original distribution; data.dir is its folder or archive."""
    where = data.dir
    if where is None:
        raise UserError("config.data.name=cifar10_batches needs config.data.dir: the folder or .tar.gz of CIFAR-10")
    if not expanded(where).exists():
        return None, lambda: _read_batches(cifar_files.find(where))
    files = cifar_files.find(where)
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = {"version": 2, "files": stats}
    return identity, lambda: _read_batches(files)


def _read_batches(files: list[Path]) -> DataSet:
    return DataSet("cifar10_batches", cifar_files.CLASSES, cifar_files.read(files))


def _digits(_: DataConfig, __: int) -> Source:
    return {"version": 1}, _read_digits


def _read_digits() -> DataSet:
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998), 8x8, enlarged to 32x32x3."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), 0 to 16 before
    large = np.stack([np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey])
    images = np.repeat(large[..., None], 3, axis=-1)  # (N, 32, 32, 3)
    labels = digits.target.astype(np.int32)
    # The set lies ordered by writer; a fixed shuffle gives every split some of each.
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[:1437], order[1437:]
    splits = {"train": Examples(images[train], labels[train]), "test": Examples(images[test], labels[test])}
    return DataSet("digits", tuple(map(str, range(10))), splits)


def _image_folder(data: DataConfig, image_size: int) -> Source:
    if data.dir is None:
        raise UserError("config.data.name=image_folder needs config.data.dir, with train/<class>/*.png or *.jpg in it")
    root = expanded(data.dir)
    reader = partial(read_folder, root, image_size)
    return (folder_identity(root, image_size) if root.exists() else None), reader


def _read_fake(size: int) -> DataSet:
    """Noise around a pattern of each of 10 classes: learnable, made in memory, for trials and tests."""
    rng = np.random.RandomState(0)
    patterns = rng.uniform(64, 192, (10, 4, 4, 3))
    splits = {}
    for split, count in SIZES["fake"].items():
        labels = rng.randint(10, size=count).astype(np.int32)
        small = patterns[labels] + rng.normal(0, 24, (count, 4, 4, 3))
        repeats = -(-size // 4)
        large = small.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :size, :size]
        splits[split] = Examples(large.clip(0, 255).astype(np.uint8), labels)
    return DataSet("fake", tuple(f"class {i}" for i in range(10)), splits)


_SOURCES: dict[str, Callable[[DataConfig, int], Source]] = {
    "cifar10": cifar,
    "cifar100": cifar,
    "cifar10_batches": _cifar10_batches,
    "digits": _digits,
    "image_folder": _image_folder,
}
