"""What a model has learned of pixels and places, as pictures. P patch size, C channels, D width, N = H * W places."""

from typing import Any

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.runs.pictures import coloured, rgb


def input_filters(cfg: ModelConfig, params: Any) -> tuple[str, np.ndarray]:
    """What the first layer that is trained takes from the pixels: its name and its filters (filters, P, P, C).

    Of a convolution behind a whitening layer, whose output is linear in the pixels, these are of both layers together.
    """
    stem = params["stem"]
    if cfg.stem.kind == "patch":
        kernel = np.asarray(stem["proj"]["kernel"])  # (P*P*C, D)
        return "patch embedding", kernel.T.reshape(-1, cfg.patch_size, cfg.patch_size, cfg.channels)
    if cfg.stem.kind == "resnet":
        kernel = np.asarray(stem["resnet"]["root"]["kernel"])  # (7, 7, C, D)
        return "root convolution", np.moveaxis(kernel - kernel.mean(axis=(0, 1, 2)), -1, 0)  # as they are applied
    kernel = np.asarray(stem["conv_0"]["kernel"])  # (k, k, channels, D)
    if not cfg.stem.whiten:
        return "first convolution", np.moveaxis(kernel, -1, 0)
    size, p = len(kernel), cfg.stem.whiten
    whitening = np.asarray(stem["whitening"]["kernel"]).reshape(p, p, cfg.channels, -1)  # (P, P, C, channels)
    both = np.einsum("ijcw,abwd->daibjc", whitening, kernel)  # (D, k, P, k, P, C)
    return "first convolution, whitening included", both.reshape(-1, size * p, size * p, cfg.channels)


def principal_components(filters: np.ndarray, count: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Of filters (D, P, P, C): the first components (n, P, P, C), of length 1, and their shares (n,) of the variance.

    n is `count` or, if less, how many directions the filters vary in. Of a component and its negative, which are as
    good, it is the one whose greatest entry is positive.
    """
    flat = filters.reshape(len(filters), -1)
    _, values, vectors = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)  # (n,), (n, P*P*C)
    greatest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)  # (n, 1)
    vectors = vectors * np.where(greatest < 0, -1, 1)
    shares = values**2 / max((values**2).sum(), 1e-30)
    count = min(count, int((shares > 1e-9).sum()))
    return vectors[:count].reshape(-1, *filters.shape[1:]), shares[:count]


def position_similarity(table: np.ndarray) -> np.ndarray:
    """Cosine similarity (N, N) of each position's embedding, of a table (N, D), with all others'."""
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def filter_pictures(filters: np.ndarray) -> np.ndarray:
    """Filters (n, P, P, C) as colours (n, P, P, 3) uint8: grey is 0, and the greatest entry of each black or white."""
    greatest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    return rgb((255 * (0.5 + 0.5 * filters / np.maximum(greatest, 1e-12))).round().astype(np.uint8))


def similarity_pictures(similarity: np.ndarray, grid: tuple[int, int], most: int = 16) -> tuple[np.ndarray, int]:
    """Of each position a picture of its similarity (N, N) with all others: (n, H, W, 3) uint8, and how many a row.

    At most `most` positions along each side of the `grid` (H, W), evenly chosen. Colours go from the least similarity
    of all to 1.
    """
    rows, columns = (range(0, side, -(-side // most)) for side in grid)
    chosen = np.array([row * grid[1] + column for row in rows for column in columns])
    spread = (similarity - similarity.min()) / max(1 - similarity.min(), 1e-12)
    return coloured(spread[chosen].reshape(-1, *grid)), len(columns)
