"""One encoded image: bytes to header, to upright pixels, to the pixels of a view. H height, W width, C channels."""

import io
import logging
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vit_jax.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Of pictures that aren't read: a reader for each would be one more that hostile files may attack.
_OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".ppm", ".tga", ".psd", ".svg", ".dng", ".cr2", ".nef")
# Whatever a file is called, no other decoder of Pillow's forty sees it. JPEG's reads MPO, too: what some phones write
# as .jpg, a JPEG with a second picture behind it.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_STRIP = 64  # views that an image resized as a whole may be as large as
MAX_PIXELS = 50_000_000  # a phone's picture; decoded it has 150 MB
_TOO_MANY = f"more than the {MAX_PIXELS:,} pixels that an image may have"
# The filters of warnings belong to the whole process: two threads that change them would restore each other's.
_FILTERS = threading.Lock()
# Where nobody set up logging, what Pillow logs of strange files would be printed.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def passed_over(files: Iterable[Path]) -> str:
    """How many of the files are pictures of a format that isn't read, like "3 .heic, 1 .avif"; "" for none."""
    suffixes = Counter(file.suffix.lower() for file in files)
    return ", ".join(f"{suffixes[suffix]:,} {suffix}" for suffix in _OTHER_SUFFIXES if suffixes[suffix])


class Header(NamedTuple):
    """What is known of an image without decoding it."""

    height: int  # pixels, upright: once turned as its EXIF data say
    width: int
    plain: bool  # a JPEG or whole PNG, RGB or grey of 8 bits, upright: TensorFlow's decoder gives Pillow's pixels
    note: str  # what somebody should know of it, or ""


def header(raw: bytes) -> Header:
    """Reads what comes before the pixels, in some 100 us; all of a file that its format's own signs say isn't whole.

    Raises UserError for a file of another format, for too many pixels, before any is decoded, and for a broken file.
    """
    image, turn, note = _open(raw)
    whole = _whole(raw, image)
    if not whole:
        _load(image)
    height, width = _upright_size(image, turn)
    # A PNG with a wrong checksum is one for Pillow, but not for TensorFlow's decoder.
    plain = turn is None and _plain(raw, image) and (whole or image.format != "PNG")
    return Header(height, width, plain, note)


def ends(raw: bytes) -> bool:
    """Whether a JPEG or PNG isn't cut off, as its end tells at hardly any cost: asked at every reading of a plain one.

    Another question than `header` has (`_whole`), once, of a file that nobody has decoded yet: it must take none for
    whole that isn't, and decodes those that it is in doubt of; a file of which it said yes is taken for cut off here
    if much else follows a PNG, and never for what cameras append to a JPEG: decoding those by Pillow each time would
    be slow. One that wrongly passes here is still noticed by TensorFlow's decoder, in its own words.
    """
    if raw[:2] == b"\xff\xd8":
        return raw.rfind(b"\xff\xd9", len(raw) // 2) >= 0  # which compressed pixels never have; a thumbnail lies before
    return b"IEND" in raw[-32:]


def upright(raw: bytes, channels: int = 3) -> "Image.Image":
    """The image, its first where there are several, as RGB (3 channels) or L (1), turned as its EXIF data say.

    Transparency is dropped, and values of 16 bits are scaled to 8. Raises UserError as `header`.
    """
    image, turn, _ = _open(raw)
    _load(image)
    try:
        image = converted(image, channels)
    except Exception as error:  # a mode that Pillow reads and can't convert
        raise UserError(f"it can't be converted from {image.mode}: {error}") from error
    return image if turn is None else image.transpose(turn)


def pixels(
    image: "Image.Image", window: np.ndarray, box: np.ndarray, size: tuple[int, int], interpolation: str
) -> np.ndarray:
    """The pixels (H, W) or (H, W, 3) uint8 of an upright image that lie in a box in a window, resized to `size`.

    `window` (4,) int: top, left, height, width of the part of the image that is looked at. `box` (4,) float: top, left,
    bottom, right in it, of what is resized; the filter, antialiasing included, looks beyond the box but not beyond the
    window.
    """
    from PIL import Image

    top, left, height, width = (int(x) for x in window)
    if (top, left, width, height) != (0, 0, *image.size):
        image = image.crop((left, top, left + width, top + height))
    y0, x0, y1, x1 = (float(x) for x in box)
    if (y1 - y0, x1 - x0) == size and y0.is_integer() and x0.is_integer():
        return np.asarray(image.crop((int(x0), int(y0), int(x1), int(y1))))
    method = Image.Resampling[interpolation.upper()]
    vertical, horizontal = size[0] / (y1 - y0), size[1] / (x1 - x0)
    cut = np.array([height * vertical, width * horizontal, y0 * vertical, x0 * horizontal])
    is_cut = np.abs(cut - cut.round()).max() < 0.01 and cut[0] * cut[1] <= _STRIP * size[0] * size[1]
    # These overshoot, and are clipped after each axis, of which Pillow chooses the first by the sizes: to give what
    # torchvision and timm do, all is resized as they do it, but for images of which that would be a strip.
    if interpolation != "bilinear" and is_cut:
        scaled_height, scaled_width, top, left = (int(x) for x in cut.round())
        whole = image.resize((scaled_width, scaled_height), method)
        return np.asarray(whole.crop((left, top, left + size[1], top + size[0])))
    return np.asarray(image.resize(size[::-1], method, (x0, y0, x1, y1)))


def _open(raw: bytes) -> "tuple[Image.Image, Image.Transpose | None, str]":
    """The image before its pixels, how it has to be turned, and a note or ""."""
    from PIL import Image

    with _FILTERS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)  # reads the header
        except Image.UnidentifiedImageError as error:
            raise UserError("no PNG, JPEG, WebP, BMP, GIF or TIFF") from error
        except Image.DecompressionBombError as error:  # Pillow's own, higher cap
            raise UserError(f"{_TOO_MANY}: {error}") from error
        except Exception as error:  # Pillow raises many types for broken files
            raise UserError(f"its header is broken: {error}") from error
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{_TOO_MANY}: {image.width} x {image.height} = {image.width * image.height:,}")
        if image.format == "PNG" and _metadata_behind_pixels(raw):
            _guarded(image.load)
        try:
            # PNG's own method decodes the pixels where nothing was said before them.
            orientation = Image.Image.getexif(image).get(0x0112, 1)
        except Exception:  # as above
            return image, None, "its EXIF data are broken: it isn't turned"
    # A TIFF is turned by Pillow as it is loaded, and has the turned size before.
    turn = None if image.format == "TIFF" else _turn(orientation)
    # Pillow passes over what isn't EXIF at all, and warns of EXIF data that end too early.
    strange = image.info.get("exif", b"II*").removeprefix(b"Exif\0\0")[:3] not in (b"II*", b"MM\0")
    if strange or any("EXIF" in str(warning.message) for warning in caught):
        return image, turn, "its EXIF data are broken" + ("" if turn else ": it isn't turned")
    return image, turn, ""


def _turn(orientation: object) -> "Image.Transpose | None":
    """What makes an image upright whose EXIF data give this orientation; None: nothing."""
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    return turns[orientation - 2] if isinstance(orientation, int) and 2 <= orientation <= 8 else None


def _plain(raw: bytes, image: "Image.Image") -> bool:
    if image.format == "PNG" and (raw[24] != 8 or "transparency" in image.info):  # IHDR's bits of a sample
        return False
    if image.info.get("jfif_version", (1, 1))[0] != 1:  # of which TensorFlow's decoder would warn, each time
        return False
    return image.format in ("JPEG", "MPO", "PNG") and image.mode in ("RGB", "L")


def _upright_size(image: "Image.Image", turn: "Image.Transpose | None") -> tuple[int, int]:
    from PIL.Image import Transpose

    swapped = turn in (Transpose.TRANSPOSE, Transpose.TRANSVERSE, Transpose.ROTATE_90, Transpose.ROTATE_270)
    return image.size if swapped else image.size[::-1]


def _load(image: "Image.Image") -> None:
    """Decodes the pixels; warnings of the tags of a TIFF, which Pillow reads once more, are dropped."""
    if image.format != "TIFF":
        _guarded(image.load)
        return
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _guarded(image.load)


def _guarded(load: Callable[[], object]) -> None:
    try:
        load()
    except Exception as error:  # Pillow raises many types for broken files
        raise UserError(f"it is truncated or broken: {error}") from error


def _whole(raw: bytes, image: "Image.Image") -> bool:
    """Whether the file ends as its format ends and, of a PNG, has the right checksums: what is told at little cost.

    Of a JPEG, stricter than `ends`: the end of a thumbnail, late in a file that is cut off, must not pass for its own.
    """
    if image.format in ("JPEG", "MPO"):
        return b"\xff\xd9" in raw[-32:]  # cameras pad
    if image.format == "PNG":
        return _png_whole(raw)
    if image.format == "GIF":
        return raw.rstrip(b"\0")[-1:] == b";"
    if image.format == "WEBP":
        return len(raw) >= 8 + int.from_bytes(raw[4:8], "little")
    return False


def _png_whole(raw: bytes) -> bool:
    """Whether all chunks of a PNG are there, each with its checksum: 4 bytes length, 4 name, data, 4 CRC-32."""
    view, place = memoryview(raw), 8
    while place + 12 <= len(raw):
        end = place + 8 + int.from_bytes(view[place : place + 4], "big")
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if view[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False


def _metadata_behind_pixels(raw: bytes) -> bool:
    """Whether a PNG has chunks behind its pixels that may say how it has to be turned."""
    place, pixels = 8, False
    while place + 8 <= len(raw):
        length, name = int.from_bytes(raw[place : place + 4], "big"), raw[place + 4 : place + 8]
        if pixels and name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        pixels |= name == b"IDAT"
        place += length + 12
    return False


def converted(image: "Image.Image", channels: int) -> "Image.Image":
    """A decoded image of any mode as RGB (3 channels) or L (1)."""
    mode = "RGB" if channels == 3 else "L"
    if image.mode not in ("RGB", "L"):
        image = _grey_or_rgb(image)
    return image if image.mode == mode else image.convert(mode)


def _grey_or_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image, ImageCms

    if image.mode.startswith("I"):  # 16-bit grey, in a TIFF also 32-bit: convert() would clip it at 255
        return Image.fromarray((np.asarray(image).clip(0, 65_535) // 257).astype(np.uint8))
    if image.mode == "F":  # convert() leaves open what NaN becomes
        grey = np.nan_to_num(np.asarray(image))
        grey = 255 * grey if grey.max() <= 1 else grey  # from 0 to 1, or to 255
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    if image.mode in ("LA", "La", "1"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:  # Pillow would warn
        image = image.convert("RGBA")
    return image.convert("RGB")
