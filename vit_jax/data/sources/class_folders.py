"""The forms that folders of classes have: train/<class>, with other splits beside it, or <class> alone."""

import os
import re
from dataclasses import dataclass, field

from vit_jax.data.sources.names import counted, listed, shown_path
from vit_jax.data.sources.walk import LeftOut, Level, Walk
from vit_jax.errors import UserError

# What their folders may be called, in any case.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
EXPECTED = "train/<class>/*.png or *.jpg (and val/, test/ likewise), or <class>/*.png alone"


@dataclass
class Form:
    """Where the class folders of each split lie."""

    base: str  # the folder of the split folders: the root or one below
    splits: dict[str, Level]  # in the order train, validation, test
    has_train: bool  # False: the classes of the train split lie in `base` itself
    notes: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def named(self, split: str, name: str = "") -> str:
        """How a message calls a split's folder, or what lies in it: "val/", "val/cat"."""
        path = os.path.relpath(os.path.join(self.splits[split].path, name), self.base)
        return shown_path(path) if name else "" if path == "." else f"{shown_path(path)}/"


def read_form(walk: Walk, root: str) -> Form:
    """Finds the splits' folders in `root`, or in the only folder there. Raises UserError for another form."""
    top = walk.level(root)
    level = _unwrapped(walk, top)
    found = {split: [name for name in level.folders if _split_of(name) == split] for split in _SPLITS}
    found = {split: names for split, names in found.items() if names}
    for split, names in found.items():
        if len(names) > 1:
            both = " and ".join(f"{shown_path(name)}/" for name in names)
            raise UserError(f"{shown_path(level.path)}: {both} are both the {split} split; keep one of them there")
    if not found:
        return _classes_alone(walk, top)
    if "train" not in found:
        others = [names[0] for names in found.values()]
        raise UserError(
            f"config.data.dir={shown_path(root)!r}: expected {EXPECTED}; found no train/ beside {listed(others)}. "
            f"{_if_a_class(others)}"
        )
    splits = {split: walk.level(os.path.join(level.path, names[0])) for split, names in found.items()}
    form = Form(level.path, splits, has_train=True)
    if level is not top:
        form.notes.append(f"Read from {shown_path(level.path)}, the only folder in {shown_path(root)}.")
    beside = [name for name in level.folders if not _split_of(name)]
    if beside:
        form.notes.append(f"Not read: {listed(f'{name}/' for name in beside)} beside {form.named('train')}.")
    _beside_classes(form, {shown_path(level.path): level.images} if level.images else {})
    for part in {id(part): part for part in (top, level, *splits.values())}.values():
        form.left_out.add(part.left_out)
    return form


def flat(form: Form, split: str) -> UserError:
    """What is wrong with a split folder that has images, but no class folders with images."""
    where, count = form.named(split), form.splits[split].images
    text = (
        f"{where or shown_path(form.base)} has {counted(count)} outside of class folders: expected "
        f"{where}<class>/*.png or *.jpg; sort them into a folder for each class"
    )
    if split != "train":
        return UserError(f"{text}, with the names of train's")
    return UserError(f"{text}. {_if_a_class([os.path.basename(form.splits[split].path)])}" if where else text)


def _if_a_class(names: list[str]) -> str:
    which = "is a class" if len(names) == 1 else "are classes"
    return f"If {listed(names)} {which}, put all class folders into a new folder train/"


def _split_of(name: str) -> str | None:
    return next((split for split, names in _SPLITS.items() if name.lower() in names), None)


def _unwrapped(walk: Walk, top: Level) -> Level:
    """The first level with folders of splits, while nothing but a single folder lies above it; else `top`."""
    level = top
    while not any(map(_split_of, level.folders)):
        if len(level.folders) != 1 or level.images:
            return top
        level = walk.level(os.path.join(level.path, level.folders[0]))
    return level


def _classes_alone(walk: Walk, level: Level) -> Form:
    """The form without folders of splits: all are classes of the train split."""
    if not level.folders:
        if level.images:
            raise flat(Form(level.path, {"train": level}, has_train=False), "train")
        names = listed(level.others, 8) or "nothing"
        if level.left_out.outside or level.left_out.broken:
            names = "; ".join(level.left_out.reasons())
        raise UserError(f"config.data.dir={shown_path(level.path)!r}: expected {EXPECTED}; found {names}")
    like = {name: word for name in level.folders for word in _words(name)}
    if len(set(like.values())) > 1 and 2 * len(like) >= len(level.folders):  # training_set and test_set, say
        raise UserError(
            f"{shown_path(level.path)}: expected {EXPECTED}; {listed(like)} look like splits: call them train, val, "
            "test. If they are classes, put them into a new folder train/"
        )
    _refuse_splits_below(walk, level)
    form = Form(level.path, {"train": level}, has_train=False, left_out=level.left_out)
    form.notes.append(
        f"No train/ in {shown_path(level.path)}: each folder there is a class, all images are the train split, and "
        "there is no test split."
    )
    _beside_classes(form, {})
    return form


def _words(name: str) -> list[str]:
    """The splits that a longer name speaks of: "training_set" -> ["train"]."""
    return [split for word in re.split(r"[^a-z]+", name.lower()) if (split := _split_of(word))]


def _refuse_splits_below(walk: Walk, level: Level) -> None:
    """Raises UserError for <class>/train and <class>/test: read as one, the test's images would train."""
    for name in level.folders[:3]:
        below = [folder for folder in walk.level(os.path.join(level.path, name)).folders if _split_of(folder)]
        if len({_split_of(folder) for folder in below}) > 1:
            raise UserError(
                f"{shown_path(level.path)}: expected {EXPECTED}; {shown_path(name)}/ has {listed(below)} in it. If "
                f"{shown_path(name)} is a data set, name it: --config.data.dir="
                f"{shown_path(os.path.join(level.path, name))}; if it is a class, sort by split first, then by class"
            )


def _beside_classes(form: Form, counts: dict[str, int]) -> None:
    """Notes the images that lie directly in a folder of class folders."""
    for split, level in form.splits.items():
        if level.images and level.folders:
            counts[form.named(split) or shown_path(level.path)] = level.images
    if counts:
        where = ", ".join(f"{count:,} in {name}" for name, count in counts.items())
        form.notes.append(f"Left out: images beside the class folders ({where}).")
