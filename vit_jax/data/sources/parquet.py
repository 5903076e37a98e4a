"""Parquet files of labelled images, as Hugging Face's hub has them.

A row of parquet can't be had without the hundreds beside it; so the encoded images are copied once, as they are, into
one file for each split in the cache.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vit_jax.data import cache
from vit_jax.data.sources.names import shown_path
from vit_jax.data.sources.pieces import ARRAYS, Pieces, check_labels, check_places, labelled
from vit_jax.data.sources.source import Source, Split
from vit_jax.errors import UserError
from vit_jax.system.disk import expanded
from vit_jax.system.progress import say

# What Hugging Face's own reader takes for these splits.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_NAMED = re.compile(r"(?P<split>[a-zA-Z]\w*?)(-\d+-of-\d+(-\w+)?)?", re.ASCII)  # train, or train-00000-of-00003
_AT_ONCE = 16  # rows in memory: some images have many megabytes
_FILE = "images.bin"


class _Columns(NamedTuple):
    image: str
    struct: bool  # {bytes, path}, not the bytes themselves
    label: str
    text: bool  # labels are the classes' names
    names: tuple[str, ...] | None  # as the metadata has them


def source_of(configured: str | None, store: Path) -> Source:
    """The parquet files in config.data.dir, or the one that it is; `store` is the cache, in which the copies lie.

    Only their metadata is read and, where that doesn't name the classes, the labels of the train split.
    Raises UserError for files of another form.
    """
    splits = files_of(configured)
    schemas = {file: _metadata(file) for files in splits.values() for file in files}
    first = next(iter(schemas))
    columns = _columns(first, schemas[first].schema.to_arrow_schema())
    for file, metadata in schemas.items():
        if (other := _columns(file, metadata.schema.to_arrow_schema())) != columns:
            raise UserError(f"{file} has other columns or classes than {first}: {other}, not {columns}")
    stats = [
        (split, file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for split, files in splits.items()
        for file in files
    ]
    identity = {"version": 1, "columns": [columns.image, columns.label], "files": stats}
    classes = columns.names or _classes(splits, columns)
    counts = {split: sum(schemas[file].num_rows for file in files) for split, files in splits.items()}
    nbytes = sum(_image_bytes(metadata, columns) for metadata in schemas.values())

    def opened() -> dict[str, Split]:
        paths = {split: cache.folder(store, f"parquet_{split}", identity) for split in splits if counts[split]}
        return labelled(
            {split: _open(split, splits[split], counts[split], columns, classes, path) for split, path in paths.items()}
        )

    where = shown_path(expanded(configured or "").absolute())
    return Source(classes, {k: n for k, n in counts.items() if n}, identity, None, nbytes, where, opened)


def files_of(configured: str | None) -> dict[str, list[Path]]:
    """The files of each split, by their names or those of their folders. Raises UserError where that can't be told."""
    if configured is None:
        raise UserError(
            "config.data.name=parquet needs config.data.dir: a folder with *.parquet in it, or one such file"
        )
    root = expanded(configured)
    if root.is_file():
        return {"train": [root]}
    files = sorted(f for f in root.rglob("*.parquet") if f.is_file() and not f.name.startswith("."))
    if not files:
        found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else "no such folder"
        raise UserError(f"config.data.dir={configured!r} holds no *.parquet; found {found}")
    if len(files) == 1 and _split(files[0], root) is None:
        return {"train": files}
    splits: dict[str, list[Path]] = {}
    sets = set()
    for file in files:
        split, of = _split(file, root) or (None, None)
        if split is None or of is None:
            raise UserError(
                f"{file}: of which split? Call the files train-00000-of-00003.parquet or train.parquet, or put them in "
                "folders called train, validation and test"
            )
        splits.setdefault(split, []).append(file)
        sets.add(of)
    if len(sets) > 1:
        found = ", ".join(sorted(of.relative_to(root).as_posix() for of in sets))
        raise UserError(f"config.data.dir={configured!r} holds several data sets ({found}); name the folder of one")
    order = {"train": 0, "validation": 1, "test": 2}
    return dict(sorted(splits.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _split(file: Path, root: Path) -> tuple[str, Path] | None:
    """The split of a file and the folder of its data set; None where neither its name nor its folder's says it."""
    folder, match = file.parent, _NAMED.fullmatch(file.stem)
    if folder != root and folder.name in _SPLITS:
        return _SPLITS[folder.name], folder.parent
    if match and (match[2] or match["split"] in _SPLITS):
        return _SPLITS.get(match["split"], match["split"]), folder
    if folder != root and re.fullmatch(r"\w+", folder.name, re.ASCII) and folder.name != "data":
        return folder.name, folder.parent
    return None


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"parquet files need the package pyarrow ({error}): install it; or run vit-jax prepare --name=parquet "
            "elsewhere, bring the cache and name it with --config.data.cache_dir"
        ) from error
    return pyarrow


def _unreadable(file: Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:160]
    return UserError(f"{file} can't be read ({type(error).__name__}: {text}); fetch it again")


def _metadata(file: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        return pyarrow.parquet.read_metadata(file)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from error


def _columns(file: Path, schema: Any) -> _Columns:
    """Which columns hold the image and the label. Raises UserError, with all of them, where that can't be told."""
    types = _pyarrow().types
    features = _features(schema)
    kinds = {field.name: field.type for field in schema}

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and is_image(field.type) for field in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind)

    images = [name for name, kind in kinds.items() if is_image(kind)]
    images = [name for name in images if _type(features, name) == "Image"] or images
    labels = [name for name, kind in kinds.items() if types.is_integer(kind) or is_text(kind)]
    labels = [name for name in labels if _type(features, name) == "ClassLabel"] or labels
    for usual in ("label", "fine_label"):  # the latter is CIFAR-100's
        labels = [usual] if usual in labels else labels
    if len(images) != 1 or len(labels) != 1:
        found = ", ".join(f"{name} ({_type(features, name) or kind})" for name, kind in kinds.items())
        raise UserError(
            f"{file} needs one column of encoded images and one of labels, numbers or text, called label if there are "
            f"others; found {found or 'no column'}"
        )
    image, label = images[0], labels[0]
    names = features[label].get("names") if _type(features, label) == "ClassLabel" else None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        names = None
    text = is_text(kinds[label])
    return _Columns(image, types.is_struct(kinds[image]), label, text, tuple(names) if names and not text else None)


def _features(schema: Any) -> dict[str, Any]:
    """Hugging Face's own description of the columns, where there is one."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features if isinstance(features, dict) else {}
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}


def _type(features: dict[str, Any], name: str) -> str | None:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, dict) else None


def _image_bytes(metadata: Any, columns: _Columns) -> int:
    """Of the encoded images, by the metadata alone."""
    wanted = f"{columns.image}.bytes" if columns.struct else columns.image
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == wanted)


def _batches(files: list[Path], names: list[str], rows: int) -> Iterator[tuple[Path, Any]]:
    """The columns of a few rows at a time. Raises UserError for a file that can't be read."""
    pyarrow = _pyarrow()
    for file in files:
        try:
            with pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as parquet:
                for batch in parquet.iter_batches(rows, columns=names):
                    yield file, batch
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise _unreadable(file, error) from error


def _labels(file: Path, batch: Any, columns: _Columns) -> list[Any]:
    """Numbers or texts of a few rows. Raises UserError if one is missing."""
    values = batch.column(columns.label).to_pylist()
    if None in values:
        raise UserError(f"{file}: a row without a {columns.label}; leave such rows out")
    return values


def _classes(splits: dict[str, list[Path]], columns: _Columns) -> tuple[str, ...]:
    """The labels of the train split in order: texts, or numbers from 0. Raises UserError where a number is left out."""
    if "train" not in splits:
        raise UserError(f"no train split, by whose {columns.label} the classes are known; found {', '.join(splits)}")
    found: set[Any] = set()
    for file, batch in _batches(splits["train"], [columns.label], 10_000):
        found.update(_labels(file, batch, columns))
    classes = sorted(found)
    if not columns.text and classes != list(range(len(classes))):
        raise UserError(
            f"the {columns.label} of the train split must be 0, 1, 2 and so on, without a gap; found "
            f"{', '.join(map(str, classes[:12]))}"
        )
    return tuple(map(str, classes))


def _open(split: str, files: list[Path], count: int, columns: _Columns, classes: tuple[str, ...], path: Path) -> Split:
    """A split from its copy in the cache, which is made if it isn't there."""

    def check(about: dict[str, Any], arrays: cache.Arrays) -> None:
        if not (path / _FILE).is_file() or (path / _FILE).stat().st_size != about["nbytes"]:
            raise ValueError(f"{_FILE} hasn't its {about['nbytes']:,} bytes")
        check_places(arrays, count, about["nbytes"])
        check_labels(arrays["labels"], count, len(classes))

    found = cache.read_arrays(path, check)
    if found is None:
        say(f"Copying the {count:,} encoded images of {split} into the cache, once ...")
        with cache.filled(path) as folder, (folder / _FILE).open("wb") as out:
            about, arrays = _copy(files, columns, classes, out)
            cache.fill(folder, {"split": split, **about}, arrays)
        found = cache.read_arrays(path, check)
        if found is None:
            raise UserError(f"the copy {path} was damaged as soon as it was made; look after its disk")
    remedy = f"delete {path}, which is then made anew"
    return Split(Pieces([path / _FILE], [count], found[1], remedy), found[1]["labels"])


def _copy(
    files: list[Path], columns: _Columns, classes: tuple[str, ...], out: BinaryIO
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Writes the images one behind the other; where each lies, and their labels. A few rows are in memory at a time."""
    known = {name: i for i, name in enumerate(classes)} if columns.text else {i: i for i in range(-1, len(classes))}
    nbytes = 0

    def rows() -> Iterator[tuple[int, int, int, int]]:
        nonlocal nbytes
        for file, batch in _batches(files, [columns.image, columns.label], _AT_ONCE):
            images = batch.column(columns.image)
            images = images.field("bytes") if columns.struct else images
            for image, label in zip(images.to_pylist(), _labels(file, batch, columns), strict=True):
                if image is None:
                    raise UserError(f"{file}: an image without bytes, only a path at best; embed the images' files")
                if label not in known:
                    raise UserError(f"{file}: the {columns.label} {label!r} is none of the {len(classes)} classes")
                yield known[label], nbytes, len(image), zlib.crc32(image)
                out.write(image)
                nbytes += len(image)

    table = np.fromiter(rows(), np.dtype((np.int64, 4)))  # (N, 4)
    out.flush()
    os.fsync(out.fileno())
    kinds = {"labels": np.int32, **ARRAYS}
    return {"nbytes": nbytes}, {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(kinds.items())}
