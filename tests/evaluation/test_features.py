"""Features of one's own pictures: what the model gives for them, whatever happened on the way."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax import pretrained
from vit_jax.cli import extractors
from vit_jax.evaluation import features
from vit_jax.main import main

WEIGHTS = Path(__file__).parents[1] / "fixtures/pretrained/hf_vit"  # of 32 pixels, stretched, in [-1, 1]
COUNT = 5


@pytest.fixture
def pictures(tmp_path):
    (folder := tmp_path / "pictures").mkdir()
    for i in range(COUNT):
        pixels = np.random.RandomState(i).randint(256, size=(32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def extracted(pictures, *more):
    output = pictures.parent / "features.npz"
    code = main(["vit-jax", "features", f"--weights={WEIGHTS}", f"--images={pictures}", f"--output={output}", *more])
    return code, dict(np.load(output)) if output.exists() else None


def other_weights(*args, **told):
    module, params = pretrained.load(*args, **told)
    return module, jax.tree.map(lambda x: x * 1.01, params)


def test_they_are_the_models(pictures, monkeypatch, capsys):
    code, found = extracted(pictures, "--tokens")
    assert code == 0 and f"features of {COUNT} pictures by {WEIGHTS}" in capsys.readouterr().out
    assert [Path(path).name for path in found["paths"]] == [f"{i}.png" for i in range(COUNT)]
    module, params = pretrained.load(WEIGHTS, num_classes=0)
    images = np.stack([np.asarray(Image.open(path)) for path in found["paths"]]) / np.float32(127.5) - 1
    expected, aux = jax.jit(lambda p, x: module.apply({"params": p}, x))(params, images)
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    np.testing.assert_allclose(found["tokens"], aux["encoded"], atol=1e-5)
    np.testing.assert_allclose(found["class_token"], aux["encoded"][:, 0], atol=1e-5)
    np.testing.assert_allclose(found["mean"], aux["encoded"][:, 1:].mean(axis=1), atol=1e-5)
    # Stopped before the last batch it goes on there.
    code, _ = extracted(pictures)
    assert code == 2 and "this file is there already" in capsys.readouterr().err
    (pictures.parent / "features.npz").unlink()
    monkeypatch.setattr(features, "_BATCH", 1)
    monkeypatch.setattr(features, "_CALLS", 2)
    save = features._save

    def interrupted(path, **arrays):
        if path.name.startswith("000000004"):
            raise KeyboardInterrupt
        save(path, **arrays)

    monkeypatch.setattr(features, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extracted(pictures)
    monkeypatch.setattr(features, "_save", save)
    # Of other weights nothing is taken.
    kept = pictures.parent / ".features.npz.parts"
    parts = {part.name: part.read_bytes() for part in kept.iterdir()}
    assert set(parts) == {"of", "000000000.npz", "000000002.npz"}
    with monkeypatch.context() as changed:
        changed.setattr(extractors, "load", other_weights)
        assert extracted(pictures)[0] == 0 and "are there from before" not in capsys.readouterr().out
    (pictures.parent / "features.npz").unlink()
    kept.mkdir()
    for name, content in parts.items():
        (kept / name).write_bytes(content)
    code, again = extracted(pictures)
    assert code == 0 and "are there from before; going on" in capsys.readouterr().out
    for name in ("paths", "features", "class_token", "mean"):
        np.testing.assert_array_equal(again[name], found[name])
    assert not list(pictures.parent.glob(".*.parts"))


def test_pictures_that_cannot_be_read_are_named_and_left_out(pictures, capsys):
    (pictures / "2.png").write_bytes(b"no picture")
    code, found = extracted(pictures)
    assert code == 2 and len(found["paths"]) == len(found["features"]) == COUNT - 1
    assert "1 of 5 pictures can't be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--output=features.txt",), "features are written as .npz"),
        (("--output=nowhere/features.npz",), "there is no folder"),
        (("--workdir=run",), "run"),
        (("--checkpoint=best",), "--checkpoint needs --workdir"),
    ],
)
def test_mistakes_get_one_message(args, message, pictures, capsys):
    code, _ = extracted(pictures, *args)
    error = capsys.readouterr().err
    assert code == 2 and message in error and len(error.splitlines()) == 1
