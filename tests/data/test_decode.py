"""Many images at speed: the pixels of Pillow, and failures that name the image."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.crops import Crops, central, random_resized
from vit_jax.data.decode import by_pillow, decoder
from vit_jax.data.geometry import _enlarged_by_products, enlarged
from vit_jax.data.images import header
from vit_jax.data.view import View
from vit_jax.errors import UserError

tf = pytest.importorskip("tensorflow")


def encoded(i, size, form="JPEG", mode="RGB", **options):
    """A picture of a smooth ground with noise on it."""
    rng = np.random.RandomState(i)
    ground = Image.fromarray(rng.randint(256, size=(6, 6, 3)).astype(np.uint8)).resize(size[::-1], Image.BICUBIC)
    array = np.asarray(ground).astype(int) + rng.randint(-20, 21, (*size, 3))
    stream = io.BytesIO()
    Image.fromarray(array.clip(0, 255).astype(np.uint8)).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def files():
    """Images of every kind: those that TensorFlow decodes, of each subsampling, and those left to Pillow."""
    plain = [encoded(i, (70 + 9 * i, 97 - 5 * i), subsampling=i % 3, progressive=i > 2, quality=80) for i in range(6)]
    plain += [encoded(6, (64, 48), mode="L"), encoded(7, (64, 48), "PNG"), encoded(8, (9, 130), "PNG", "L")]
    rest = [encoded(9, (60, 80), exif=turned(6)), encoded(10, (40, 50), mode="CMYK"), encoded(11, (50, 40), "WEBP")]
    return plain, [*rest, encoded(12, (30, 30), "PNG", "RGBA"), encoded(13, (80, 20), "BMP")]


def sizes_of(raw):
    headers = [header(content) for content in raw]
    return np.array([h[:2] for h in headers]), np.array([h.plain for h in headers])


def decoded(view, raw, plain, crops, enlarge=True):
    """The same through tf.data, one group; and what of each image is still to be enlarged."""
    group = tf.data.Dataset.from_tensors((tf.constant(raw), plain, np.int32(sizes_of(raw)[0]), *crops))
    pixels, extent, read = next(group.map(decoder(view, enlarge), tf.data.AUTOTUNE).as_numpy_iterator())
    assert read.all()
    return pixels, extent


@pytest.mark.parametrize(
    ("size", "interpolation", "channels"),
    [((48, 48), "bilinear", 3), ((100, 120), "bilinear", 3), ((100, 120), "bicubic", 3), ((100, 120), "bilinear", 1)],
)
def test_the_pixels_are_pillows(size, interpolation, channels):
    plain, rest = files()
    raw = [*plain, *rest]
    sizes, is_plain = sizes_of(raw)
    assert is_plain.tolist() == [True] * len(plain) + [False] * len(rest)
    view = View(size, channels, 0.9, interpolation)
    for crops in (central(sizes, view), random_resized(0, 0, sizes, (0.08, 1.0), (3 / 4, 4 / 3))):
        found, extent = decoded(view, raw, is_plain, crops)
        expected = by_pillow(raw, *crops, view)
        assert found.shape == expected.shape == (len(raw), *size, channels) and found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (extent == size).all()


def test_what_is_left_to_be_enlarged_is_pillows_once_it_is():
    plain, rest = files()
    raw, view = [*plain, *rest], View((60, 50))
    sizes, is_plain = sizes_of(raw)
    crops = random_resized(0, 0, sizes, (0.08, 1.0), (3 / 4, 4 / 3))
    expected = by_pillow(raw, *crops, view).astype(int)
    found, extent = decoded(view, raw, is_plain, crops, enlarge=False)
    smaller = is_plain & (crops.window[:, 2:] <= view.size).all(1)
    assert 2 < smaller.sum() < len(plain)  # others are larger in one direction at least
    np.testing.assert_array_equal(extent, np.where(smaller[:, None], crops.window[:, 2:], view.size))
    for form in (enlarged, _enlarged_by_products):  # a TPU's
        assert np.abs(np.asarray(form(found, extent)).astype(int) - expected).max() <= 1
    for pixels, (height, width) in zip(found, extent, strict=True):
        assert not pixels[height:].any() and not pixels[:, width:].any()


def test_windows_anywhere_are_decoded_as_in_the_whole_image():
    rng = np.random.RandomState(0)
    raw, windows, expected = [], [], []
    for i, (h, w) in enumerate([(53, 64), (64, 53), (40, 71), (16, 7), (8, 200), (90, 33)]):
        content = encoded(i, (h, w), subsampling=i % 3)
        whole = np.asarray(Image.open(io.BytesIO(content)))
        for left in (0, w - 7, *rng.randint(w - 6, size=6)):
            top = rng.randint(h - 7)
            raw.append(content)
            windows.append((top, left, 8, 7))
            expected.append(whole[top : top + 8, left : left + 7])
    crops = Crops(np.array(windows, np.int32), np.tile(np.float32([0, 0, 8, 7]), (len(raw), 1)))
    np.testing.assert_array_equal(decoded(View((8, 7)), raw, np.ones(len(raw), bool), crops)[0], expected)


def test_images_of_the_right_scale_are_cut_and_pillow_has_no_part_in_it(monkeypatch):
    raw = [encoded(i, (64, 64), form) for i, form in enumerate(("JPEG", "PNG", "JPEG", "PNG"))]
    sizes, plain = sizes_of(raw)
    view = View((56, 56), 3, 0.875)
    crops = central(sizes, view)
    expected = [np.asarray(Image.open(io.BytesIO(content)))[4:60, 4:60] for content in raw]
    monkeypatch.setattr("vit_jax.data.decode.by_pillow", lambda *_: pytest.fail("Pillow"))
    monkeypatch.setattr("vit_jax.data.decode.pixels", lambda *_: pytest.fail("Pillow"))
    np.testing.assert_array_equal(decoded(view, raw, plain, crops)[0], expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_broken_image_fails_its_group_alone(form):
    view = View((16, 16))
    raw = [encoded(i, (40, 40), form) for i in range(4)]
    sizes, plain = sizes_of(raw)
    crops = central(sizes, view)
    broken = [*raw[:2], raw[2][:300], raw[3]]
    same = ([values] * 3 for values in (plain, np.int32(sizes), *crops))
    groups = tf.data.Dataset.from_tensor_slices(([raw, broken, raw], *same))
    batches = groups.map(decoder(view), tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator()
    first, _, read = next(batches)
    assert read.all()
    if form == "WEBP":
        assert next(batches)[2].tolist() == [True, True, False, True]
    else:
        with pytest.raises(tf.errors.OpError):
            next(batches)
    with pytest.raises(UserError, match="broken"):
        by_pillow(broken, *crops, view)
    np.testing.assert_array_equal(next(batches)[0], first)
