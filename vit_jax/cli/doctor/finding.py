"""What a check found, and numbers of which it is made."""

from typing import NamedTuple


class Finding(NamedTuple):
    status: str  # ok | warning: slower, other results, or not everything can be done | problem: a run would go wrong
    what: str
    found: str
    remedy: str = ""


def number(text: str) -> int | None:
    """The whole number that a program or the kernel tells; None where it tells something else ("max", "[N/A]")."""
    return int(text) if text.isdigit() else None


def size(count: int) -> str:
    """2**20 -> "1.0 MiB"."""
    unit = min(max(count.bit_length() - 1, 0) // 10, 4)
    return f"{count / 1024**unit:.1f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}" if unit else f"{count} bytes"
