"""Weights of every family give what the library that they are of computes."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from families import CASES, RECORDED, images, measured, numbers, written

from vit_jax import pretrained

FAMILIES = json.loads(RECORDED.read_text())
TOLERANCE = 2e-5
SOONER = ("big_vision: image tower, stacked", "timm: distilled", "torchvision: VisionTransformer", "transformers: clip")


def compare(name, path, case, record_property, how):
    """Of each size of images that was measured."""
    for size, expected in case["outputs"].items():
        height, width = map(int, size.split("x"))
        module, params = pretrained.load(path, **{**case["told"], "image_size": (height, width)})
        x = images((height, width))
        found = jax.jit(lambda p, x, module=module: module.apply({"params": p}, x)[0])(params, x)
        difference = np.abs(np.asarray(found) - np.array(expected, np.float32)).max()
        print(f"{name} | {case['made_by']}, {how} | {size} | {difference:.1e}")  # RECORDS.md's parity table
        assert difference < TOLERANCE
    record_property("weights compared", f"{case['made_by']}, {how}")


@pytest.mark.parametrize(
    "name", [name if name in SOONER else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_features_are_those_that_were_recorded(name, tmp_path, record_property):
    case = FAMILIES[name]
    if "/" in next(iter(case["arrays"])):  # of Flax
        path = tmp_path / "weights.npz"
        np.savez(path, **{name: numbers(name, tuple(shape)) for name, shape in case["arrays"].items()})
    else:
        path = written(tmp_path, case["arrays"], case["config"])
    compare(name, path, case, record_property, "as recorded")


@pytest.mark.slow
@pytest.mark.parametrize("library", CASES)
def test_features_are_the_librarys_own(library, tmp_path, record_property):
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} or PyTorch isn't installed: its models are compared as recorded alone")
    cases = CASES[library]()
    assert {f"{library}: {name}" for name in cases} == {name for name in FAMILIES if name.startswith(library)}
    for name, case in cases.items():
        (folder := tmp_path / name).mkdir()
        found = measured(case, folder)
        path = folder if found["config"] else folder / "model.safetensors"
        compare(f"{library}: {name}", path, found, record_property, "itself")
        for size, expected in FAMILIES[f"{library}: {name}"]["outputs"].items():
            np.testing.assert_allclose(found["outputs"][size], expected, atol=TOLERANCE)
