"""Weights and configs that don't fit, or make no sense, are one message; nothing in them runs."""

import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_pretrained import FOLDER, arrays_of, saved

from vit_jax import pretrained
from vit_jax.errors import UserError


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
