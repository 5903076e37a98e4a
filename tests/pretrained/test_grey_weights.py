"""Weights for colours become weights for grey images, which a grey image gives the same logits as its three copies."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vit_jax import pretrained
from vit_jax.config import Config, ModelConfig, StemConfig
from vit_jax.errors import UserError
from vit_jax.models import create
from vit_jax.pretrained import own
from vit_jax.pretrained.start import check_start, params_of, with_model
from vit_jax.steps import state as states
from vit_jax.steps.rules import path_of

FOLDER = Path(__file__).parents[1] / "fixtures/pretrained"
GREY = np.random.RandomState(0).normal(size=(2, 32, 32, 1)).astype(np.float32)


def export(folder, **keys):
    """An export of ours with random parameters."""
    sizes = {"num_classes": 3, "image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
    module = create(ModelConfig(**(sizes | keys)))
    shapes = jax.tree_util.tree_leaves_with_path(states.abstract_params(module))
    rng = np.random.RandomState(1)
    flat = {path_of(path): rng.normal(0, 0.2, x.shape).astype(np.float32) for path, x in shapes}
    folder.mkdir(exist_ok=True)
    save_file(flat, folder / "model.safetensors", own.metadata(module.cfg))
    said = {"preprocessing": {"mean": [0.5] * module.cfg.channels, "std": [0.2] * module.cfg.channels}}
    (folder / "model.json").write_text(json.dumps(said))
    return folder


def logits(module, params, images):
    return np.asarray(jax.jit(lambda p, x: module.apply({"params": p}, x)[0])(params, images))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("google_vit_token.npz", {}),
        pytest.param("google_mixer.npz", {}, marks=pytest.mark.slow),
        ("hf_vit", {}),
        pytest.param("timm_token.npz", {"heads": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_grey_image_gives_the_logits_of_three_equal_channels(name, told, capsys):
    found = logits(*pretrained.load(FOLDER / name, channels=1, **told), GREY)
    assert "The first kernel is summed over the colours, for grey images." in capsys.readouterr().out
    expected = logits(*pretrained.load(FOLDER / name, **told), np.repeat(GREY, 3, axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_so_does_a_stem_of_convolutions(tmp_path):
    stem = StemConfig(kind="conv", widths=(8,), strides=(2,))
    folder = export(tmp_path / "export", stem=stem, image_width=48)
    wide = np.concatenate([GREY, GREY[:, :, :16]], axis=2)
    module, params = pretrained.load(folder, channels=1)
    assert params["stem"]["conv_0"]["kernel"].shape == (3, 3, 1, 8)
    expected = logits(*pretrained.load(folder), np.repeat(wide, 3, axis=-1))
    np.testing.assert_allclose(logits(module, params, wide), expected, atol=1e-5)


@pytest.mark.parametrize("keys", [{}, {"stem": StemConfig(kind="conv", widths=(8,), strides=(2,))}])
def test_weights_for_grey_images_take_the_mean_of_the_colours(keys, tmp_path, capsys):
    folder = export(tmp_path / "export", channels=1, **keys)
    found = logits(*pretrained.load(folder, channels=3), np.repeat(GREY, 3, axis=-1))
    assert "The first kernel is spread over the colours, for RGB images." in capsys.readouterr().out
    np.testing.assert_allclose(found, logits(*pretrained.load(folder), GREY), atol=1e-5)


def test_grey_weights_come_back_as_they_are(tmp_path):
    module, params = pretrained.load(export(tmp_path / "export", channels=1), image_size=32, image_width=48)
    assert (module.cfg.channels, module.cfg.image_width) == (1, 48)
    assert params["stem"]["proj"]["kernel"].shape == (64, 16)


@pytest.mark.parametrize(
    ("keys", "channels", "message"),
    [
        ({"channels": 1, "stem": StemConfig(kind="resnet", widths=(32,)), "patch_size": 1}, 3, "leave channels=1"),
        ({"stem": StemConfig(kind="conv", widths=(8,), whiten=2)}, 1, "begin with a whitening layer, can't become"),
        (
            {"stem": StemConfig(kind="resnet", widths=(32,)), "patch_size": 1},
            1,
            "whose kernels are standardised, can't",
        ),
        ({}, 2, "config.model.channels is 3, or 1 for grey images; found 2"),
    ],
)
def test_what_can_not_be_summed_is_refused(keys, channels, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pretrained.load(export(tmp_path / "export", **keys), channels=channels)


def start(weights, **keys):
    return with_model(Config(init_from=str(weights), model=ModelConfig(**keys)), None, list(keys))


def test_training_starts_grey_with_the_average_normalisation(tmp_path, capsys):
    folder = tmp_path / "hf"
    shutil.copytree(FOLDER / "hf_vit", folder)
    processor = {"image_mean": [0.4, 0.5, 0.9], "image_std": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    config = start(folder, channels=1, num_classes=4)
    np.testing.assert_allclose([*config.augment.mean, *config.augment.std], [0.6, 0.2])
    check_start(config)
    said = capsys.readouterr().out
    assert said.startswith("Grey images of 32 x 32 pixels, as the weights") and "normalised as for those" in said
    params = params_of(config, create(config.model))
    colours = pretrained.load(folder)[1]["stem"]["proj"]["kernel"]
    np.testing.assert_allclose(params["stem"]["proj"]["kernel"], colours.reshape(-1, 3, colours.shape[1]).sum(axis=1))


def test_the_model_follows_grey_weights_unless_the_config_says_colours(tmp_path, capsys):
    folder = export(tmp_path / "export", channels=1)
    config = start(folder)
    assert config.model.channels == 1 and config.augment.mean == (0.5,)
    colours = start(folder, channels=3)
    assert colours.augment.mean == (0.5,) * 3
    check_start(colours)
    assert "Images of 32 x 32 pixels" in capsys.readouterr().out


def test_positions_of_squares_start_a_rectangle(capsys):
    config = start(FOLDER / "google_vit_token.npz", image_size=16, image_width=48, num_classes=4)
    check_start(config)
    assert "Images of 16 x 48 pixels, as the config says; the weights in" in capsys.readouterr().out
    params = params_of(config, create(config.model))
    patch = config.model.patch_size
    assert len(params["posemb"]) == 16 * 48 // patch**2
