"""Pictures are drawn from what a run knows; the patches are the model's; maps and filters are what they say."""

import dataclasses

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image

from vit_jax import models
from vit_jax.config import AugmentConfig, ModelConfig, StemConfig
from vit_jax.evaluation import attention_maps, filters
from vit_jax.models.stems import whitening_kernel
from vit_jax.runs import pictures
from vit_jax.runs.fonts import font_for
from vit_jax.steps import state as states

MODEL = ModelConfig(
    num_classes=3, image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp_dim=16, pool="token", registers=1
)
AUGMENT = AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3)


def random_params(module):
    random = np.random.RandomState(0)
    return jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(np.float32), states.abstract_params(module))


def test_the_four_lines_are_the_articles(tmp_path):
    image = np.random.RandomState(0).randint(256, size=(32, 32, 3)).astype(np.uint8)
    assert pictures.patches(image, (72, 72), (12, 12), tmp_path / "patches.png") == [
        "Image size: 72 X 72",
        "Patch size: 6 X 6",
        "Patches per image: 144",
        "Elements per patch: 108",
    ]
    drawn = np.asarray(Image.open(tmp_path / "patches.png").convert("RGB"))
    assert drawn.std() > 20 and drawn.shape[1] > drawn.shape[0]


def test_the_four_lines_of_a_grey_rectangle_are_its_own(tmp_path):
    image = np.zeros((10, 30, 1), np.uint8)
    image[:, 15:] = 200  # the right half is light
    assert pictures.patches(image, (8, 24), (2, 3), tmp_path / "patches.png") == [
        "Image size: 8 X 24",
        "Patch size: 4 X 8",
        "Patches per image: 6",
        "Elements per patch: 32",
    ]
    drawn = np.asarray(Image.open(tmp_path / "patches.png").convert("RGB")).astype(int)
    ((rows, columns),) = [np.nonzero((drawn == 200).all(axis=-1))]  # grey is shown as grey
    assert len(rows) > 1000 and columns.max() > drawn.shape[1] / 2 > columns.min()
    wide = drawn[rows.min() : rows.max() + 1, : drawn.shape[1] // 2]
    assert ((wide == 0).all(axis=-1).any(axis=0)).sum() > 1.2 * len(wide)  # 24 wide to 8 high, half of it dark


@pytest.mark.parametrize("validation", [True, False])
def test_curves_need_no_validation(tmp_path, validation):
    rows = [{"split": "train_epoch", "epoch": e, "top1": 0.1 * e, "loss": 2 - 0.1 * e} for e in range(5)]
    rows += [row | {"split": "validation"} for row in rows] if validation else []
    pictures.curves(rows, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (960, 960)


def test_confusion_shows_every_class(tmp_path):
    matrix = np.array([[8, 2, 0], [0, 10, 0], [1, 0, 0]])
    pictures.confusion(matrix, ["cat", "dog", "frog"], tmp_path / "confusion.png")
    assert np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).std() > 20


FONTS = f"{matplotlib.get_data_path()}/fonts/ttf"
DEJAVU = f"{FONTS}/DejaVuSans.ttf"


def test_the_first_font_that_has_all_letters_is_taken():
    latin = f"{FONTS}/cmr10.ttf"
    assert font_for(["cat", "a b"], [latin, DEJAVU]) == latin
    assert font_for(["cat", "кот", "ψ\u200d\ufe0f"], ["/nowhere.ttf", latin, DEJAVU]) == DEJAVU
    assert font_for(["кот"], [latin]) is None and font_for(["кот", "\U0010fffd"]) is None  # no last resort's boxes
    assert font_for(["кот", "dog"]) == DEJAVU


def drawn(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.filterwarnings("error")
def test_classes_that_no_font_has_are_numbers(tmp_path, caplog):
    matrix = np.array([[8, 2], [0, 10]])
    (line,) = pictures.confusion(matrix, ["cat", "고양이"], tmp_path / "confusion.png", [DEJAVU])
    assert line.startswith("No installed font has the letters of all classes: confusion.png has their numbers")
    assert not pictures.confusion(matrix, ["0", "1"], tmp_path / "numbers.png", [DEJAVU])
    np.testing.assert_array_equal(drawn(tmp_path / "confusion.png"), drawn(tmp_path / "numbers.png"))
    assert not caplog.records


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [r"$\nothing{$", "$5", "a_b^c$d$", "кошка", "قطة", "x" * 255, "100%", "a\\nb"])
def test_classes_of_any_name_are_drawn_as_they_are(tmp_path, name, caplog):
    assert not pictures.confusion(np.eye(2, dtype=int), ["cat", name], tmp_path / "confusion.png", [DEJAVU])
    assert not caplog.records
    pictures.confusion(np.eye(2, dtype=int), ["cat", ""], tmp_path / "bare.png", [DEJAVU])
    assert drawn(tmp_path / "confusion.png").shape == drawn(tmp_path / "bare.png").shape
    assert (drawn(tmp_path / "confusion.png") != drawn(tmp_path / "bare.png")).sum() > 300


# --- attention


def test_rollout_of_uniform_and_identical_attention():
    uniform, identity = np.full((2, 5, 5), 0.2), np.broadcast_to(np.eye(5), (2, 5, 5))
    np.testing.assert_allclose(attention_maps.rollout([identity] * 3), identity)
    # Half of a token stays where it is in each block; the rest is spread evenly.
    expected = 0.125 * np.eye(5) + 0.875 * 0.2
    np.testing.assert_allclose(attention_maps.rollout([uniform] * 3), np.broadcast_to(expected, (2, 5, 5)))


def test_rollout_goes_from_the_last_block_back_to_the_first():
    """What the last block takes from token 1, the first had brought there from token 2."""
    first, last = np.eye(3)[None].copy(), np.eye(3)[None].copy()
    first[0, 1], last[0, 0] = (0, 0, 1), (0, 1, 0)
    rolled = attention_maps.rollout([first, last])
    np.testing.assert_allclose(rolled[0, 0], [0.5, 0.25, 0.25])
    random = np.random.RandomState(0).dirichlet(np.ones(4), (2, 3, 4))
    np.testing.assert_allclose(attention_maps.rollout(list(random)).sum(axis=-1), 1)


def test_the_outputs_attention_leaves_class_token_and_registers_out():
    attention = np.zeros((1, 4, 4))
    attention[0, 0] = (0.4, 0.2, 0.1, 0.3)  # class token, register, two patches
    attention[0, 2], attention[0, 3] = (0, 0.5, 0.5, 0), (0.5, 0, 0.25, 0.25)
    np.testing.assert_allclose(attention_maps.seen_by_output(attention, 2, True), [[0.25, 0.75]])
    np.testing.assert_allclose(attention_maps.seen_by_output(attention, 2, False), [[0.75, 0.25]])


def test_weights_of_a_model_are_those_in_aux_whatever_its_attention():
    images = np.random.RandomState(0).randint(256, size=(3, 10, 10, 3)).astype(np.uint8)
    module = models.create(dataclasses.replace(MODEL, attention="chunked"))
    params = random_params(module)
    weights = attention_maps.weights_of(module, params, images, AUGMENT)
    assert [block.shape for block in weights] == [(3, 6, 6)] * 2  # class token, register, four patches
    np.testing.assert_allclose(np.stack(weights).sum(axis=-1), 1, atol=1e-5)
    mixer = models.create(dataclasses.replace(MODEL, pool="mean", registers=0, token_mlp_dim=8, heads=None))
    with pytest.raises(ValueError, match="no attention"):
        attention_maps.weights_of(mixer, {}, images, AUGMENT)


def test_attention_of_grey_rectangles_has_a_weight_for_each_of_their_patches():
    module = models.create(dataclasses.replace(MODEL, channels=1, image_width=12))
    images = np.random.RandomState(0).randint(256, size=(3, 10, 14, 1)).astype(np.uint8)
    weights = attention_maps.weights_of(module, random_params(module), images, AugmentConfig((0.5,), (0.25,)))
    assert [block.shape for block in weights] == [(3, 8, 8)] * 2  # class token, register, 2 x 3 patches
    maps = attention_maps.seen_by_output(attention_maps.rollout(weights), 2, True).reshape(3, 2, 3)
    assert pictures.overlay(images[0], maps[0], side=64).shape == (64, 90, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_is_light_where_the_weight_is(channels):
    image, weights = np.full((8, 12, channels), 100, np.uint8), np.zeros((2, 3))
    weights[1, 2] = 1
    drawn = pictures.overlay(image, weights, side=64).astype(float)
    assert drawn.shape == (64, 96, 3)
    assert drawn[48:, 80:].mean() > 2 * drawn[:16, :16].mean()
    assert pictures.overlay(image, np.ones((2, 3))).shape == (128, 192, 3)  # equal weights: no division by 0


# --- filters


def test_filters_of_linear_patches_are_pixels_in_their_places():
    """A filter that takes the green of a patch's last pixel of the first row."""
    cfg = dataclasses.replace(MODEL, patch_size=2)
    kernel = np.zeros((12, 16), np.float32)
    kernel[4, 3] = 1  # row 0, column 1, green
    name, found = filters.input_filters(cfg, {"stem": {"proj": {"kernel": kernel}}})
    assert found.shape == (16, 2, 2, 3) and found[3, 0, 1, 1] == 1 and found.sum() == 1
    picture = filters.filter_pictures(found)
    assert picture[3, 0, 1].tolist() == [128, 255, 128] and (picture[0] == 128).all()


def test_filters_of_grey_images_are_shown_in_grey():
    kernel = np.zeros((4, 16), np.float32)
    kernel[1, 3] = -1  # row 0, column 1
    _, found = filters.input_filters(
        dataclasses.replace(MODEL, patch_size=2, channels=1), {"stem": {"proj": {"kernel": kernel}}}
    )
    assert found.shape == (16, 2, 2, 1)
    picture = filters.filter_pictures(found)
    assert picture[3, 0, 1].tolist() == [0, 0, 0] and picture[3, 0, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_behind_a_whitening_layer_are_of_both(channels):
    """They give what the two layers give, one after the other."""
    stem = StemConfig(kind="conv", widths=(5,), whiten=2, bias=False)
    module = models.create(dataclasses.replace(MODEL, stem=stem, patch_size=2, image_size=12, channels=channels))
    image = np.random.RandomState(0).normal(size=(1, 12, 12, channels)).astype(np.float32)
    params = random_params(module)
    params["stem"]["whitening"]["kernel"] = whitening_kernel(np.repeat(image, 9, axis=0) ** 3, 2)
    _, found = filters.input_filters(module.cfg, params)
    assert found.shape == (5, 6, 6, channels)
    whitening = params["stem"]["whitening"]["kernel"].reshape(2, 2, channels, -1)
    white = np.einsum("aibjc,ijcw->abw", image[0].reshape(6, 2, 6, 2, channels), whitening)  # (6, 6, channels)
    expected = np.einsum("abw,abwd->d", white[1:4, 2:5], params["stem"]["conv_0"]["kernel"])  # around place (2, 3)
    one_go = np.einsum("hwc,dhwc->d", image[0, 2:8, 4:10], found)
    np.testing.assert_allclose(one_go, expected, rtol=1e-4, atol=1e-4)


def test_principal_components_find_the_directions():
    rng = np.random.RandomState(0)
    main, minor = np.zeros((2, 2, 2, 3))
    main[0, 0, 0], minor[1, 1, 2] = -1, 1
    several = 5 * rng.normal(size=(200, 1, 1, 1)) * main + rng.normal(size=(200, 1, 1, 1)) * minor
    components, shares = filters.principal_components(several, 2)
    np.testing.assert_allclose(components[0], -main, atol=0.05)  # the sign whose greatest entry is positive
    assert shares[0] > 0.9 and shares.sum() == pytest.approx(1)
    assert filters.principal_components(several, 28)[0].shape == (2, 2, 2, 3)  # no more than there are


def test_positions_are_most_like_themselves():
    table = np.random.RandomState(0).normal(size=(6, 8))
    found = filters.position_similarity(table)
    np.testing.assert_allclose(np.diag(found), 1)
    np.testing.assert_allclose(found, found.T)
    assert np.abs(found).max() <= 1 + 1e-9
    pictures, columns = filters.similarity_pictures(found, (2, 3))
    assert pictures.shape == (6, 2, 3, 3) and columns == 3
    light = pictures.astype(int).sum(axis=-1).reshape(6, 6)
    assert (light.argmax(axis=1) == np.arange(6)).all()
    pictures, columns = filters.similarity_pictures(np.eye(6), (2, 3), most=2)
    assert pictures.shape[0] == 4 and columns == 2


def test_tiles_lie_row_by_row():
    drawn = np.arange(3, dtype=np.uint8)[:, None, None, None] + np.zeros((3, 2, 1, 3), np.uint8)
    grid = pictures.tiles(drawn, columns=2, scale=2, gap=1)
    assert grid.shape == (9, 5, 4)
    assert grid[0, 0].tolist() == [0, 0, 0, 255] and grid[0, 3].tolist() == [1, 1, 1, 255]
    assert grid[5, 0].tolist() == [2, 2, 2, 255] and grid[5, 3, 3] == 0 and grid[0, 2, 3] == 0  # free, and the gap


def test_drawing_leaves_the_callers_backend_alone(tmp_path):
    before = matplotlib.get_backend(auto_select=False)
    pictures.confusion(np.eye(3, dtype=int), ["a", "b", "c"], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert matplotlib.get_backend(auto_select=False) == before
