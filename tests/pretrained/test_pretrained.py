"""Weights of other projects give their logits; what doesn't fit is told at once (fixtures: made by those projects)."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vit_jax import pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained import positions

FOLDER = Path(__file__).parents[1] / "fixtures/pretrained"
LOGITS = np.load(FOLDER / "logits.npz")
TOLERANCE = 2e-5

# What a state dict of timm's doesn't tell.
TOLD = {
    **{f"timm_{name}": {"heads": 3} for name in ("token", "avg_fcnorm", "avg_nofcnorm", "reg2_token", "layerscale")},
    "timm_map_pool": {"heads": 3, "activation": "gelu_tanh"},
}
FILES = sorted(path.stem for path in FOLDER.glob("[gt]*.npz"))


def apply(module, params, x):
    """Logits and aux, compiled as a whole."""
    return jax.jit(lambda p, x: module.apply({"params": p}, x))(params, x)


def logits_of(path, x, **overrides):
    return np.asarray(apply(*pretrained.load(path, **overrides), x)[0])


def arrays_of(name):
    return dict(np.load(FOLDER / f"{name}.npz"))


def saved(tmp_path, arrays, name="weights.npz"):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def to_linen(arrays):
    """Released names and shapes of google-research/vision_transformer -> those of Flax linen."""
    renamed = {}
    for name, x in arrays.items():
        for old, new in (
            ("Attention_1/", "Attention_0/"),
            ("LayerNorm_2/", "LayerNorm_1/"),
            ("MlpBlock_3/", "MlpBlock_0/"),
        ):
            name = name.replace(old, new)
        renamed[name] = x.reshape(-1) if "gn" in name else x
    return renamed


@pytest.mark.parametrize("name", [*FILES, "hf_vit"])
def test_logits_are_the_sources(name):
    path = FOLDER / name if name == "hf_vit" else FOLDER / f"{name}.npz"
    difference = np.abs(logits_of(path, LOGITS["x"], **TOLD.get(name, {})) - LOGITS[name]).max()
    print(f"{name}: {difference:.1e}")  # RECORDS.md's parity table
    assert difference < TOLERANCE


@pytest.mark.parametrize("name", ["google_vit_token", "google_hybrid_stemonly"])
def test_both_namings_of_google_give_the_same(name, tmp_path):
    path = saved(tmp_path, to_linen(arrays_of(name)))
    np.testing.assert_allclose(logits_of(path, LOGITS["x"]), LOGITS[name], atol=TOLERANCE)


def test_the_epsilon_of_group_norms_is_the_sources():
    """Where the images are nearly black, it decides."""
    out = logits_of(FOLDER / "google_hybrid_stemonly.npz", LOGITS["x"] * np.float32(0.001))
    np.testing.assert_allclose(out, LOGITS["google_hybrid_stemonly_tiny"], atol=TOLERANCE)


def test_state_dicts_as_safetensors_and_in_half_precision(tmp_path):
    arrays = arrays_of("timm_token")
    save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, tmp_path / "weights.safetensors")
    out = logits_of(tmp_path / "weights.safetensors", LOGITS["x"], heads=3)
    np.testing.assert_allclose(out, LOGITS["timm_token"], atol=TOLERANCE)
    save_file({name: x.astype(np.float16) for name, x in arrays.items()}, tmp_path / "half.safetensors")
    _, params = pretrained.load(tmp_path / "half.safetensors", heads=3)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))


def test_a_folder_with_timms_config_needs_nothing_by_hand(tmp_path):
    arrays = {name: np.ascontiguousarray(x) for name, x in arrays_of("timm_map_pool").items()}
    save_file(arrays, tmp_path / "model.safetensors")
    args = {"num_heads": 3, "act_layer": "gelu_tanh", "global_pool": "map", "class_token": False, "img_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224", "model_args": args}))
    np.testing.assert_allclose(logits_of(tmp_path, LOGITS["x"]), LOGITS["timm_map_pool"], atol=TOLERANCE)


def zeroed(arrays, pattern):
    return {name: np.zeros_like(x) if re.search(pattern, name) else x for name, x in arrays.items()}


@pytest.mark.parametrize(
    ("name", "pattern", "told"),
    [("timm_token", r"qkv\.bias", {"heads": 3}), ("hf_vit", r"(query|key|value)\.bias", {})],
)
def test_weights_without_biases_of_queries_keys_and_values_are_such_a_model(name, pattern, told, tmp_path):
    whole = load_file(FOLDER / "hf_vit/model.safetensors") if name == "hf_vit" else arrays_of(name)
    paths = {}
    for kind, arrays in {
        "bare": {name: x for name, x in whole.items() if not re.search(pattern, name)},
        "zeros": zeroed(whole, pattern),
    }.items():
        paths[kind] = tmp_path / kind
        paths[kind].mkdir()
        save_file(arrays, paths[kind] / "model.safetensors")
        if name == "hf_vit":
            shutil.copy(FOLDER / "hf_vit/config.json", paths[kind])
    module, params = pretrained.load(paths["bare"], **told)
    assert not module.cfg.qkv_bias and set(params["block_00"]["attention"]["qkv"]) == {"kernel"}
    zeros, with_zeros = pretrained.load(paths["zeros"], **told)
    assert zeros.cfg.qkv_bias
    np.testing.assert_array_equal(*(apply(*of, LOGITS["x"])[0] for of in ((module, params), (zeros, with_zeros))))
    # Such a model with biases begins with zeros; one without has no place for those of a file.
    _, filled = pretrained.load(paths["bare"], **told, qkv_bias=True)
    jax.tree.map(np.testing.assert_array_equal, filled, with_zeros)
    with pytest.raises(UserError, match=rf"{pattern}: .* in the file, nothing in the model"):
        pretrained.load(paths["zeros"], **told, qkv_bias=False)


def test_hugging_face_names_of_version_5_and_shards(tmp_path):
    arrays = load_file(FOLDER / "hf_vit/model.safetensors")
    renamed = {}
    for name, x in arrays.items():
        for old, new in (
            ("vit.encoder.layer.", "vit.layers."),
            (".attention.attention.query", ".attention.q_proj"),
            (".attention.attention.key", ".attention.k_proj"),
            (".attention.attention.value", ".attention.v_proj"),
            (".attention.output.dense", ".attention.o_proj"),
            (".intermediate.dense", ".mlp.fc1"),
            (".output.dense", ".mlp.fc2"),
        ):
            name = name.replace(old, new)
        renamed[name] = x
    shutil.copy(FOLDER / "hf_vit/config.json", tmp_path)
    names = sorted(renamed)
    parts = {"one.safetensors": names[:20], "two.safetensors": names[20:]}
    for file, part in parts.items():
        save_file({name: renamed[name] for name in part}, tmp_path / file)
    places = {name: file for file, part in parts.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    np.testing.assert_allclose(logits_of(tmp_path, LOGITS["x"]), LOGITS["hf_vit"], atol=TOLERANCE)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(UserError, match="weight_map"):
        pretrained.load(tmp_path)


def test_larger_images_get_googles_positions(capsys):
    module, params = pretrained.load(FOLDER / "google_vit_token.npz", image_size=48)
    assert "8 x 8 patches are resized to 12 x 12" in capsys.readouterr().out
    params["head"]["logits"] = {"kernel": LOGITS["head_48_kernel"], "bias": LOGITS["head_48_bias"]}
    out = apply(module, params, LOGITS["x_48"])[0]
    np.testing.assert_allclose(out, LOGITS["google_vit_token_48"], atol=TOLERANCE)


def test_googles_rule_for_smaller_and_larger_grids():
    tables = np.load(FOLDER / "posemb_interp.npz")
    grid = tables["cls_8x8_before"][0, 1:].reshape(8, 8, -1)
    for side in (6, 12):
        found = positions.bilinear_aligned(grid, (side, side)).reshape(side * side, -1)
        np.testing.assert_allclose(found, tables[f"cls_{side}x{side}_after"][0, 1:], atol=1e-6)


def test_positions_for_images_that_are_not_square_leave_the_class_token_alone():
    _, square = pretrained.load(FOLDER / "google_vit_token.npz")
    module, params = pretrained.load(FOLDER / "google_vit_token.npz", image_size=(32, 64))
    np.testing.assert_array_equal(params["prefix"], square["prefix"])
    table = params["posemb"].reshape(8, 16, -1)
    # Corners stay where they are, and down the rows nothing changes.
    np.testing.assert_allclose(table[:, [0, -1]], square["posemb"].reshape(8, 8, -1)[:, [0, -1]], atol=1e-6)
    assert apply(module, params, np.zeros((2, 32, 64, 3), np.float32))[0].shape == (2, 10)


def test_bicubic_rules_are_pytorchs():
    """Rows of torch.nn.functional.interpolate(mode="bicubic") for a step, by Keys' formula with a = -0.75 and -0.5."""
    step = np.array([0, 0, 1, 1], np.float32)[:, None, None] * np.ones((1, 2, 1), np.float32)
    plain = positions.bicubic(step, (6, 2))[:, 0, 0]
    np.testing.assert_allclose(plain, [0, -0.09375, 31 / 216, 185 / 216, 1.09375, 1], atol=1e-6)
    smooth = positions.bicubic_antialiased(step, (6, 2))[:, 0, 0]
    # Taps that fall outside are left out and the others scaled up.
    np.testing.assert_allclose(smooth, [0, -1 / 17, 13 / 108, 95 / 108, 18 / 17, 1], atol=1e-6)
    np.testing.assert_allclose(smooth + smooth[::-1], 1, atol=1e-6)


def test_another_class_count_puts_in_a_new_head_and_says_so(capsys):
    module, params = pretrained.load(FOLDER / "google_vit_token.npz", num_classes=7)
    assert "head of 10 classes is replaced by a new one of 7" in capsys.readouterr().out
    assert params["head"]["logits"]["kernel"].shape == (48, 7) and not params["head"]["logits"]["kernel"].any()
    assert module.cfg.num_classes == 7


def test_the_representation_layer_is_read_or_left_out(tmp_path, capsys):
    arrays = arrays_of("google_vit_token")
    rng = np.random.RandomState(0)
    arrays["pre_logits/kernel"] = rng.normal(0, 0.2, (48, 48)).astype(np.float32)
    arrays["pre_logits/bias"] = rng.normal(0, 0.2, 48).astype(np.float32)
    path = saved(tmp_path, arrays)
    module, params = pretrained.load(path)
    logits, aux = apply(module, params, LOGITS["x"])
    expected = np.tanh(aux["pooled"] @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"])
    np.testing.assert_allclose(logits, expected @ arrays["head/kernel"] + arrays["head/bias"], atol=TOLERANCE)
    # As for fine-tuning: the head that followed on it goes, too.
    _, params = pretrained.load(path, representation_dim=None)
    assert "representation" not in params["head"] and not params["head"]["logits"]["kernel"].any()
    assert "is replaced" in capsys.readouterr().out
