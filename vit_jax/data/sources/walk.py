"""What lies in a folder and below it, without opening a file: images, folders, and what is left out and why."""

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from vit_jax.data.images import SUFFIXES
from vit_jax.data.sources.names import shown, shown_path
from vit_jax.errors import UserError

_SUFFIXES = frozenset(SUFFIXES)
# What systems, and programs that look at pictures, put beside them; names with a leading dot are left out anyway.
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin")
    + ("recycler", "system volume information")
)
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
_MOST_SUFFIXES = 8  # named in a message

Id = tuple[int, int]  # of a folder, wherever a link to it lies: its device and inode


@dataclass
class LeftOut:
    """How many files and links aren't read, by the reason."""

    suffixes: Counter[str] = field(default_factory=Counter)  # files that are no images, by suffix, in lower case
    outside: int = 0  # links that lead out of the folder
    broken: int = 0  # links that lead nowhere
    loops: int = 0  # links to folders that they lie in, or that their class already has
    special: int = 0  # FIFOs, sockets, devices

    def add(self, other: "LeftOut") -> None:
        self.suffixes.update(other.suffixes)
        self.outside += other.outside
        self.broken += other.broken
        self.loops += other.loops
        self.special += other.special

    def reasons(self) -> list[str]:
        """Each kind with its number, like "3 .heic, 1 without a suffix"."""
        found = []
        if self.suffixes:
            common = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
            texts = [f"{n:,} {shown_path(suffix) if suffix else 'without a suffix'}" for suffix, n in common]
            more = sum(n for _, n in common[_MOST_SUFFIXES:])
            found.append(", ".join(texts[:_MOST_SUFFIXES] + [f"{more:,} others"] * (more > 0)))
        if self.special:
            found.append(f"{self.special:,} no regular file (FIFO, socket or device)")
        if self.broken:
            found.append(f"{_links(self.broken)} nowhere")
        if self.loops:
            found.append(f"{_links(self.loops)} back to a folder that is already read")
        if self.outside:
            found.append(f"{_links(self.outside)} out of the folder (--config.data.follow_links=True takes them)")
        return found


def _links(count: int) -> str:
    return f"{count:,} {'link that leads' if count == 1 else 'links that lead'}"


class Image(NamedTuple):
    """An image file as it is known without being opened."""

    path: str
    nbytes: int
    mtime_ns: int


@dataclass
class Level:
    """What lies directly in a folder."""

    path: str
    folders: list[str] = field(default_factory=list)  # names, sorted; without the hidden and the system's
    others: list[str] = field(default_factory=list)  # names of files
    images: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)


class Walk:
    """Reads folders below a root. Links that lead out of it are followed with `follow_links` alone."""

    def __init__(self, root: str, follow_links: bool):
        self._root, self._follow = os.path.realpath(root), follow_links
        # No link leads back to where the root lies: one to "/" would read the whole disk.
        self._above = {self._id(self._root)}
        parent = self._root
        while parent != os.path.dirname(parent):
            parent = os.path.dirname(parent)
            self._above.add(self._id(parent))

    def level(self, folder: str) -> Level:
        """What lies directly in a folder. Raises UserError if it can't be read."""
        found = Level(folder)
        for entry in self._entries(folder):
            kind = self._kind(entry, found.left_out)
            if kind == "folder":
                found.folders.append(entry.name)
            elif kind == "file":
                found.others.append(entry.name)
                found.images += _is_image(entry.name, found.left_out)
        found.folders.sort()
        found.others.sort()
        return found

    def images(self, folder: str, above: list[str], left_out: LeftOut) -> list[Image]:
        """All images in a folder and below, in no order; each of its folders is read once, whatever leads to it.

        `above` are the folders it lies in, below the root. Raises UserError for a folder that can't be read.
        """
        seen = self._above | {self._id(path) for path in above}
        found: list[Image] = []
        # Folders before links: an image is called by the path that leads there without one, where there is one.
        folders, links = ([], [folder]) if os.path.islink(folder) else ([folder], [])
        while folders or links:
            if not folders:
                links.sort(reverse=True)
                folders.append(links.pop())
                if self._id(folders[-1]) in seen:
                    left_out.loops += 1
                    folders.pop()
                    continue
            path = folders.pop()
            identity = self._id(path)
            if identity in seen:
                continue
            seen.add(identity)
            for entry in self._entries(path):
                # Plain files, by far the most frequent, need no more than this.
                kind = "file" if entry.is_file(follow_symlinks=False) else self._kind(entry, left_out)
                if kind == "folder":
                    (links if entry.is_symlink() else folders).append(entry.path)
                elif kind == "file" and _is_image(entry.name, left_out):
                    found.append(_image(entry))
        return found

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """All but the hidden. Raises UserError for a folder that can't be read."""
        try:
            with os.scandir(folder) as entries:
                return [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _kind(self, entry: os.DirEntry[str], left_out: LeftOut) -> str | None:
        """What an entry is, folder or file; None for what is left out and counted, or the system's. Opens nothing."""
        is_link = entry.is_symlink()
        try:
            mode = entry.stat().st_mode if is_link or not entry.is_dir() else stat.S_IFDIR
        except OSError:  # leads nowhere, or in a circle of links
            left_out.broken += 1
            return None
        if entry.name.lower() in (SYSTEM_FOLDERS if stat.S_ISDIR(mode) else _SYSTEM_FILES):
            return None
        if is_link and not self._follow and not _within(os.path.realpath(entry.path), self._root):
            left_out.outside += 1
            return None
        if stat.S_ISDIR(mode):
            return "folder"
        if stat.S_ISREG(mode):
            return "file"
        left_out.special += 1
        return None

    def _id(self, folder: str) -> Id:
        try:
            info = os.stat(folder)
        except OSError as error:
            raise _unreadable(folder, error) from error
        return info.st_dev, info.st_ino


def _image(entry: os.DirEntry[str]) -> Image:
    try:
        info = entry.stat()
    except OSError as error:  # it is gone since it was listed
        raise _unreadable(entry.path, error) from error
    return Image(entry.path, info.st_size, info.st_mtime_ns)


def _unreadable(folder: str, error: OSError) -> UserError:
    return UserError(f"{shown_path(folder)} can't be read ({error.strerror}); mend that, or take it out")


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _is_image(name: str, left_out: LeftOut) -> bool:
    """By its suffix; others are counted, but for those of the system."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _SUFFIXES:
        return True
    if name.lower() not in _SYSTEM_FILES:
        left_out.suffixes[shown(suffix)] += 1
    return False
