"""Weights written for other libraries are loaded by them and give our logits."""

import dataclasses
import importlib.util
import json
from importlib import metadata

import jax
import numpy as np
import pytest
from PIL import Image
from pretrained.families import RECORDED, written

from vit_jax import pretrained
from vit_jax.config import AugmentConfig, Config, DataConfig, ModelConfig
from vit_jax.data.encoded import seen
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.export import formats, weights
from vit_jax.export.weights import write_weights
from vit_jax.models import create
from vit_jax.models.stems import image_shape
from vit_jax.runs.trained import Trained
from vit_jax.steps import state as states

BASE = ModelConfig(num_classes=5, image_size=16, patch_size=4, width=24, depth=2, heads=3, mlp_dim=40, dtype="float32")

OURS = "vit_jax's own reader"
FAMILIES = json.loads(RECORDED.read_text())
# Those whose models are others' here, which go round: left out for the time that compiling takes.
ALIKE = (
    *("big_vision", "timm: CLIP, ", "timm: distilled, ", "timm: SigLIP, ", "timm: SwiGLU", "transformers: clip"),
    *("transformers: siglip_", "transformers: siglip2", "transformers: vit_", "transformers: dinov3_vit, "),
)
# Families for whose classifiers the other project has no place, by what it lacks first.
LACKING = {
    "huggingface": {
        "posemb=rope2d_dinov3": ("timm: DINOv3", "timm: DINOv3, SwiGLU", "timm: DINOv3, biases",
                                 "transformers: dinov3_vit", "transformers: dinov3_vit, SwiGLU"),
        "embed_norm=True": ("timm: CLIP", "timm: CLIP, alone", "timm: CLIP, quick GELU", "transformers: clip",
                            "transformers: clip_vision_model", "transformers: clip_vision_model, projected"),
        "pool=map": ("timm: SigLIP", "timm: SigLIP, tanh", "transformers: siglip", "transformers: siglip2",
                     "transformers: siglip_vision_model", "transformers: siglip2_vision_model"),
        "layer_scale": ("timm: DeiT III", "transformers: dinov2, SwiGLU"),
        "gated_mlp=True": ("timm: SwiGLU",),
        "stem.kind=resnet": ("timm: hybrid, R10", "timm: hybrid, root"),
        "posemb=learned_rope2d": ("timm: EVA-02", "timm: EVA-02, norms in MLPs"),
        "registers=": ("timm: SwiGLU, packed", "timm: mean with a class token", "timm: EVA"),
    },
    "timm": {
        "stem.kind=resnet": ("timm: hybrid, R10", "timm: hybrid, root"),
        "norm_eps=1e-12": ("transformers: vit", "transformers: vit_mae", "transformers: deit",
                           "transformers: deit, two classifiers"),
        "pool=token_mean": ("transformers: dinov2", "transformers: dinov2_with_registers"),
    },
}  # fmt: skip


def trained(**keys):
    """A model with random parameters, none of them 0 or 1."""
    module = create(dataclasses.replace(BASE, **keys))
    leaves, tree = jax.tree.flatten(states.abstract_params(module))
    rng = np.random.RandomState(0)
    params = tree.unflatten([rng.normal(0.1, 0.3, x.shape).astype(np.float32) for x in leaves])
    channels = module.cfg.channels
    augment = AugmentConfig(mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.3, 0.4)[:channels])
    config = Config(data=DataConfig(interpolation="bicubic"), model=module.cfg, augment=augment)
    return Trained(None, config, module, params, tuple("abcde"), (16, 16), 7, 0.875)


def check_round_trip(format, folder, **keys):
    model = trained(**keys)
    said = write_weights(model, format, folder)
    assert said["largest_difference"] < 1e-5
    size = [16, keys["image_width"]] if "image_width" in keys else 16
    mean, std = ([0.5], [0.2]) if keys.get("channels") == 1 else ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    seen = {"crop_pct": 0.875, "interpolation": "bilinear" if "image_width" in keys else "bicubic"}
    assert said["preprocessing"] == {"image_size": size, "mean": mean, "std": std, **seen}
    return model, said


@pytest.mark.slow
def test_our_own_come_back_bit_for_bit_and_describe_themselves(tmp_path):
    keys = {"pool": "map", "posemb": "rope2d", "qk_norm": True, "head_dim": 8, "registers": 2, "head_mlp": (12,)}
    model, _ = check_round_trip("safetensors", tmp_path, **keys)
    module, params = pretrained.load(tmp_path)
    assert module.cfg == model.module.cfg
    jax.tree.map(np.testing.assert_array_equal, params, model.params)
    features, without = pretrained.load(tmp_path, num_classes=0)
    assert features.cfg.num_classes == 0 and params["head"].keys() - without["head"].keys() == {"logits"}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["huggingface", "timm"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith(ALIKE)])
def test_families_go_round_bit_for_bit(name, format, tmp_path):
    """With a classifier of random numbers where they have none."""
    case = FAMILIES[name]
    told = {**case["told"], "dtype": "float32", "num_classes": 5, "image_size": int(next(iter(case["outputs"]))[:2])}
    (came := tmp_path / "came").mkdir()
    module, params = pretrained.load(written(came, case["arrays"], case["config"]), **told)
    head = params["head"]["logits"]
    head["kernel"] = np.random.RandomState(1).normal(size=head["kernel"].shape).astype(np.float32)
    model = dataclasses.replace(trained(), module=module, params=params)
    (gone := tmp_path / "gone").mkdir()
    if lacks := next((what for what, names in LACKING[format].items() if name in names), None):
        with pytest.raises(UserError, match=f"{format} has no model with {lacks}"):
            write_weights(model, format, gone)
        return
    said = write_weights(model, format, gone)
    again, returned = pretrained.load(gone, dtype="float32")
    if module.cfg.posemb == "none" and format == "huggingface":  # whose models all have positions
        assert not returned.pop("posemb").any() and again.cfg.posemb == "learned"
    else:
        assert again.cfg == module.cfg
    jax.tree.map(np.testing.assert_array_equal, returned, params)
    print(f"{name} | {format} | {' and '.join(said['loaded_by'])}")


GREY_AND_WIDE = {"pool": "token", "channels": 1, "image_width": 24}
DISTILLED = {"pool": "token", "distill_token": True}
DINOV3 = {
    **{"pool": "token", "posemb": "rope2d_dinov3", "norm_eps": 1e-5, "registers": 2, "layer_scale": 0.1},
    **{"width": 24, "heads": 3},
}
TIMM = [
    GREY_AND_WIDE,
    {"pool": "token", "registers": 2, "layer_scale": 0.1, "qk_norm": True},
    {"pool": "map", "qkv_bias": False},
    {"pool": "mean", "norm_after_pool": True, "activation": "gelu_tanh"},
    {"pool": "map", "posemb": "sincos2d"},
    {"pool": "mean", "registers": 1, "posemb": "none"},
    DISTILLED | {"posemb": "none"},
    {"pool": "token", "embed_norm": True, "norm_eps": 1e-5, "activation": "gelu_quick"},
    {"pool": "mean", "gated_mlp": True, "activation": "silu", "registers": 2, "mlp_dim": 20},
    DINOV3,
    DINOV3 | {"pool": "mean", "gated_mlp": True, "activation": "silu", "qkv_bias": False},
]
HUGGING_FACE = [
    GREY_AND_WIDE,
    {"pool": "token", "norm_eps": 1e-5, "activation": "gelu_tanh", "qkv_bias": False},
    {"pool": "token", "posemb": "sincos2d", "activation": "relu_squared"},
    DISTILLED,
    {"pool": "token_mean", "layer_scale": 0.1, "mlp_dim": 48},
    {"pool": "token_mean", "layer_scale": 0.1, "gated_mlp": True, "activation": "silu", "registers": 2, "mlp_dim": 48},
    {"pool": "mean", "activation": "gelu_tanh"},
]


@pytest.mark.slow
@pytest.mark.parametrize("keys", TIMM)
def test_names_of_timm_are_read_back(keys, tmp_path):
    model, said = check_round_trip("timm", tmp_path, **keys)
    content = json.loads((tmp_path / "config.json").read_text())
    seen = content["pretrained_cfg"]
    height, width, channels = image_shape(model.module.cfg)
    assert content["model_args"]["qkv_bias"] == model.module.cfg.qkv_bias
    assert seen["mean"] == said["preprocessing"]["mean"] and seen["input_size"] == [channels, height, width]
    assert all(seen[key] == said["preprocessing"][key] for key in ("crop_pct", "interpolation"))


@pytest.mark.parametrize("keys", HUGGING_FACE)
def test_names_of_hugging_face_are_read_back(keys, tmp_path):
    model, said = check_round_trip("huggingface", tmp_path, **keys)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["id2label"]["4"] == "e" and content.get("qkv_bias", True) == model.module.cfg.qkv_bias
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    height, width, _ = image_shape(model.module.cfg)
    assert processor["image_mean"] == said["preprocessing"]["mean"]
    assert processor["crop_size"] == {"height": height, "width": width}
    assert processor["size"] == ({"shortest_edge": 18} if height == width else {"height": 18, "width": 27})
    assert processor["resample"] == {"bilinear": 2, "bicubic": 3}[said["preprocessing"]["interpolation"]]


@pytest.mark.parametrize("keys", TIMM)
def test_timm_loads_them(keys, tmp_path):
    pytest.importorskip("timm")
    _, said = check_round_trip("timm", tmp_path, **keys)
    assert said["loaded_by"] == [OURS, f"timm {metadata.version('timm')}"]


@pytest.mark.parametrize("keys", HUGGING_FACE)
def test_transformers_loads_them(keys, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    _, said = check_round_trip("huggingface", tmp_path, **keys)
    assert said["loaded_by"] == [OURS, f"transformers {metadata.version('transformers')}"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (50, 40), (37, 92), (312, 200)])  # the middle is of an even rest
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_transformers_sees_images_as_an_evaluation_does(backend, size, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("torchvision")
    model, _ = check_round_trip("huggingface", tmp_path, pool="token")
    small = np.random.RandomState(0).randint(256, size=(8, 8, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
    expected = seen(image, View((16, 16), 3, model.crop_pct, model.config.data.interpolation))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    found = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    found = 255 * (found * model.config.augment.std + model.config.augment.mean)
    assert np.abs(found - expected).max() < 1.01


@pytest.mark.parametrize(
    ("format", "keys", "named"),
    [
        ("huggingface", {"pool": "map"}, "pool=map"),
        ("huggingface", {"pool": "token_mean", "embed_norm": True}, "embed_norm=True, layer_scale=None, mlp_dim=40"),
        ("huggingface", {"pool": "mean", "image_width": 24, "registers": 1}, "registers=1, images of 16 x 24"),
        (
            "huggingface",
            {"pool": "token_mean", "layer_scale": 0.1, "mlp_dim": 48, "image_width": 24},
            "images of 16 x 24",
        ),
        ("timm", DISTILLED | {"registers": 1}, "registers=1 beside a distillation token"),
        ("timm", {"posemb": "rope2d_dinov3"}, "norm_eps=1e-06, registers=0, layer_scale=None"),
        ("huggingface", {"pool": "token", "registers": 2, "qk_norm": True}, "registers=2, qk_norm=True"),
        ("timm", {"pool": "sequence", "activation": "relu_squared"}, "pool=sequence, activation=relu_squared"),
        ("timm", {"posemb": "rope2d", "head_mlp": (8,)}, r"head_mlp=\(8,\), posemb=rope2d"),
    ],
)
def test_what_the_other_project_can_not_express_is_named_and_nothing_is_written(format, keys, named, tmp_path):
    with pytest.raises(UserError, match=f"{format} has no model with {named}; .* as --format=safetensors"):
        write_weights(trained(**keys), format, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "keys", "missing", "named"),
    [
        ("huggingface", {"pool": "map"}, ("onnxruntime", "tensorflow"), "safetensors, timm or jax"),
        ("timm", {"posemb": "rope2d"}, ("onnxruntime", "tensorflow"), "safetensors or jax"),
        (
            "timm",
            {"pool": "token", "norm_eps": 1e-7},
            ("onnx", "flatbuffers"),
            "safetensors, huggingface or savedmodel",
        ),
        ("onnx", {"pool": "token"}, (), "safetensors, huggingface, timm, jax or savedmodel"),
    ],
)
def test_a_format_that_refuses_names_those_that_can_be_written(format, keys, missing, named, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else name)
    assert formats.instead(format, create(dataclasses.replace(BASE, **keys)).cfg) == f"--format={named}"


def test_who_loads_the_weights_is_said_by_name_and_version(tmp_path, monkeypatch):
    model = trained(pool="token", norm_eps=1e-6)
    assert write_weights(model, "safetensors", tmp_path)["loaded_by"] == [OURS]
    # Where the library isn't installed, it has loaded nothing.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert write_weights(model, "timm", tmp_path)["loaded_by"] == [OURS]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(metadata, "version", lambda name: "9.8")
    *how, _ = weights._PROJECTS["timm"]
    monkeypatch.setitem(weights._PROJECTS, "timm", (*how, weights._by_us))
    assert write_weights(model, "timm", tmp_path)["loaded_by"] == [OURS, "timm 9.8"]
