"""What version 0.2.0 wrote is still read: its exports give the logits that they gave. Its run: tests/promises, P12."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.data.augment import preprocess
from vit_jax.evaluation.predict import Predictor
from vit_jax.runs import trained

RELEASE = Path(__file__).parents[1] / "golden" / "0.2.0"
EXPORTS = RELEASE / "exports"


@pytest.fixture(scope="module")
def expected():
    """uint8 images (6, H, W, 3), and the logits (6, C) that the run's averaged parameters gave."""
    with np.load(EXPORTS / "logits.npz") as file:
        return file["images"], file["logits"]


@pytest.mark.parametrize("format", ["safetensors", "huggingface", "timm"])
def test_its_weights_are_loaded(format, expected):
    images, logits = expected
    given = {} if format == "safetensors" else {"heads": 2, "norm_eps": 1e-6, "activation": "gelu"}
    module, params = vit_jax.load(str(EXPORTS / format), **given)
    augment = trained.load(str(RELEASE)).config.augment
    found, _ = module.apply({"params": params}, preprocess(images, augment, images.shape[1:3]))
    np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="earlier versions of JAX need not read what 0.12 wrote")
def test_its_program_runs(expected, monkeypatch):
    images, logits = expected
    monkeypatch.chdir(EXPORTS / "jax")
    scope = {"images": images}
    exec("\n".join(json.loads(Path("model.json").read_text())["usage"]), scope)
    np.testing.assert_allclose(scope["logits"], logits, atol=1e-5)


def test_its_run_predicts(expected):
    images, logits = expected
    found = Predictor(str(RELEASE))(images)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, probabilities, atol=1e-5)
