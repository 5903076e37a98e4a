"""What has to be known of encoded images before they are drawn and cropped: one look at each, kept in the cache."""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import cache
from vit_jax.data.encoded import Index
from vit_jax.data.images import header
from vit_jax.data.records import Records
from vit_jax.errors import UserError
from vit_jax.system.progress import doing

_AT_ONCE = 64  # images read by a thread in turn
_THREADS = 8  # they wait for disks
_NAMED = 5  # images that a message names


def index_of(
    store: Path, name: str, identity: dict[str, Any], records: dict[str, Records]
) -> tuple[dict[str, Index], list[str]]:
    """The index of each split, and what is to be said of some images: a sentence each.

    Kept in the folder `store` under the data set's name and identity. Raises UserError that names the images
    which can't be read.
    """
    path = cache.folder(store, f"{name}_index", {"index": 2} | identity)
    kept = cache.read_arrays(path)
    if kept is None:
        kept = cache.write_arrays(path, *_looked_at(records))
    about, arrays = kept
    found = {split: Index(*(arrays[f"{split}_{field}"] for field in Index._fields)) for split in records}
    return found, list(about["notes"])


def _looked_at(records: dict[str, Records]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}
    broken, notes = [], []
    with doing("Looking at each image, once"):
        for split, images in records.items():
            rows = np.zeros((len(images), 2), np.int32), np.zeros(len(images), bool), np.zeros(len(images), np.uint32)
            for i, found in enumerate(_headers(images)):
                if isinstance(found, str):
                    # What reading it says has the name already.
                    broken.append(found if found.startswith(images.name(i)) else f"{images.name(i)} ({found})")
                    continue
                (height, width, plain, note), crc = found
                rows[0][i], rows[1][i], rows[2][i] = (height, width), plain, crc
                if note:
                    notes.append(f"{images.name(i)}: {note}")
            arrays |= {f"{split}_{field}": row for field, row in zip(Index._fields, rows, strict=True)}
    if broken:
        more = "; ..." if len(broken) > _NAMED else ""
        named = "; ".join(sorted(broken)[:_NAMED])
        which = "1 image can't be read; mend or remove it" if len(broken) == 1 else ""
        which = which or f"{len(broken):,} images can't be read; mend or remove them"
        raise UserError(f"{which}: {named}{more}")
    if len(notes) > _NAMED:
        notes[_NAMED:] = [f"... and {len(notes) - _NAMED:,} more images with such a note"]
    return {"notes": notes}, arrays


def _headers(images: Records) -> Iterator[Any]:
    """Header and checksum of each image, in order; what is wrong with it as text."""

    def look(start: int) -> list[Any]:
        found: list[Any] = []
        for i in range(start, min(start + _AT_ONCE, len(images))):
            try:
                (raw,) = images.read(np.array([i]))
                found.append((header(raw), zlib.crc32(raw)))
            except Exception as error:  # Pillow raises many types for broken files
                found.append(" ".join(str(error).split()) or type(error).__name__)
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        starts, waiting = iter(range(0, len(images), _AT_ONCE)), []
        for start in starts:  # no more under way than the threads need: what they found isn't kept for millions
            waiting.append(pool.submit(look, start))
            if len(waiting) > 2 * _THREADS:
                yield from waiting.pop(0).result()
        for one in waiting:
            yield from one.result()
