"""Images that lie encoded on disk and are decoded when they are asked for. N images, M of them, H x W pixels."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vit_jax.data import images as files
from vit_jax.data.crops import Crops, central
from vit_jax.data.records import Records
from vit_jax.data.view import View
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


class Index(NamedTuple):
    """What is known of each encoded image (data/index.py)."""

    sizes: np.ndarray  # (N, 2) int32: height and width in pixels, upright
    plain: np.ndarray  # (N,) bool: whether TensorFlow's decoder may take it
    crc: np.ndarray  # (N,) uint32, of the encoded bytes


class EncodedImages:
    """Stands for an array (N, H, W, C) uint8 that may be larger than memory: what is indexed is decoded then.

    That gives the middle of each image as an evaluation sees it (`View`). Training's crops are cut out of the same
    records (data/pipeline.py).
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, records: Records, index: Index, view: View, places: range | None = None):
        """`places`: which of the records these are; None: all."""
        self.view, self._records, self._index = view, records, index
        self._places = range(len(records)) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.view.size, self.view.channels)

    @property
    def nbytes(self) -> int:
        """Of the array that this stands for."""
        n, h, w, c = self.shape
        return n * h * w * c

    def part(self, start: int, stop: int) -> "EncodedImages":
        """Those from `start` to `stop` - 1, still encoded."""
        return EncodedImages(self._records, self._index, self.view, self._places[start:stop])

    def sizes(self, index: np.ndarray) -> np.ndarray:
        """Height and width (M, 2) of the images `index` (M,) before any cropping."""
        return self._index.sizes[self._at(index)]

    def plain(self, index: np.ndarray) -> np.ndarray:
        return self._index.plain[self._at(index)]

    def read(self, index: np.ndarray) -> list[bytes]:
        """The images `index` (M,) as they are encoded. Raises UserError for one that isn't there any more."""
        return self._records.read(self._at(index))

    def name(self, index: int) -> str:
        return self._records.name(self._places[index])

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
        """One image (H, W, C), or those of a slice or of indices (M,), as uint8 (M, H, W, C)."""
        if isinstance(key, (int, np.integer)):
            return self[np.array([key])][0]
        index = np.arange(len(self))[key]
        out = np.empty((len(index), *self.shape[1:]), np.uint8)
        for i, raw in enumerate(self.read(index)):
            try:
                out[i] = seen(files.upright(raw, self.view.channels), self.view)
            except Exception as error:  # Pillow raises many types for broken files
                raise broken(self.name(int(index[i])), error) from error
        return out

    def _at(self, index: np.ndarray) -> np.ndarray:
        return np.asarray(index, np.int64) + self._places.start


def seen(image: "Image.Image", view: View) -> np.ndarray:
    """The pixels (H, W, C) uint8 of an upright image (mode RGB or L) as an evaluation sees it."""
    (window,), (box,) = central(np.array([[image.height, image.width]]), view)
    return files.pixels(image, window, box, view.size, view.interpolation).reshape(*view.size, view.channels)


def cut(images: np.ndarray, crops: Crops, interpolation: str, enlarge: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Crops of an array (M, H, W, C) uint8, each resized to H x W, and int32 (M, 2) as `streaming.decoded` has them.

    Without `enlarge` whole windows lie in the top left corners as they are.
    """
    from PIL import Image

    out, size = np.zeros_like(images), images.shape[1:3]
    if not enlarge:
        for i, (pixels, (top, left, height, width)) in enumerate(zip(images, crops.window, strict=True)):
            out[i, :height, :width] = pixels[top : top + height, left : left + width]
        return out, crops.window[:, 2:]
    for i, (pixels, window, box) in enumerate(zip(images, *crops, strict=True)):
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
        out[i] = files.pixels(image, window, box, size, interpolation).reshape(pixels.shape)
    return out, np.broadcast_to(np.array(size, np.int32), (len(images), 2))


def broken(name: str, error: Exception) -> UserError:
    """What is said of an image that can't be decoded, though its header was whole."""
    text = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name} can't be decoded ({text}); put a whole copy in its place, or train anew without it")
