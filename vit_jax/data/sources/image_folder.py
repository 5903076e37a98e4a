"""Images in folders: train/<class>/*.png|jpg and test/<class>/*.png|jpg."""

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError
from vit_jax.system.progress import say

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
# Of pictures that aren't read: a reader for each would be one more that hostile files may attack.
_OTHER_SUFFIXES = (".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".ppm")
MAX_PIXELS = 50_000_000  # a phone's picture; decoded it has 150 MB
_FORMATS = ("PNG", "JPEG")  # whatever a file is called, no other decoder of Pillow's forty sees it
_SPLITS = ("train", "test")


def folder_identity(root: Path, size: int) -> dict[str, Any]:
    """Changes when a file is added, removed or rewritten, or the stored size in pixels is another.

    Raises UserError for a folder of another form.
    """
    _classes(root)
    stats = [(f.relative_to(root).as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in _files(root)]
    return {"version": 4, "size": size, "files": stats}


def read_folder(root: Path, size: int) -> DataSet:
    """Decodes all images to size x size RGB; the classes are the folders of train/, in alphabetical order.

    Raises UserError for a folder of another form and names the images that can't be read.
    """
    classes = _classes(root)
    splits, broken = {}, []
    for split in _SPLITS:
        files = [f for f in _files(root) if f.relative_to(root).parts[0] == split]
        # Class by class, a slice like train[:90%] would miss the last; a fixed shuffle gives every slice some of each.
        files = [files[i] for i in np.random.RandomState(0).permutation(len(files))]
        images, labels = np.empty((len(files), size, size, 3), np.uint8), np.empty(len(files), np.int32)
        for i, file in enumerate(files):
            name = file.relative_to(root).parts[1]
            if name not in classes:
                raise UserError(f"{split}/{name} is no class: train/ has {', '.join(classes)}")
            labels[i] = classes.index(name)
            try:
                images[i] = read_image(file, size)
            except Exception as error:  # Pillow raises many types for broken files, and one for decompression bombs
                broken.append(f"{file.relative_to(root)} ({error})")
        if files:
            splits[split] = Examples(images, labels)
    if broken:
        raise UserError(f"{len(broken)} images can't be read; mend or remove them: {'; '.join(sorted(broken)[:5])}")
    others = passed_over(f for split in _SPLITS for f in (root / split).glob("[!.]*/[!.]*") if f.is_file())
    if "train" not in splits:
        found = f"; found {others}: convert them first" if others else ""
        raise UserError(f"{root}/train: no *.png, *.jpg or *.jpeg in its class folders{found}")
    if others:
        say(f"Left out of {root}: {others}. Only PNG and JPEG are read; convert the others first.")
    return DataSet("image_folder", classes, splits)


def passed_over(files: Iterable[Path]) -> str:
    """How many of the files are pictures of a format that isn't read, like "3 .webp, 1 .gif"; "" for none."""
    suffixes = Counter(file.suffix.lower() for file in files)
    return ", ".join(f"{suffixes[suffix]:,} {suffix}" for suffix in _OTHER_SUFFIXES if suffixes[suffix])


def read_image(file: Path, size: int) -> np.ndarray:
    """A PNG or JPEG of any mode as (size, size, 3) uint8: its central square, resized to `size` pixels a side.

    Raises UserError for another format and for more than MAX_PIXELS, before it is decoded; for a broken file, whatever
    Pillow raises.
    """
    from PIL import Image

    too_many = f"more than the {MAX_PIXELS:,} pixels that an image may have"
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=_FORMATS)  # reads the header
        except Image.UnidentifiedImageError as error:
            raise UserError("neither PNG nor JPEG") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:  # Pillow's own, higher caps
            raise UserError(f"{too_many}: {error}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{too_many}: {image.width} x {image.height} = {image.width * image.height:,}")
        return square(image, size)


def square(image: "Image.Image", size: int) -> np.ndarray:
    """An image of any mode as (size, size, 3) uint8: its central square, resized to `size` pixels a side."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow would warn
        image = image.convert("RGBA")
    image = image.convert("RGB")
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))


def _classes(root: Path) -> tuple[str, ...]:
    """The folders of train/ by their names; raises UserError if there are none."""
    classes = tuple(sorted(p.name for p in (root / "train").glob("[!.]*") if p.is_dir()))
    if not classes:
        found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else "no such folder"
        raise UserError(f"config.data.dir={str(root)!r}: expected train/<class>/*.png or *.jpg; found {found}")
    return classes


def _files(root: Path) -> list[Path]:
    return sorted(
        f
        for split in _SPLITS
        for f in (root / split).glob("[!.]*/[!.]*")
        if f.suffix.lower() in SUFFIXES and f.is_file()
    )
