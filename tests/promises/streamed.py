"""Runs whose train images stay encoded, as pictures in a folder, of which random parts are cut out."""

from pathlib import Path

import numpy as np
from PIL import Image

from promises.harness import RUN


def pictures(root: Path) -> Path:
    """120 of three classes and two sizes, PNG and JPEG: 96 to train on. Gives `root`, in which they lie."""
    rng = np.random.RandomState(0)
    for i in range(120):
        folder = root / "train" / ("ant", "bee", "cow")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.randint(256, size=((48, 40), (36, 64))[i % 2] + (3,)) // 2 + 40 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.{('png', 'jpg')[i // 2 % 2]}")
    return root


def args_of(root: Path, pipeline: str) -> list[str]:
    """RUN on those pictures; what it knows of them is kept beside their folder."""
    data = ("--config.data.name=image_folder", f"--config.data.dir={root}", f"--config.data.pipeline={pipeline}")
    cache = f"--config.data.cache_dir={root.parent / 'cache'}"
    splits = ("train=train[:80%]", "validation=train[80%:90%]", "test=train[90%:]")
    crops = ("--config.augment.crop_scale=(0.2, 1.0)", "--config.data.crop_pct=0.875", "--config.model.image_size=16")
    return [*RUN, *data, cache, *(f"--config.data.{split}" for split in splits), *crops]
