"""Images in folders, found without opening one of them: train/<class>/*.png and the like. N images of a split."""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vit_jax.data.sources.class_folders import EXPECTED, Form, flat, read_form
from vit_jax.data.sources.names import counted, listed, shown, shown_path
from vit_jax.data.sources.source import Source, Split
from vit_jax.data.sources.walk import Image, Walk
from vit_jax.errors import UserError

_MAX_BYTES = 2**30  # of a file: far more than the pixels that an image may have need


class ImageFiles(NamedTuple):
    """The images of a split, in a fixed shuffle: every slice has some of each class."""

    paths: list[str]  # they begin with the root's
    labels: np.ndarray  # (N,) int32
    nbytes: np.ndarray  # (N,) int64
    mtimes: np.ndarray  # (N,) int64, nanoseconds


@dataclass(frozen=True)
class Folder:
    """What a folder of images has, and what of it is left out."""

    root: Path
    classes: tuple[str, ...]  # of train, in alphabetical order, safe to print
    splits: dict[str, ImageFiles]  # those that there are of train, validation, test, in this order
    notes: list[str]  # a sentence each: what was left out or taken for what, and why


class Files:
    """Image files as `Records`."""

    def __init__(self, paths: Sequence[str | Path]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: np.ndarray) -> list[bytes]:
        """The content of the files `index` (M,). Raises UserError for one that isn't there any more."""
        return [_content(self._paths[i]) for i in index]

    def name(self, index: int) -> str:
        return shown_path(self._paths[index])


def scan(root: Path, follow_links: bool) -> Folder:
    """Finds classes and images. With `follow_links` also those behind links that lead out of `root`.

    Raises UserError for a folder of another form, or with empty images, or that can't be read.
    """
    try:
        is_folder, there = stat.S_ISDIR(os.stat(root).st_mode), "this is no folder: unpack it, if it is an archive"
    except OSError as error:
        is_folder, there = False, str(error.strerror)
    if not is_folder:
        raise UserError(f"config.data.dir={shown_path(root)!r}: expected a folder with {EXPECTED}; found: {there}")
    walk = Walk(str(root), follow_links)
    form = read_form(walk, str(root))
    notes = form.notes
    by_class = {split: _by_class(walk, form, split) for split in form.splits}
    _refuse_flat(form, by_class)
    classes = tuple(sorted(name for name, images in by_class["train"].items() if images))
    _refuse_classes(form, by_class, classes)
    empty = [form.named(split, name) for split in by_class for name, images in by_class[split].items() if not images]
    if empty:
        notes.append(f"Without an image, and left out: {listed(empty)}.")
    for split, found in by_class.items():
        if split != "train" and not any(found.values()):
            count, where = form.splits[split].images, form.named(split)
            why = f"{where} has {counted(count)}, but no class folders" if count else f"{where} has no images"
            notes.append(f"{why}: there is no {split} split." + " `vit-jax predict` takes them." * (count > 0))
    notes += [f"Left out: {reason}." for reason in form.left_out.reasons()]
    splits = {split: _shuffled(found, classes) for split, found in by_class.items() if any(found.values())}
    _refuse_empty(root, splits)
    return Folder(root, classes, splits, notes)


def source_of(folder: Folder) -> Source:
    """The images of a folder as a source; they are opened when they are read."""
    digest, start = hashlib.sha256(), len(str(folder.root))
    for split, files in folder.splits.items():
        for path, *rest in zip(files.paths, files.nbytes.tolist(), files.mtimes.tolist(), strict=True):
            digest.update(os.fsencode(f"{split}\0{path[start:]}\0{rest}\n"))
    counts = {split: len(files.paths) for split, files in folder.splits.items()}
    return Source(
        classes=folder.classes,
        counts=counts,
        identity={"version": 5, "classes": list(folder.classes), "counts": counts, "files": digest.hexdigest()},
        size=None,
        nbytes=sum(int(files.nbytes.sum()) for files in folder.splits.values()),
        notes=tuple(report(folder)),
        where=shown_path(folder.root.absolute()),
        open=lambda: {split: Split(Files(files.paths), files.labels) for split, files in folder.splits.items()},
    )


def report(folder: Folder) -> list[str]:
    """What was found, a line each."""
    counts = np.bincount(folder.splits["train"].labels, minlength=len(folder.classes))  # (C,)
    order = np.argsort(counts, kind="stable")
    least, middle, most = (int(order[i]) for i in (0, len(order) // 2, -1))
    splits = ", ".join(f"{split} {len(files.paths):,}" for split, files in folder.splits.items())
    return [
        f"{shown_path(folder.root)}: {len(folder.classes):,} classes; images: {splits}.",
        f"Images of a class in train: smallest {counts[least]:,} ({folder.classes[least]}), median {counts[middle]:,}, "
        f"largest {counts[most]:,} ({folder.classes[most]}).",
        *folder.notes,
    ]


def _content(path: str | Path) -> bytes:
    try:
        # Without O_NONBLOCK, open() would wait for ever on a FIFO that has taken the file's place.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise UserError(f"{shown_path(path)} is no regular file any more; start again")
            if info.st_size > _MAX_BYTES:
                raise UserError(f"{shown_path(path)} has {info.st_size:,} bytes, too many for an image; remove it")
            return file.read()
    except OSError as error:
        raise UserError(f"{shown_path(path)} can't be read ({error.strerror}); mend that, start again") from error


def _by_class(walk: Walk, form: Form, split: str) -> dict[str, list[Image]]:
    """The images of each class folder of a split by the class' name as it is shown; what is left out goes to `form`."""
    level = form.splits[split]
    found: dict[str, list[Image]] = {}
    names: dict[str, str] = {}
    for folder in level.folders:
        composed, name = unicodedata.normalize("NFC", folder), shown(folder)
        if names.setdefault(name, composed) != composed:
            raise UserError(f"two folders of {form.named(split) or shown_path(form.base)} read {name!r}; rename one")
        above = [level.path, form.base]
        found.setdefault(name, []).extend(walk.images(os.path.join(level.path, folder), above, form.left_out))
    return found


def _refuse_flat(form: Form, by_class: dict[str, dict[str, list[Image]]]) -> None:
    """Raises UserError for train and validation images without class folders, and for no train images at all."""
    for split, found in by_class.items():
        if form.splits[split].images and split != "test" and not any(found.values()):
            raise flat(form, split)
    if not any(by_class["train"].values()):
        where = form.named("train") or shown_path(form.base)
        reasons = "; ".join(form.left_out.reasons()) or f"nothing in {listed(by_class['train'] or ['it'])}"
        raise UserError(f"{where}: no images; expected {EXPECTED}; found {reasons}")


def _refuse_classes(form: Form, by_class: dict[str, dict[str, list[Image]]], classes: tuple[str, ...]) -> None:
    """Raises UserError for a single class, and for one that train lacks."""
    left_out = f". Left out: {'; '.join(form.left_out.reasons())}" if form.left_out.reasons() else ""
    for split, found in by_class.items():
        unknown = [name for name, images in found.items() if images and not by_class["train"].get(name)]
        if unknown:
            where = listed((form.named(split, name) for name in unknown), 5)
            text = f"{where} {'is no class' if len(unknown) == 1 else 'are no classes'}: train/ has {listed(classes)}"
            bare = [name for name in unknown if name in by_class["train"]]
            text += f" (no images in {listed((form.named('train', name) for name in bare), 5)})" if bare else ""
            text += "; sort its images by the same names, in the same capitals"
            text += ", or take them out: `vit-jax predict` takes unsorted ones" if split == "test" else ""
            raise UserError(text + left_out)
    if len(classes) == 1:
        images = by_class["train"][classes[0]]
        path = os.path.commonpath([os.path.dirname(image.path) for image in images])  # the class, or what wraps others
        below = sorted({os.path.relpath(image.path, path).split(os.sep)[0] for image in images})
        below = [name for name in below if os.path.isdir(os.path.join(path, name))]
        text = f"{form.named('train', classes[0])}: one class can't be told from others; add folders of other classes"
        if len(below) > 1:
            move = "move them up into train/" if form.has_train else f"name it: --config.data.dir={shown_path(path)}"
            text += f". If {listed(below)} below it are the classes, {move}"
        raise UserError(text + left_out)


def _refuse_empty(root: Path, splits: dict[str, ImageFiles]) -> None:
    """Raises one UserError for all files of no bytes."""
    empty = sorted(files.paths[i] for files in splits.values() for i in np.flatnonzero(files.nbytes == 0))
    if empty:
        total = sum(len(files.paths) for files in splits.values())
        names = listed((os.path.relpath(path, root) for path in empty[:6]), 5)
        verb, them = ("is", "it") if len(empty) == 1 else ("are", "them")
        raise UserError(f"{len(empty):,} of {total:,} images {verb} empty (0 bytes): {names}; remove {them}")


def _shuffled(found: dict[str, list[Image]], classes: tuple[str, ...]) -> ImageFiles:
    labels = {name: label for label, name in enumerate(classes)}
    rows = [(image, labels[name]) for name, images in found.items() for image in images]
    rows.sort(key=lambda row: row[0].path.replace(os.sep, "\0"))  # by folder, then by file
    # Class by class, a slice like train[:90%] would miss the last.
    order = np.random.RandomState(0).permutation(len(rows))
    rows = [rows[i] for i in order]
    return ImageFiles(
        [image.path for image, _ in rows],
        np.array([label for _, label in rows], np.int32),
        np.array([image.nbytes for image, _ in rows], np.int64),
        np.array([image.mtime_ns for image, _ in rows], np.int64),
    )
