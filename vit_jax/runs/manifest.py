"""The checksum manifest of a folder: SHA256SUMS, as `sha256sum` writes and `sha256sum -c` checks it."""

import hashlib
import os
from pathlib import Path

from vit_jax.system.disk import sync_folder

NAME = "SHA256SUMS"


def seal(folder: Path) -> None:
    """Writes the manifest of all files in `folder`; they, the folders and the manifest are on the disk afterwards.

    It grows line by line: on a slow disk one sees how far it is.
    """
    files = _files(folder)
    with (folder / NAME).open("w") as lines:
        for file in files:
            with file.open("rb+") as stream:
                lines.write(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.relative_to(folder)}\n")
                lines.flush()
                os.fsync(stream.fileno())
        os.fsync(lines.fileno())
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync_folder(path)


def damage(folder: Path, only: str = "") -> str | None:
    """What differs from the manifest, like "meta.json is missing"; None for a whole folder.

    Looks at every file that the manifest names, or at those alone whose names begin with `only`. Raises OSError for a
    file that is there and can't be read: it may be whole.
    """
    try:
        *lines, end = (folder / NAME).read_bytes().decode().split("\n")
    except FileNotFoundError:
        return f"{NAME} is missing"
    except UnicodeDecodeError:
        return f"{NAME} is no text"
    entries = [line.split("  ", 1) for line in lines if "  " in line]
    expected = {name: digest for digest, name in entries}
    there = {str(file.relative_to(folder)) for file in _files(folder)}
    # A manifest that was cut at the end of a line names fewer files than there are.
    for names, what in ((expected.keys() - there, "missing"), (there - expected.keys(), f"not in {NAME}")):
        if names:
            return f"{min(names)} is {what}"
    if end or len(expected) != len(lines):
        return f"{NAME} has a line that names no file"
    for name, digest in expected.items():
        if not name.startswith(only):
            continue
        with (folder / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                return f"{name} differs from its checksum"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME and not _of_the_system(p.name))


def _of_the_system(name: str) -> bool:
    """Whether a file is what macOS, Windows or NFS leave in the folders of others."""
    return name in (".DS_Store", "Thumbs.db", "desktop.ini") or name.startswith(("._", ".nfs"))
