"""Data sets that are made in memory: digits and noise."""

import numpy as np

from vit_jax.data.dataset import DataSet, Examples

# Examples in each split.
DIGITS = {"train": 1_437, "test": 360}
FAKE = {"train": 512, "test": 128}


def digits() -> DataSet:
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998), 8x8, enlarged to 32x32x3."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.round(found.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), 0 to 16 before
    large = np.stack([np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey])
    images = np.repeat(large[..., None], 3, axis=-1)  # (N, 32, 32, 3)
    labels = found.target.astype(np.int32)
    # The set lies ordered by writer; a fixed shuffle gives every split some of each.
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[: DIGITS["train"]], order[DIGITS["train"] :]
    splits = {"train": Examples(images[train], labels[train]), "test": Examples(images[test], labels[test])}
    return DataSet("digits", tuple(map(str, range(10))), splits)


def fake(size: tuple[int, int]) -> DataSet:
    """Noise around a pattern of each of 10 classes, of (height, width) pixels: learnable, for trials and tests."""
    rng = np.random.RandomState(0)
    patterns = rng.uniform(64, 192, (10, 4, 4, 3))
    splits = {}
    for split, count in FAKE.items():
        labels = rng.randint(10, size=count).astype(np.int32)
        small = patterns[labels] + rng.normal(0, 24, (count, 4, 4, 3))
        rows, columns = (-(-side // 4) for side in size)
        large = small.repeat(rows, axis=1).repeat(columns, axis=2)[:, : size[0], : size[1]]
        splits[split] = Examples(large.clip(0, 255).astype(np.uint8), labels)
    return DataSet("fake", tuple(f"class {i}" for i in range(10)), splits)
