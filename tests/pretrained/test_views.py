"""Weights whose names have something before them, or whose blocks are stacked, and what isn't read, with the reason."""

import importlib.util

import jax
import numpy as np
import pytest
from families import numbers
from test_pretrained import FOLDER, LOGITS, TOLERANCE, arrays_of, logits_of, saved

from vit_jax import models, pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained.files import Weights
from vit_jax.pretrained.load import _described, fitting
from vit_jax.pretrained.timm_names import EPSILONS, HEADS, NAMED_ACTIVATIONS, by_name


@pytest.mark.parametrize("beginning", ["module.", "state_dict_ema.module._orig_mod.", "backbone."])
def test_what_stands_before_all_names_is_taken_off_and_said(beginning, tmp_path, capsys):
    arrays = {beginning + name: x for name, x in arrays_of("timm_token").items()}
    _, params = pretrained.load(saved(tmp_path, arrays), heads=3)
    assert f"begin with {beginning!r}, which is taken off." in capsys.readouterr().out
    _, expected = pretrained.load(FOLDER / "timm_token.npz", heads=3)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_names_of_which_some_alone_have_it_are_refused(tmp_path):
    arrays = {("module." if i % 2 else "") + name: x for i, (name, x) in enumerate(arrays_of("timm_token").items())}
    with pytest.raises(UserError, match="don't fit in .* places; nothing was loaded"):
        pretrained.load(saved(tmp_path, arrays), heads=3, image_size=32)


def test_a_wanted_size_is_never_taken_for_the_stored_one(tmp_path):
    """Of a file for 32 x 64 pixels: its table of 4 x 8 patches has as many rows as one of 8 x 4."""
    arrays = arrays_of("timm_token")
    rows = arrays["pos_embed"][:, :33]
    path = saved(tmp_path, {**arrays, "pos_embed": rows})
    for wanted in ({"image_size": (64, 32)}, {"image_size": (32, 64)}, {}):
        with pytest.raises(UserError, match="stored_image_size"):
            pretrained.load(path, heads=3, **wanted)
    pixels = 32 // 8
    _, params = pretrained.load(path, heads=3, stored_image_size=(4 * pixels, 8 * pixels))
    np.testing.assert_allclose(params["posemb"], rows[0, 1:])


def test_without_classes_the_module_gives_features(tmp_path, capsys):
    features = logits_of(FOLDER / "timm_token.npz", LOGITS["x"], heads=3, num_classes=0)
    assert "is left out: the model gives features." in capsys.readouterr().out
    head = arrays_of("timm_token")
    np.testing.assert_allclose(
        features @ head["head.weight"].T + head["head.bias"], LOGITS["timm_token"], atol=TOLERANCE
    )
    headless = {name: x for name, x in head.items() if not name.startswith("head.")}
    path = saved(tmp_path, headless)
    with pytest.raises(UserError, match="num_classes=10, or 0 for features"):
        pretrained.load(path, heads=3)
    np.testing.assert_array_equal(logits_of(path, LOGITS["x"], heads=3, num_classes=0), features)


REFUSED = {
    "patch_embed.backbone.conv1.0.weight": "another network before the patches than Google's ResNet",
    "patch_embed.norm.weight": "a norm of the patches",
    "blocks.0.attn.rel_pos_h": "relative positions in attention",
    "blocks.1.attn.rel_pos.mlp.fc1.weight": "relative positions in attention",
    "blocks.0.attn.norm.weight": "norms within attention",
    "blocks.0.attn.proj_l.weight": "talking heads",
    "blocks.0.attn.q_bias": "bring the config.json",
    "blocks.0.attns.0.qkv.weight": "attention and MLP side by side",
    "blocks.0.gamma_1": "blocks of its Eva, Beit or CaiT",
    "attn_pool.latent": "a Perception Encoder",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_there_is_no_model_for_is_refused_with_the_reason(name, tmp_path):
    arrays = {**arrays_of("timm_token"), name: np.zeros(16, np.float32)}
    if name == "attn_pool.latent":
        arrays["norm_pre.weight"] = np.zeros(48, np.float32)
    with pytest.raises(UserError, match=REFUSED[name]):
        pretrained.load(saved(tmp_path, arrays), heads=3)


def test_norms_without_biases_are_refused_with_the_reason(tmp_path):
    arrays = {name: x for name, x in arrays_of("timm_token").items() if not name.endswith("norm1.bias")}
    with pytest.raises(UserError, match="RMSNorm"):
        pretrained.load(saved(tmp_path, arrays), heads=3)


@pytest.mark.parametrize("depth", [0, 10**8])
def test_stacked_blocks_that_can_not_be_are_refused(depth, tmp_path):
    path = tmp_path / "stacked.npz"
    np.savez(path, **{"Transformer/encoderblock/LayerNorm_0/scale": np.zeros((depth, 0), np.float32)})
    with pytest.raises(UserError, match="are of none of the projects that are known"):
        pretrained.load(path)


def test_blocks_of_different_depth_are_refused(tmp_path):
    names = {"LayerNorm_0/scale": (2, 4), "LayerNorm_0/bias": (3, 4)}
    arrays = {f"Transformer/encoderblock/{name}": numbers(name, shape) for name, shape in names.items()}
    with pytest.raises(UserError, match="are of none of the projects"):
        pretrained.load(saved(tmp_path, arrays))


@pytest.mark.slow
def test_names_of_architectures_say_what_timm_makes_of_them():
    if any(importlib.util.find_spec(name) is None for name in ("torch", "timm")):
        pytest.skip("timm or PyTorch isn't installed")
    import timm
    import torch
    from timm.models.vision_transformer import Block, VisionTransformer

    kinds = {"QuickGELU": "quick_gelu", "SiLU": "silu", "GELUTanh": "gelu_tanh", "GELU": "gelu"}
    hybrids = ["*_r*_s*", "*resnet*", "*_mci_*"]
    names = timm.list_models(["vit_*", "deit*", "flexivit_*"], exclude_filters=hybrids)
    seen = 0
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        block = model.blocks[0] if hasattr(model, "blocks") else None
        if type(block) is Block and isinstance(model, VisionTransformer):
            act, epsilon = kinds[type(block.mlp.act).__name__], by_name(EPSILONS, name)
            assert (by_name(NAMED_ACTIVATIONS, name), epsilon) == (act, block.norm1.eps), name
        elif "dinov3" not in name and "lingbot" not in name:
            continue
        assert by_name(HEADS, name) == block.attn.num_heads, name
        seen += 1
    assert seen > 150


@pytest.mark.slow
def test_models_of_timms_are_known_or_refused_by_their_names_and_arrays(tmp_path):
    """Of all its models whose arrays are named alike, but for plain ViTs, those of DINO, EVA and hybrids are read."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "timm")):
        pytest.skip("timm or PyTorch isn't installed")
    import timm
    import torch
    from timm.models.vision_transformer import Block, VisionTransformer

    taken = set()
    for name in timm.list_models(["vit_*", "eva*", "beit*", "cait*", "samvit*", "naflex*", "xcit*"]):
        with torch.device("meta"):
            try:
                model = timm.create_model(name, depth=1)
            except (AssertionError, TypeError):  # another kind of model
                continue
        is_plain = type(model) is VisionTransformer and type(model.blocks[0]) is Block
        if is_plain and "dinov2" not in name and not hasattr(model.patch_embed, "backbone"):
            continue  # those that are known
        shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
        size = model.pretrained_cfg["input_size"][1:]
        config = {"architecture": name, "pretrained_cfg": {"input_size": [3, *size]}}
        weights = Weights(tmp_path / name, shapes, lambda key: None, config)
        try:
            described = _described(weights, {"num_classes": 0}, {"num_classes": 0})
            fitting(models.create(described.model), described)
        except UserError:
            continue
        taken.add(name)
    known = ("dinov2", "dinov3", "lingbot", "eva_giant", "_r26_s32", "_r50_s", "_r_s16")
    eva02 = {name for name in taken if name.startswith("eva02_")}
    assert eva02 and not any("_clip_" in name for name in eva02)
    assert len(taken) > 30 and all(any(kind in name for kind in known) for name in taken - eva02), taken
