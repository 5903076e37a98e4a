"""Which font has the letters of a text. Matplotlib is imported only when one is asked for."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence


def font_for(texts: Iterable[str], fonts: Sequence[str] | None = None) -> str | None:
    """The file of the first font that has every letter of the texts, or None; of `fonts`, by default the installed.

    DejaVu Sans, which comes with matplotlib, is the first of those.
    """
    from matplotlib import font_manager

    letters = {letter for text in texts for letter in text if _is_drawn(letter)}
    for path in _installed() if fonts is None else fonts:
        try:
            font = font_manager.get_font(path)
            if all(ord(letter) in font.get_charmap() for letter in letters):
                font.set_size(10, 72)
                font.set_text("".join(sorted(letters)))  # raises for fonts of coloured bitmaps, as of emoji
                return path
        except (OSError, RuntimeError):  # gone since matplotlib listed it, or of a kind that it can't draw
            continue
    return None


def _installed() -> Iterator[str]:
    from matplotlib import font_manager, get_data_path

    yield f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    plain = ("normal", "regular", 400)
    for entry in sorted(
        font_manager.fontManager.ttflist, key=lambda e: (e.style != "normal", e.weight not in plain, e.name)
    ):
        name = entry.name.lower().replace(" ", "")
        # A last resort has a box for every letter there is; of coloured glyphs matplotlib would draw nothing.
        if "lastresort" not in name and "color" not in name:
            yield entry.fname


def _is_drawn(letter: str) -> bool:
    """Whether it has a glyph: spaces, joiners and variation selectors have none."""
    return unicodedata.category(letter) not in ("Cc", "Cf", "Zs") and not "\ufe00" <= letter <= "\ufe0f"
