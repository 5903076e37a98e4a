"""Weights of other projects give their logits; what doesn't fit is told at once (fixtures: made by those projects)."""

import io
import json
import pickle
import shutil
import zipfile
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


def test_a_missing_block_and_wrong_shapes_are_told_at_once_with_both_sides(tmp_path):
    arrays = {k: v for k, v in arrays_of("google_vit_token").items() if "encoderblock_0/" not in k}
    arrays["embedding/bias"] = np.zeros(47, np.float32)
    arrays["stray"] = np.zeros((2, 2), np.float32)
    path = saved(tmp_path, arrays)
    with pytest.raises(UserError) as error:
        pretrained.load(path)
    text = str(error.value)
    assert "don't fit in 18 places" in text
    assert "encoderblock_0/LayerNorm_0/scale: missing in the file, (48,) in the model (block_00/norm_0/scale)" in text
    assert "embedding/bias: (47,) in the file, (48,) in the model (stem/proj/bias)" in text
    assert "stray: (2, 2) in the file, nothing in the model" in text


def test_more_blocks_than_the_file_has_are_told(tmp_path):
    with pytest.raises(UserError, match=r"blocks.2.norm1.weight: missing in the file, \(48,\) in the model"):
        pretrained.load(FOLDER / "timm_token.npz", heads=3, depth=3)


@pytest.mark.parametrize(
    ("name", "given", "asked"),
    [
        ("timm_token", {}, "heads=12"),
        ("timm_map_pool", {"heads": 3}, "activation="),
        ("google_vit_gap", {"hedas": 3}, "did you mean heads"),
    ],
)
def test_what_a_file_does_not_tell_is_asked_for_by_name(name, given, asked):
    with pytest.raises(UserError, match=asked):
        pretrained.load(FOLDER / f"{name}.npz", **given)


def test_a_model_without_classifier_asks_for_the_class_count(tmp_path):
    arrays = {k: v for k, v in arrays_of("timm_token").items() if not k.startswith("head.")}
    path = saved(tmp_path, arrays)
    with pytest.raises(UserError, match="num_classes=10"):
        pretrained.load(path, heads=3)
    module, params = pretrained.load(path, heads=3, num_classes=4)
    assert params["head"]["logits"]["bias"].shape == (4,)


def test_positions_that_may_be_of_several_grids_are_asked_for(tmp_path):
    arrays = arrays_of("timm_avg_fcnorm")
    path = FOLDER / "timm_avg_fcnorm.npz"
    with pytest.raises(UserError, match="4 x 16 after 0 or 8 x 8 after 0.*stored_image_size"):
        pretrained.load(path, heads=3, image_size=(16, 64))
    _, params = pretrained.load(path, heads=3, image_size=(16, 64), stored_image_size=(16, 64))
    np.testing.assert_array_equal(params["posemb"], arrays["pos_embed"][0])
    arrays["pos_embed"] = arrays["pos_embed"][:, :50]
    with pytest.raises(UserError, match="stored_image_size"):
        pretrained.load(saved(tmp_path, arrays), heads=3)


BAD = {
    "nan": "head/bias has 1 values that aren't finite",
    "object": "head/bias is of type object",
    "integer": "head/bias is of type int64",
    "truncated": "can't be read",
    "length": "has another length",
}


@pytest.mark.parametrize("bad", BAD)
def test_files_that_hold_no_weights_are_refused(bad, tmp_path):
    arrays, ran = arrays_of("google_vit_gap"), tmp_path / "ran"
    path = tmp_path / "bad.npz"

    class Canary:
        def __reduce__(self):
            return (ran.write_text, ("x",))

    if bad == "nan":
        arrays["head/bias"][3] = np.nan
    elif bad == "object":
        arrays["head/bias"] = np.array([Canary()], object)
    elif bad == "integer":
        arrays["head/bias"] = np.arange(10)
    np.savez(path, **arrays)
    if bad == "truncated":
        path.write_bytes(path.read_bytes()[:-3000])
    elif bad == "length":
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.zeros(4, np.float32))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("head/bias.npy", buffer.getvalue()[:-4])
    with pytest.raises(UserError, match=f"bad.npz.*{BAD[bad]}"):
        pretrained.load(path)
    assert not ran.exists()


HUGE = 10**9


@pytest.mark.parametrize(
    "config",
    [
        {"layer_norm_eps": "x"},
        {"layer_norm_eps": None},
        {"hidden_act": ["gelu"]},
        {"image_size": "32"},
        {"image_size": -32},
        {"num_hidden_layers": HUGE},
        {"num_attention_heads": "4"},
        {"num_attention_heads": 0},
        {"model_type": "deit"},
    ],
)
def test_configs_that_make_no_sense_are_one_message(config, tmp_path):
    shutil.copy(FOLDER / "hf_vit/model.safetensors", tmp_path)
    known = json.loads((FOLDER / "hf_vit/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | config))
    with pytest.raises(UserError):
        pretrained.load(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_args": []},
        {"model_args": {"num_heads": 3, "pool_include_prefix": True}},
        {"model_args": {"num_heads": 3, "act_layer": ["gelu"]}},
        {"architecture": "vit_base_patch16_rpn_224"},
        {"model_args": {"num_heads": 3, "img_size": "32"}},
    ],
)
def test_configs_of_timm_that_are_not_known_are_one_message(config, tmp_path):
    save_file({k: np.ascontiguousarray(x) for k, x in arrays_of("timm_token").items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        pretrained.load(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"blocks.999999999.norm1.weight": np.zeros(3)},
        {"pos_embed": np.zeros(48)},
        {"patch_embed.proj.weight": np.zeros((48, 3, 0, 0))},
        {"head.weight": np.zeros(())},
        {"head.bias": None},
    ],
)
def test_shapes_that_make_no_sense_are_one_message(changed, tmp_path):
    arrays = {k: x for k, x in (arrays_of("timm_token") | changed).items() if x is not None}
    with pytest.raises(UserError):
        pretrained.load(saved(tmp_path, arrays), heads=3)


@pytest.mark.parametrize(
    "overrides", [{"image_size": "32"}, {"image_size": (32,)}, {"image_size": 0}, {"stem": "resnet"}, {"heads": 5}]
)
def test_overrides_that_make_no_sense_are_one_message(overrides):
    with pytest.raises(UserError):
        pretrained.load(FOLDER / "google_vit_token.npz", **overrides)


def test_what_the_source_has_no_weights_for_is_told_with_its_shapes():
    with pytest.raises(UserError, match=r"head/norm/scale: nothing of such weights, \(48,\) in the model"):
        pretrained.load(FOLDER / "google_vit_token.npz", norm_after_pool=True)
    with pytest.raises(UserError, match=r"prefix: \(1, 48\) of such weights, \(3, 48\) in the model"):
        pretrained.load(FOLDER / "google_vit_token.npz", registers=2)


def test_a_variant_stands_for_its_sizes():
    with pytest.raises(UserError, match=r"embedding/bias: \(48,\) in the file, \(192,\) in the model"):
        pretrained.load(FOLDER / "google_vit_token.npz", variant="Ti/4")


def test_a_file_that_unpacks_to_much_more_is_refused_before_it_is(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**27,)})
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(512):
            member.write(bytes(2**20))
    with pytest.raises(UserError, match="would unpack to 512 MiB"):
        pretrained.load(path)


def test_pickles_other_files_and_unknown_names_are_refused_with_a_way_out(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match="is a pickle.*safetensors.torch.save_file"):
        pretrained.load(tmp_path / "model.pt")
    with pytest.raises(UserError, match="no weights at"):
        pretrained.load(tmp_path / "nowhere.npz")
    with pytest.raises(UserError, match="model.pt is a pickle"):
        pretrained.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no model.safetensors; found nothing"):
        pretrained.load(tmp_path / "empty")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="damaged.safetensors can't be read"):
        pretrained.load(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="none of the projects"):
        pretrained.load(saved(tmp_path, {"conv1/kernel": np.zeros(3, np.float32)}))
