"""Names of files and folders as text that is safe on a terminal and in JSON, CSV and pictures."""

import os
import unicodedata
from collections.abc import Iterable, Sequence

# Invisible, but parts of words (Persian, Hindi) and of emoji; all else of Unicode's "format" category is escaped:
# marks that turn the direction of a line, say, could make one name look like another.
_JOINERS = "\u200c\u200d"
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
_LONGEST = 300  # characters of a path in a message


def shown(name: str | os.PathLike[str]) -> str:
    """A name with its control characters, line breaks and bytes that are no UTF-8 escaped, and composed (NFC).

    macOS gives the letters of "é" apart (NFD), other systems as they were typed: the same name.
    """
    text = os.fspath(name)
    if text.isascii() and text.isprintable():
        return text
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(_shown(c) for c in unicodedata.normalize("NFC", text))


def _shown(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED:
        return character
    return character.encode("unicode_escape").decode()


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path for a message: as `shown`, and not too long for it."""
    text = shown(path)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"


def listed(names: Sequence[str] | Iterable[str], most: int = 10) -> str:
    """The names, as "a, b, c, ...": at most so many names of files and folders."""
    names = list(names)
    return ", ".join([*map(shown_path, names[:most]), *["..."] * (len(names) > most)])


def counted(images: int) -> str:
    return f"{images:,} {'image' if images == 1 else 'images'}"
