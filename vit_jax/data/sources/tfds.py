"""Prepared data sets of TensorFlow Datasets."""

import os
import re
import urllib.request
from pathlib import Path
from typing import Any

from vit_jax.data.sources.names import shown_path
from vit_jax.data.sources.source import Source
from vit_jax.data.sources.tfds_info import read_info
from vit_jax.data.sources.tfds_shards import files_of, open_splits
from vit_jax.errors import UserError
from vit_jax.system.disk import expanded
from vit_jax.system.progress import say
from vit_jax.system.tensorflow import import_tensorflow

_NAME = re.compile(r"tfds:(?P<name>[a-zA-Z]\w*(?:/[\w+-][\w+.-]*)?)(?::(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
_INFO = "dataset_info.json"
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}

_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def places(configured: str | None) -> list[Path]:
    """Where the data sets of TFDS are looked for, in this order: as configured, in $TFDS_DATA_DIR, in its default."""
    given = [configured, os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets"]
    return [expanded(place) for place in given if place]


def prepared(name: str, where: list[Path], version: str | None = None) -> Path | None:
    """The folder of a data set of TFDS, NAME or NAME/CONFIG, in the first of the places that has it.

    That of the newest version, unless one is given.
    """
    for place in where:
        folders = [file.parent for file in place.glob(f"{name}/{version or '*'}/{_INFO}")]
        versions = {f: tuple(map(int, f.name.split("."))) for f in folders if re.fullmatch(r"\d+(\.\d+)*", f.name)}
        if versions:
            return max(versions, key=versions.__getitem__)
    return None


def parse(name: str) -> tuple[str, str | None]:
    """("tfds:NAME/CONFIG:VERSION") -> ("NAME/CONFIG", "VERSION"), without what isn't given; cifar10 and cifar100, too.

    Raises UserError for text that is no such name.
    """
    if name in TITLES:
        return name, None
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(
            f"config.data.name={name!r} is no name of a data set of TFDS; write tfds:NAME, tfds:NAME/CONFIG or "
            "tfds:NAME/CONFIG:1.2.3"
        )
    return match["name"], match["version"]


def source_of(name: str, configured: str | None, store: Path) -> Source | None:
    """The prepared data set of this name (as in `parse`), None if it isn't in any of the places.

    `configured` is config.data.dir, and `store` the cache, which keeps an index of each split. Without TensorFlow until
    the splits are opened for the first time. Raises UserError for a folder that can't be read, and for other examples
    than one image with one class.
    """
    wanted, version = parse(name)
    folder = prepared(wanted, places(configured), version)
    if folder is None:
        return None
    info = read_info(folder)
    stated = {"version": info.version, "splits": info.written}
    return Source(
        classes=info.classes,
        counts={split: sum(shards.counts) for split, shards in info.splits.items()},
        # Wherever the folder lies: one that was moved, or copied with the times of its files, keeps what is cached.
        # What TFDS states of a set made anew, with other images or another order, may well be the same.
        identity={"name": info.name, **stated, "files": files_of(info)},
        # Of these two all copies are the same: arrays serve with copies without times, and on machines without files.
        arrays_identity=stated if name in TITLES else None,
        size=info.size,
        nbytes=info.nbytes,
        where=shown_path(folder.absolute()),
        open=lambda: open_splits(info, store, lambda: _import_tensorflow(name)),
    )


def fetch(name: str, configured: str | None) -> None:
    """Downloads and prepares cifar10 or cifar100 where `source_of` finds it.

    Raises UserError if that can't be done, and for all others, which are prepared elsewhere.
    """
    where, (wanted, version) = places(configured), parse(name)
    if wanted in TITLES and version is None:
        _download(wanted, where)
        return
    there = f"; there is {', '.join(found[:8])}" if (found := _found(wanted.partition("/")[0], where)) else ""
    raise UserError(
        f"{name} is not in {', '.join(map(str, where))}{there}. Prepare it with TensorFlow Datasets, on any machine "
        f"(tfds build {wanted}, or tfds.load in Python), copy its folder, and set --config.data.dir to the folder "
        f"around {wanted.partition('/')[0]}"
    )


def _found(name: str, where: list[Path]) -> list[str]:
    """The configs and versions of a data set that the places have, as they would be written."""
    files = [(f, place) for place in where for depth in ("*", "*/*") for f in place.glob(f"{name}/{depth}/{_INFO}")]
    folders = sorted({file.parent.relative_to(place) for file, place in files})
    return [f"tfds:{folder.parent.as_posix()}:{folder.name}" for folder in folders]


def _download(name: str, places: list[Path]) -> None:
    tfds, title = _import_tfds(name), TITLES[name]
    say(f"{title} is not in {', '.join(map(str, places))}; downloading it (some 160 MiB) ...")
    try:
        # Without a network TFDS would try for minutes; this says so in seconds.
        urllib.request.urlopen(_CIFAR_PAGE, timeout=5).close()
        builder = tfds.builder(name, data_dir=places[0])
        builder.download_and_prepare()
    except Exception as error:  # whatever the network or the host answers
        raise UserError(
            f"{title} is not in {', '.join(map(str, places))} and can't be downloaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}). Either {ways_around(name)}; or train on the embedded images: "
            "--config.data.name=digits"
        ) from error


def ways_around(name: str, tfds: bool = True) -> str:
    """How cifar10 or cifar100 come to a machine that can't download them or, without `tfds`, can't decode them."""
    if tfds:
        way = f"copy TFDS's folder {name} from a machine that has it, and set --config.data.dir to the folder around it"
    else:
        way = f"run vit-jax prepare --name={name} elsewhere, bring the cache and name it with --config.data.cache_dir"
    if name != "cifar10":
        return way
    archive = "--config.data.name=cifar10_batches --config.data.dir=cifar-10-python.tar.gz"
    return f"bring cifar-10-python.tar.gz: {archive}; or {way}"


def _import_tfds(name: str) -> Any:
    _import_tensorflow(name)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise _without(name, error) from error
    return tfds


def _import_tensorflow(name: str) -> Any:
    try:
        return import_tensorflow()
    except ImportError as error:
        raise _without(name, error) from error


def _without(name: str, error: ImportError) -> UserError:
    return UserError(
        f"reading {TITLES.get(name, name)} from TFDS needs TensorFlow and tensorflow-datasets ({error}): install them; "
        f"or {ways_around(name, tfds=False)}"
    )
