"""Where files lie; files and renames that last through a power cut; locks that end with their process."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """With a leading ~ as the home folder, or as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def cache_root(configured: str | None = None) -> Path:
    """The folder of what is kept between runs: as configured, else $VIT_JAX_CACHE, else ~/.cache/vit_jax."""
    return expanded(configured or os.environ.get("VIT_JAX_CACHE") or "~/.cache/vit_jax").absolute()


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, under a temporary name at first. Raises OSError where that can't be done."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, some of which may be renamed meanwhile. Raises OSError where the disk does."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            total += size_of(path) if path.is_dir() else path.lstat().st_size
    return total


@contextlib.contextmanager
def locked(folder: Path, how: int) -> Iterator[bool]:
    """Holds a lock on a folder (fcntl.LOCK_SH, LOCK_EX | LOCK_NB). Gives whether it does: not all disks have locks.

    Raises OSError for a folder that can't be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, how)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
