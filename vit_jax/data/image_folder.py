"""Images in folders: train/<class>/*.png|jpg and test/<class>/*.png|jpg."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
_SPLITS = ("train", "test")


def folder_identity(root: Path, size: int) -> dict[str, Any]:
    """Changes when a file is added, removed or rewritten, or the stored size in pixels is another."""
    stats = [(f.relative_to(root).as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in _files(root)]
    return {"version": 2, "size": size, "files": stats}


def read_folder(root: Path, size: int) -> DataSet:
    """Decodes all images to size x size RGB; the classes are the folders of train/, in alphabetical order.

    Raises UserError for a folder of another form and names the images that can't be read.
    """
    classes = tuple(sorted(p.name for p in (root / "train").glob("[!.]*") if p.is_dir()))
    if not classes:
        found = sorted(p.name for p in root.iterdir())[:8] if root.is_dir() else "no such folder"
        raise UserError(f"config.data.dir={str(root)!r}: expected train/<class>/*.png or *.jpg; found {found}")
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
    if "train" not in splits:
        raise UserError(f"{root}/train: no *.png, *.jpg or *.jpeg in its class folders")
    return DataSet("image_folder", classes, splits)


def read_image(file: Path, size: int) -> np.ndarray:
    """An image file of any mode as (size, size, 3) uint8: its central square, resized."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it at 255
            image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).clip(0, 255).astype(np.uint8))
        image = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))


def _files(root: Path) -> list[Path]:
    return sorted(
        f
        for split in _SPLITS
        for f in (root / split).glob("[!.]*/[!.]*")
        if f.suffix.lower() in SUFFIXES and f.is_file()
    )
