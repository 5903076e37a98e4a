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
from vit_jax.system.progress import doing, say

_AT_ONCE = 64  # images read by a thread in turn
_THREADS = 8  # they wait for disks
_NAMED = 5  # images that a message names
_VERSION = 3  # of what is kept
# Shape and dtype of what is known of one image, by the fields of Index.
_FIELDS: dict[str, tuple[tuple[int, ...], type]] = {
    "sizes": ((2,), np.int32),
    "plain": ((), np.bool_),
    "crc": ((), np.uint32),
}


def index_of(
    store: Path, name: str, identity: dict[str, Any], records: dict[str, Records], where: str
) -> tuple[dict[str, Index], list[str]]:
    """The index of each split, and what is to be said of some images: a sentence each.

    Kept in the folder `store` under the data set's name and identity; `where` says where that lies. Raises UserError
    that names the images which can't be read.
    """
    path = cache.folder(store, f"{name}_index", {"index": _VERSION} | identity)

    def check(about: dict[str, Any], arrays: cache.Arrays) -> None:
        found = _of_splits(arrays, records)
        for split, images in records.items():
            for field, array in found[split]._asdict().items():
                shape, kind = _FIELDS[field]
                if array.shape != (len(images), *shape) or array.dtype != kind:
                    raise ValueError(f"{split}_{field}: {array.dtype} {array.shape} for {len(images):,} images")
        if not all(0 <= i < len(records[split]) and isinstance(note, str) for split, i, note in about["notes"]):
            raise ValueError("a note on no image")
        about["more_notes"] = int(about["more_notes"])

    kept = cache.read_arrays(path, check)
    if kept is None:
        if any(made.get("of") == [_VERSION, where] for made in cache.made_of(store, f"{name}_index")):
            say(f"The files of {where} aren't those that its index was made of: looking at each image anew ...")
        about, arrays = _looked_at(records)
        kept = cache.write_arrays(path, {"of": [_VERSION, where], **about}, arrays)
    about, arrays = kept
    # With the names that the images have now: the data set may have been moved.
    notes = [f"{records[split].name(i)}: {note}" for split, i, note in about["notes"]]
    if about["more_notes"]:
        notes.append(f"... and {about['more_notes']:,} more images with such a note")
    return _of_splits(arrays, records), notes


def _of_splits(arrays: cache.Arrays, records: dict[str, Records]) -> dict[str, Index]:
    return {split: Index(*(arrays[f"{split}_{field}"] for field in Index._fields)) for split in records}


def _looked_at(records: dict[str, Records]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}
    broken: list[str] = []
    notes: list[tuple[str, int, str]] = []
    with doing("Looking at each image, once"):
        for split, images in records.items():
            rows: dict[str, np.ndarray] = {
                field: np.zeros((len(images), *shape), kind) for field, (shape, kind) in _FIELDS.items()
            }
            for i, found in enumerate(_headers(images)):
                if isinstance(found, str):
                    # What reading it says has the name already.
                    broken.append(found if found.startswith(images.name(i)) else f"{images.name(i)} ({found})")
                    continue
                (height, width, plain, note), crc = found
                rows["sizes"][i], rows["plain"][i], rows["crc"][i] = (height, width), plain, crc
                if note:
                    notes.append((split, i, note))
            arrays |= {f"{split}_{field}": row for field, row in rows.items()}
    if broken:
        more = "; ..." if len(broken) > _NAMED else ""
        named = "; ".join(sorted(broken)[:_NAMED])
        which = "1 image can't be read; mend or remove it" if len(broken) == 1 else ""
        which = which or f"{len(broken):,} images can't be read; mend or remove them"
        raise UserError(f"{which}: {named}{more}")
    return {"notes": notes[:_NAMED], "more_notes": len(notes[_NAMED:])}, arrays


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
