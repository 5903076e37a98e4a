"""One encoded image: of any format and mode it becomes the same pixels, and hostile ones are refused."""

import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from vit_jax.data.images import MAX_PIXELS, ends, header, pixels, upright
from vit_jax.errors import UserError


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, rows=b""):
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(width, height):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def gif(width, height, frame=(8, 8)):
    frames = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x08\x03\x00\x00\x00\x00\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frames


def webp(width, height):
    extended = (
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"".join((n - 1).to_bytes(3, "little") for n in (width, height))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended


def tiff(width, height, *more):
    """A grey TIFF; `more` are entries of (tag, type, count, value) beside the sizes."""
    tags = sorted([(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), *more])
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def jpeg_of_size(width, height):
    raw = encoded(Image.new("L", (8, 8)), "JPEG")
    place = raw.index(b"\xff\xc0") + 5
    return raw[:place] + struct.pack(">HH", height, width) + raw[place + 4 :]


NOISE = Image.effect_noise((64, 64), 64)
TOO_MANY = "more than the 50,000,000 pixels"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: png(60_000, 60_000), rf"{TOO_MANY}.*3600000000"),
        (lambda: png(10_000, 10_000), rf"{TOO_MANY}.*100,000,000"),
        (lambda: png(7_072, 7_072), rf"{TOO_MANY}.*7072 x 7072 = 50,013,184"),
        (lambda: png(2**31 - 1, 2**31 - 1), TOO_MANY),
        (lambda: jpeg_of_size(65_000, 65_000), TOO_MANY),
        (lambda: bmp(60_000, 60_000), TOO_MANY),
        (lambda: gif(65_000, 65_000), TOO_MANY),
        (lambda: gif(8, 8, (65_000, 65_000)), TOO_MANY),
        (lambda: tiff(60_000, 60_000), TOO_MANY),
        (lambda: webp(16_000, 16_000), TOO_MANY + "|header is broken|no PNG"),
        (lambda: b"", "no PNG, JPEG, WebP, BMP, GIF or TIFF"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no PNG"),
        (lambda: encoded(Image.new("RGB", (8, 8)), "PPM"), "no PNG"),
        (lambda: encoded(Image.new("RGB", (8, 8)), "ICO"), "no PNG"),
        (lambda: tiff(8, 8, (277, 3, 1, 60_000)), "no PNG"),
    ],
)
def test_hostile_images_are_refused_before_they_are_decoded(content, message, monkeypatch, capfd):
    raw = content()

    def refuse(_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    for read in (header, upright):
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserError, match=message):
                read(raw)
        assert time.process_time() - started < 1
    assert capfd.readouterr() == ("", "")


def test_a_tiff_with_absurd_tags_costs_nothing(recwarn, capfd):
    raw = tiff(8, 8, (279, 4, 2**31, 2**30), (282, 5, 2**31, 8), (33550, 12, 2**32 - 1, 2**32 - 1))
    started = time.process_time()
    assert header(raw)[:2] == (8, 8) and upright(raw, 1).size == (8, 8)
    with pytest.raises(UserError, match="truncated or broken"):
        header(tiff(4_000, 4_000, (279, 4, 1, 16_000_000)))
    assert time.process_time() - started < 1
    assert not recwarn and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_found_by_their_header_alone_and_others_are_not_decoded_for_it(form, monkeypatch):
    raw = encoded(NOISE, form)
    for read in (header, upright):
        assert read(raw)
        for length in (len(raw) * 2 // 3, 40):
            with pytest.raises(UserError, match="broken|no PNG"):
                read(raw[:length])
    if form in ("PNG", "JPEG", "WEBP", "GIF"):
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
        assert header(raw)[:2] == (64, 64)


def test_what_follows_an_image_is_no_damage_and_the_end_of_a_thumbnail_is_not_its_own():
    jpeg, png = (encoded(NOISE, form) for form in ("JPEG", "PNG"))
    assert header(jpeg + bytes(500)).plain and ends(jpeg + bytes(500))  # of a camera: decoded once, then TensorFlow's
    assert header(png + bytes(500)).plain and not ends(png + bytes(500))
    thumbnail = encoded(Image.new("RGB", (8, 8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(thumbnail)) + b"other\0" + thumbnail
    cut_off = (jpeg[:2] + segment + jpeg[2:])[: len(segment) + 400]
    assert ends(cut_off)
    with pytest.raises(UserError, match="truncated or broken"):
        header(cut_off)


def test_a_png_whose_pixels_end_early_is_refused():
    with pytest.raises(UserError, match="truncated or broken"):
        upright(png(64, 64, bytes(100)))


MODES = [
    *(("PNG", mode) for mode in ("RGB", "L", "LA", "RGBA", "P", "1", "I;16")),
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("TIFF", mode) for mode in ("RGB", "L", "LA", "RGBA", "P", "1", "I;16", "F", "CMYK", "YCbCr", "LAB", "I")),
    *(("GIF", mode) for mode in ("RGB", "L", "P")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("BMP", mode) for mode in ("RGB", "L", "P", "1")),
]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("form", "mode"), MODES)
def test_images_of_any_format_and_mode_have_the_same_pixels(form, mode, channels):
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.full((8, 8), 32_768, np.uint16 if mode == "I;16" else np.int32))
    elif mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 128, 128, 128])
    elif mode == "LAB":
        image = Image.new("LAB", (8, 8), (137, 128, 128))  # lightness 53.7 of 100: sRGB's 128
    else:
        image = Image.new("L" if mode == "F" else "RGB", (8, 8), 128 if mode == "F" else (128,) * 3).convert(mode)
    found = upright(encoded(image, form), channels)
    assert found.mode == ("RGB" if channels == 3 else "L") and found.size == (8, 8)
    if mode != "1":
        assert np.abs(np.asarray(found).astype(int) - 128).max() <= 2


def test_colours_and_depths_survive():
    red = np.asarray(upright(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert red[..., 0].min() > 200 and red[..., 1:].max() < 60
    assert (np.asarray(upright(encoded(Image.fromarray(np.full((8, 8), 65_535, np.uint16)), "PNG"))) == 255).all()
    odd = np.array([[np.nan, -5, 300, 7]], np.float32)
    assert np.asarray(upright(encoded(Image.fromarray(odd), "TIFF"), 1)).tolist() == [[0, 0, 255, 7]]
    shares = np.array([[0, 0.2, 0.5, 1]], np.float32)
    assert np.asarray(upright(encoded(Image.fromarray(shares), "TIFF"), 1)).tolist() == [[0, 51, 128, 255]]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    for form, more in (("PNG", {"transparency": bytes([0, 128])}), ("GIF", {"transparency": 0})):
        assert (np.asarray(upright(encoded(palette, form, **more))) == (10, 200, 30)).all()


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_pictures_is_read(form):
    first, second = Image.new("RGB", (8, 8), (200, 10, 10)), Image.new("RGB", (8, 8), (10, 10, 200))
    raw = encoded(first, form, save_all=True, append_images=[second])
    assert np.abs(np.asarray(upright(raw)).astype(int) - (200, 10, 10)).max() <= 6
    assert header(raw).plain == (form in ("MPO", "PNG"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_and_their_header_says_so(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.effect_noise((24, 16), 64).convert("RGB")
    raw = encoded(image, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    found = upright(raw)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert header(raw)[:2] == found.size[::-1] == ((24, 16) if orientation > 4 else (16, 24))
    assert header(raw).plain == (orientation == 1 and form in ("JPEG", "PNG"))


def test_a_png_may_say_behind_its_pixels_that_it_lies_on_its_side():
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encoded(Image.new("RGB", (24, 16)), "PNG")
    raw = raw[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + raw[-12:]
    assert upright(raw).size == (16, 24) and header(raw) == (24, 16, False, "")


def test_broken_exif_data_are_a_note_and_no_warning(recwarn, capfd):
    image = Image.effect_noise((24, 16), 64)
    for exif in (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x09",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff",
    ):
        raw = encoded(image, "JPEG", exif=exif)
        assert header(raw).note.startswith("its EXIF data are broken") and header(raw)[:2] == (16, 24)
        assert upright(raw).size == (24, 16)
    assert not recwarn and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("image", "form", "options", "plain"),
    [
        (Image.new("RGB", (8, 8)), "JPEG", {"progressive": True}, True),
        (Image.new("L", (8, 8)), "PNG", {}, True),
        (Image.new("CMYK", (8, 8)), "JPEG", {}, False),
        (Image.new("RGBA", (8, 8)), "PNG", {}, False),
        (Image.new("L", (8, 8)), "PNG", {"transparency": 3}, False),
        (Image.new("RGB", (8, 8)), "BMP", {}, False),
    ],
)
def test_only_what_tensorflow_decodes_alike_is_plain(image, form, options, plain):
    assert header(encoded(image, form, **options)).plain is plain


def test_images_below_the_cap_are_read():
    side = int(MAX_PIXELS**0.5)
    raw = encoded(Image.new("L", (side, side), 100), "PNG")
    assert header(raw)[:2] == (side, side)
    assert (np.asarray(upright(raw, 1)) == 100).all()


def test_pixels_are_pillows_and_look_not_beyond_the_window():
    array = np.random.RandomState(0).randint(256, size=(40, 60, 3)).astype(np.uint8)
    image = Image.fromarray(array)
    window, box = np.array([4, 6, 30, 40]), np.array([1.5, 2.25, 20.5, 30])
    expected = image.crop((6, 4, 46, 34)).resize((12, 8), Image.Resampling.BICUBIC, (2.25, 1.5, 30, 20.5))
    np.testing.assert_array_equal(pixels(image, window, box, (8, 12), "bicubic"), np.asarray(expected))
    black = array.copy()
    black[4:34, 6:46] = 0
    assert not pixels(Image.fromarray(black), window, np.array([0, 0, 30, 40.0]), (8, 12), "lanczos").any()
    cut = pixels(image, window, np.array([3, 5, 11, 17.0]), (8, 12), "lanczos")
    np.testing.assert_array_equal(cut, array[7:15, 11:23])
