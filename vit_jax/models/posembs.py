"""Positions of a grid of tokens. H/W tokens along each side, N = H*W tokens, D width, E head dim.

`grid` (H, W) is the one that the model is made for; `here`, where given, the one at hand, spread over the same area.
"""

import jax
import jax.numpy as jnp
import numpy as np

Grid = tuple[int, int]


def _places(grid: Grid, here: Grid | None) -> np.ndarray:
    """Rows and columns (2, N, 1) of the tokens at hand, in units of the model's grid."""
    along = [(np.arange(h) + 0.5) * (g / h) - 0.5 for g, h in zip(grid, here or grid, strict=True)]  # (H,), (W,)
    return np.stack(np.meshgrid(*along, indexing="ij")).reshape(2, -1, 1)


def resized(table: jax.Array, grid: Grid, here: Grid) -> jax.Array:
    """A learned table (N, D) of one grid, bilinearly resized to another (here[0] * here[1], D)."""
    if grid == here:
        return table
    image = table.reshape(*grid, -1)  # (H, W, D)
    return jax.image.resize(image, (*here, image.shape[-1]), "bilinear").reshape(here[0] * here[1], -1)


def sincos2d(grid: Grid, width: int, here: Grid | None = None, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed embedding, (N, D) float32.

    A quarter of the channels each: sin x, cos x, sin y, cos y, after MoCo v3 (Chen, Xie and He 2021); the frequencies
    reach 1/temperature exactly, as big_vision has them.
    """
    omega = temperature ** -(np.arange(width // 4) / max(width // 4 - 1, 1))  # (D/4,)
    y, x = _places(grid, here)  # (N, 1) each
    angles = [x * omega, y * omega]  # (N, D/4) each
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def rope2d_angles(
    grid: Grid, head_dim: int, prefix: int, here: Grid | None = None, temperature: float = 100.0
) -> np.ndarray:
    """Rotation angles of axial rotary positions, (prefix + N, E/2) float32, in units of a token's side.

    The first half of the pairs turns with the row, the second with the column (Heo et al. 2024, RoPE-ViT,
    section 3.2, with its temperature of 100). The `prefix` tokens (class, registers) have no place and aren't
    turned.
    """
    return _turned(_places(grid, here), head_dim, prefix, temperature)


def rope2d_dinov3_angles(
    grid: Grid, head_dim: int, prefix: int, here: Grid | None = None, temperature: float = 100.0
) -> np.ndarray:
    """The same of DINOv3 (Simeoni et al. 2025), whose places go from -1 to 1 over the image, times 2 pi.

    They depend on no size of an image that the model would be made for.
    """
    along = [(2 * np.arange(h) + 1) / h - 1 for h in here or grid]  # (H,), (W,)
    places = np.stack(np.meshgrid(*along, indexing="ij")).reshape(2, -1, 1)
    return _turned(2 * np.pi * places, head_dim, prefix, temperature)


def rope2d_eva_angles(
    grid: Grid, head_dim: int, prefix: int, here: Grid | None = None, temperature: float = 10_000.0
) -> np.ndarray:
    """The same of EVA-02 (Fang et al. 2023): of another grid, the first place stays and the others are spread."""
    along = [np.arange(h) * (g / h) for g, h in zip(grid, here or grid, strict=True)]  # (H,), (W,)
    return _turned(np.stack(np.meshgrid(*along, indexing="ij")).reshape(2, -1, 1), head_dim, prefix, temperature)


def _turned(places: np.ndarray, head_dim: int, prefix: int, temperature: float) -> np.ndarray:
    """Angles (prefix + N, E/2) of rows and columns (2, N, 1)."""
    quarter = head_dim // 4
    omega = temperature ** -(np.arange(quarter) / quarter)  # (E/4,)
    y, x = places  # (N, 1) each
    angles = np.concatenate([y * omega, x * omega], axis=1)  # (N, E/2)
    return np.concatenate([np.zeros((prefix, 2 * quarter)), angles]).astype(np.float32)


def rotate(x: jnp.ndarray, angles: np.ndarray) -> jnp.ndarray:
    """Turns the channel pairs (i, i + E/2) of x (B, N, K, E) by angles (N, E/2) (Su et al. 2021, RoFormer)."""
    cos = jnp.cos(angles)[None, :, None, :].astype(x.dtype)  # (1, N, 1, E/2)
    sin = jnp.sin(angles)[None, :, None, :].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)  # (B, N, K, E/2) each
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


ROTARY = {"rope2d": rope2d_angles, "rope2d_dinov3": rope2d_dinov3_angles, "learned_rope2d": rope2d_eva_angles}
LEARNED = ("learned", "learned_rope2d")  # with a table
