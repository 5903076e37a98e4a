"""Exported programs give the model's logits without this package, at any batch size, or nothing is left of them."""

import dataclasses
import functools
import importlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import ModelConfig, StemConfig
from vit_jax.errors import RunError
from vit_jax.export import programs
from vit_jax.runs import trained
from vit_jax.steps.state import init_params
from vit_jax.steps.step import eval_step

GOLDEN = Path(__file__).parents[1] / "golden" / "0.1.0"
needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
FORMATS = [
    "jax",
    pytest.param("onnx", marks=[needs_onnx, pytest.mark.slow]),
    pytest.param("savedmodel", marks=pytest.mark.slow),
]
READERS = {"jax": "jax", "onnx": "onnxruntime", "savedmodel": "tensorflow"}

# Runs in a process that never sees this package: what model.json says, in a folder, on images of two numbers.
USER = """
import json, sys
import numpy as np

description = json.load(open("model.json"))
images = np.load("../images.npy", allow_pickle=False)
source = "\\n".join(description["usage"])
outputs = []
for count in (2, 7):
    scope = {"images": images[:count]}
    exec(source, scope)
    outputs.append(np.asarray(scope["logits"]))
assert "vit_jax" not in sys.modules and outputs[0].shape == (2, 10) and outputs[1].dtype == np.float32
np.save("../logits.npy", outputs[1])
"""


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_program_is_used_as_its_folder_says(run, command, process, tmp_path, format):
    code, printed = command("export", f"--workdir={run}", f"--format={format}", f"--output={tmp_path / 'out'}")
    assert code == 0 and "differ by up to" in printed and str(tmp_path / "out") in printed
    here = str(Path(__file__).parents[2]).encode()
    assert not any(here in file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["loaded_by"] == [f"{READERS[format]} {importlib.import_module(READERS[format]).__version__}"]
    assert f"loaded again by {description['loaded_by'][0]}, its logits" in printed
    assert description["classes"] == [f"class {i}" for i in range(10)] and description["checkpoint"] == 20
    assert description["input"] == {"name": "images", "shape": ["batch", 16, 16, 3], "dtype": "uint8"}
    assert 0 <= description["largest_difference"] <= 1e-4 * description["largest_logit"]

    images = np.random.RandomState(1).randint(256, size=(7, 16, 16, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    child = process(code=f"import os; os.chdir({str(tmp_path / 'out')!r})\n{USER}")
    assert child.wait() == 0, child.stdout.read()
    model = trained.load(str(run))
    expected = eval_step(model.params, images, module=model.module, config=model.config)
    found = np.load(tmp_path / "logits.npy", allow_pickle=False)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


BASE = {"num_classes": 5, "image_size": 24, "patch_size": 8, "width": 32, "depth": 1, "heads": 2, "mlp_dim": 48}
CONV = {"widths": (32, 32), "strides": (2, 1), "norm": "group", "activation": "relu", "residual": (False, True)}
MODELS = {
    "everything": {
        "posemb": "rope2d", "pool": "token", "registers": 2, "qk_norm": True, "layer_scale": 0.1,
        "representation_dim": 16, "activation": "gelu_tanh", "attention": "chunked", "remat": True, "dtype": "bfloat16",
    },
    "convolutions": {"stem": StemConfig(kind="conv", **CONV), "patch_size": 3, "pool": "map", "posemb": "sincos2d"},
    "compact": {
        "stem": StemConfig(kind="conv", widths=(16, 32), pool=True, project=False), "patch_size": 1, "pool": "sequence",
    },
    "whitened": {
        "stem": StemConfig(kind="conv", whiten=2, widths=(16,), pools=(2,), norm="layer"), "patch_size": 2,
        "head_mlp": (16,), "pool": "flatten", "activation": "relu_squared",
    },
    "hybrid": {"stem": StemConfig(kind="resnet", widths=(32,), units=(1, 2)), "patch_size": 1, "pool": "token"},
    "grey": {"channels": 1, "image_width": 32},
    "mixer": {"token_mlp_dim": 24, "posemb": "none", "norm_after_pool": True},
}  # fmt: skip


@functools.cache
def untrained(name):
    """A model of MODELS with parameters of a size that trained ones have, for images that are resized."""
    model = trained.load(str(GOLDEN))
    module = models.create(ModelConfig(**(BASE | MODELS[name])))
    params = jax.jit(init_params, static_argnums=0)(module, 1)
    random = np.random.RandomState(0)
    params = jax.tree.map(lambda x: x + 0.1 * random.normal(size=x.shape).astype(np.float32), params)
    classes = tuple("abcde")
    mean, std = (values[: module.cfg.channels] for values in (model.config.augment.mean, model.config.augment.std))
    config = dataclasses.replace(model.config, augment=dataclasses.replace(model.config.augment, mean=mean, std=std))
    return dataclasses.replace(model, config=config, module=module, params=params, classes=classes, image_size=(20, 20))


# A SavedModel holds the program that JAX writes; two are read by JAX, too. What TensorFlow could refuse is in these.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [("everything", "jax"), ("hybrid", "jax"), *((n, "savedmodel") for n in MODELS if n not in ("whitened", "grey"))]
    + [pytest.param(name, "onnx", marks=needs_onnx) for name in MODELS],
)
def test_models_of_every_kind(tmp_path, name, format):
    written = programs.write_program(untrained(name), format, tmp_path)
    assert written["output"]["shape"] == ["batch", 5] and written["largest_logit"] > 0.1
    assert written["largest_difference"] <= 2e-5 * written["largest_logit"]


@needs_onnx
@pytest.mark.slow
def test_large_parameters_lie_beside_the_graph(tmp_path, monkeypatch):
    """And images may be larger than the model sees them, too."""
    import onnx

    monkeypatch.setattr(programs, "_INLINE_BYTES", 1000)
    model = dataclasses.replace(untrained("mixer"), image_size=(30, 30))
    assert programs.write_program(model, "onnx", tmp_path)["largest_difference"] < 1e-4
    assert (tmp_path / "model.onnx.data").stat().st_size > 20_000
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)


@needs_onnx
def test_operations_that_onnx_has_no_rule_for_are_named(tmp_path, monkeypatch):
    model = trained.load(str(GOLDEN))
    program = programs.program_of(model.module.cfg, model.config, model.params, model.image_size)
    other = dataclasses.replace(program, logits=lambda params, images: jax.numpy.sort(program.logits(params, images)))
    monkeypatch.setattr(programs, "program_of", lambda *_: other)
    with pytest.raises(RunError, match="as onnx: NotImplementedError: the operation sort.*Take --format=safetensors"):
        programs.write_program(model, "onnx", tmp_path)


def test_a_program_for_other_platforms_is_the_same(tmp_path):
    from jax import export

    programs.write_program(trained.load(str(GOLDEN)), "jax", tmp_path)
    assert {"cpu", "cuda", "tpu"} <= set(export.deserialize((tmp_path / "model.stablehlo").read_bytes()).platforms)


def test_a_program_that_differs_is_not_left_behind(run, command, monkeypatch):
    right = programs.program_of

    def wrong(*model):
        program = right(*model)
        traced = []

        def logits(params, images):
            traced.append(images)
            return program.logits(params, images) + 1e-3 * (len(traced) == 1)

        return dataclasses.replace(program, logits=logits)

    monkeypatch.setattr(programs, "program_of", wrong)
    code, printed = command("export", f"--workdir={run}", "--format=jax")
    assert code == 1 and "gives other logits" in printed and "Traceback" not in printed
    assert list((run / "export").iterdir()) == []


def test_an_earlier_export_is_replaced_and_nothing_else(run, command, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.json").write_text('{"weights": "of years"}')
    code, printed = command("export", f"--workdir={run}", "--format=jax", f"--output={mine}")
    assert code == 2 and str(mine) in printed and "--output" in printed
    assert [entry.name for entry in mine.iterdir()] == ["model.json"]
    (mine / "model.json").unlink()
    for _ in range(2):
        code, printed = command("export", f"--workdir={run}", "--format=jax", f"--output={mine}")
        assert code == 0, printed
        assert sorted(entry.name for entry in mine.iterdir()) == ["model.json", "model.stablehlo"]
    assert not list(tmp_path.glob(".*"))
    for format, added in (("safetensors", None), ("jax", "notes.txt")):
        if added:
            (mine / added).touch()
        code, printed = command("export", f"--workdir={run}", f"--format={format}", f"--output={mine}")
        assert code == 2 and "holds other things" in printed
    assert (mine / "model.stablehlo").exists() and (mine / "notes.txt").exists()


@pytest.mark.parametrize(
    ("format", "module", "remedy"),
    [
        ("onnx", "onnx", "pip install 'vit-jax[onnx]'"),
        ("savedmodel", "tensorflow", "pip install tensorflow"),
        ("jax", "flatbuffers", "pip install flatbuffers"),
    ],
)
def test_libraries_that_are_missing_are_named_and_formats_that_do_without(
    run, command, monkeypatch, format, module, remedy
):
    for name in ("onnx", "tensorflow", module):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    code, printed = command("export", f"--workdir={run}", f"--format={format}")
    assert code == 2 and remedy in printed and module in printed and "Traceback" not in printed
    others = {
        "jax": "safetensors, huggingface or timm",
        "onnx": "safetensors, huggingface, timm or jax",
        "savedmodel": "safetensors, huggingface, timm or jax",
    }
    assert f"take --format={others[format]}, which can be written here" in printed
    assert list((run / "export").iterdir()) == []
