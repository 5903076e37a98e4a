"""Training that starts from weights, frozen or not, and few-shot evaluation of what was trained."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vit_jax import pretrained
from vit_jax.cli.flags import parse
from vit_jax.config import Config, DataConfig
from vit_jax.errors import UserError
from vit_jax.evaluation import fewshot
from vit_jax.pretrained.start import check_start, with_model
from vit_jax.runs import trained

TESTS = Path(__file__).parents[1]
FOLDER = TESTS / "fixtures/pretrained"
WEIGHTS = FOLDER / "google_vit_token.npz"
GOLDEN = TESTS / "golden/0.1.0"  # a run of 16 pixels
PROBE = ["--config=configs/linear_probe_cifar10.py", "--config.data.name=fake", "--config.log.tensorboard=false"]
PROBE += ["--config.model.image_size=16", "--config.train.batch_size=64"]
PROBE += ["--config.train.length=6 steps", "--config.checkpoint.every=3 steps", "--config.eval.every=3 steps"]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    from vit_jax.main import main

    workdir = tmp_path_factory.mktemp("probe") / "run"
    shutil.copy(WEIGHTS, workdir.parent / "weights.npz")
    command = ["vit-jax", *PROBE, f"--config.init_from={workdir.parent / 'weights.npz'}", f"--workdir={workdir}"]
    assert main(command) == 0
    return workdir, command


def test_a_linear_probe_trains_the_head_alone_on_resized_positions(probed):
    model = trained.load(str(probed[0]))
    _, expected = pretrained.load(WEIGHTS, image_size=16)
    assert model.module.cfg.activation == "gelu_tanh" and model.module.cfg.pool == "token"
    head, before = model.params.pop("head"), expected.pop("head")
    jax.tree.map(np.testing.assert_array_equal, model.params, expected)
    assert np.abs(head["logits"]["kernel"] - before["logits"]["kernel"]).max() > 1e-4


@pytest.mark.slow
def test_it_resumes_without_the_weights_and_ends_the_same(probed, tmp_path):
    from vit_jax.main import main

    workdir, command = probed
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints/6")
    (copy / "results.json").unlink()
    weights = workdir.parent / "weights.npz"
    aside = weights.rename(tmp_path / "aside.npz")
    try:
        assert main([*command[:-1], f"--workdir={copy}"]) == 0
    finally:
        aside.rename(weights)
    again, straight = trained.load(str(copy)), trained.load(str(workdir))
    jax.tree.map(np.testing.assert_array_equal, again.params, straight.params)


@pytest.mark.slow
def test_a_run_can_be_the_start_of_another(probed, command, tmp_path):
    code, printed = command(*PROBE, f"--config.init_from={probed[0]}", f"--workdir={tmp_path / 'next'}")
    assert code == 0, printed
    assert f"Starting from the weights in {probed[0]}" in printed
    before, after = trained.load(str(probed[0])), trained.load(str(tmp_path / "next"))
    np.testing.assert_array_equal(after.params["posemb"], before.params["posemb"])


@pytest.mark.slow
def test_an_export_is_a_start_whose_average_starts_there_too(probed, command, tmp_path):
    export = tmp_path / "export"
    assert command("export", f"--workdir={probed[0]}", "--format=safetensors", f"--output={export}")[0] == 0
    args = [*PROBE, f"--config.init_from={export}", "--config.train.length=1 steps", "--config.eval.every=1 steps"]
    args += ["--config.train.ema=0.9", "--config.eval.params=ema", "--config.model.attention=xla"]
    wrong = [*args, "--config.model.depth=3", f"--workdir={tmp_path / 'next'}"]
    code, printed = command(*wrong)
    assert code == 2 and "block_02/attention/out/bias: missing in the file" in printed
    code, printed = command(*args, f"--workdir={tmp_path / 'next'}")  # the corrected command, in the same workdir
    assert code == 0, printed
    before, after = trained.load(str(probed[0])), trained.load(str(tmp_path / "next"))
    assert after.config.model.attention == "xla"
    head, old = after.params["head"]["logits"]["kernel"], before.params["head"]["logits"]["kernel"]
    assert 0 < np.abs(head - old).max() < 5e-3  # near where it began, not near 0
    np.testing.assert_array_equal(after.params["prefix"], before.params["prefix"])


def started(config, weights, *args):
    """The config of a command that starts from weights, filled in."""
    given = ["vit-jax", f"--config=configs/{config}", f"--config.init_from={weights}", "--workdir=nowhere", *args]
    command = parse(given)
    given = [key.removeprefix("model.") for key in command.overrides if key.startswith("model.")]
    return with_model(command.config, "nowhere", given)


@pytest.mark.parametrize(
    ("config", "weights", "args", "size", "said"),
    [
        ("linear_probe_cifar10.py", WEIGHTS, [], 32, "as the weights in {} are for; normalised as for those"),
        ("linear_probe_cifar10.py", GOLDEN, [], 16, "as the weights in {} are for; normalised as for those"),
        ("finetune_cifar10.py", GOLDEN, [], 16, "as the weights in {} are for; normalised as for those"),
        ("finetune_cifar10.py:384", WEIGHTS, [], 384, "the config says; the weights in {} are for 32 x 32; normalised"),
        ("linear_probe_cifar10.py", GOLDEN, ["--config.model.image_size=32"], 32, "{} are for 16 x 16; normalised as"),
        ("linear_probe_cifar10.py", GOLDEN, ["--config.train.sizes=((0.0, 16), (0.5, 32))"], 32, "are for 16 x 16"),
        ("linear_probe_cifar10.py", WEIGHTS, ["--config.augment.mean=(0.1, 0.2, 0.3)"], 32, "as the config says"),
    ],
)  # fmt: skip
def test_images_are_as_the_weights_want_them_unless_the_config_says_otherwise(
    config, weights, args, size, said, capsys
):
    found = started(config, weights, *args)
    assert found.model.image_size == size
    check_start(found)
    printed = capsys.readouterr().out
    assert printed.startswith(f"Images of {size} x {size} pixels, ") and said.format(weights) in printed


def test_images_are_normalised_as_those_that_the_weights_were_trained_on(tmp_path):
    def normalised(weights, *args):
        found = started("linear_probe_cifar10.py", weights, *args).augment
        return found.mean, found.std

    half = (0.5, 0.5, 0.5)
    run = json.loads((GOLDEN / "config.json").read_text())["augment"]
    assert normalised(WEIGHTS) == (half, half)  # of Google
    assert normalised(GOLDEN) == (tuple(run["mean"]), tuple(run["std"]))
    assert normalised(WEIGHTS, "--config.augment.std=(0.1, 0.2, 0.3)") == (half, (0.1, 0.2, 0.3))

    folder = tmp_path / "hf"
    shutil.copytree(TESTS / "fixtures/pretrained/hf_vit", folder)
    assert normalised(folder) == (half, half)
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert normalised(folder) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": ["a"], "image_std": 1}))
    with pytest.raises(UserError, match="a number for each channel"):
        normalised(folder)


def test_an_export_tells_how_images_were_normalised(command, tmp_path):
    args = [f"--workdir={shutil.copytree(GOLDEN, tmp_path / 'run')}", f"--output={tmp_path / 'out'}"]
    assert command("export", *args, "--format=safetensors")[0] == 0
    found, expected = (started("linear_probe_cifar10.py", start) for start in (tmp_path / "out", GOLDEN))
    assert found.augment == expected.augment and found.model == expected.model
    (tmp_path / "out/model.json").unlink()  # an export without it: the train images will do
    assert started("linear_probe_cifar10.py", tmp_path / "out").augment.mean == ()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.init_from=nowhere.npz"], "there are no weights at nowhere.npz"),
        ([f"--config.init_from={WEIGHTS}", "--config.model.depth=3"], "encoderblock_2/LayerNorm_0/scale: missing"),
        ([f"--config.init_from={WEIGHTS}", "--config.model.width=32"], "(48,) in the file, (32,) in the model"),
        ([f"--config.init_from={WEIGHTS}", "--config.model.qk_norm=true"], "block_00/attention/k_norm/scale: nothing"),
        ([f"--config.init_from={WEIGHTS}", "--config.model.pool=mean"], "cls: (1, 1, 48) in the file, nothing in the"),
    ],
)
def test_weights_that_do_not_fit_end_the_command_in_one_message(args, message, command, tmp_path):
    code, printed = command(*PROBE, *args, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and message in printed and "Traceback" not in printed, printed
    assert not (tmp_path / "run/config.json").exists()  # the corrected command finds nothing in its way


def test_few_shots_are_learned_in_closed_form(probed, command):
    workdir = probed[0]
    code, printed = command("--mode=fewshot", f"--workdir={workdir}", "--shots=1,5", "--knn=3,10", "--linear")
    assert code == 0, printed
    found = json.loads((workdir / "fewshot.json").read_text())
    assert found["checkpoint"] == 6 and [r["shots"] for r in found["results"]] == [1, 5]
    assert "5 of each class" in printed and "10 nearest" in printed and "linear, SGD" in printed
    assert [row["k"] for row in found["knn"]] == [3, 10]
    assert all(0 <= row["top1"] <= 1 for row in (*found["knn"], *found["linear"].values()))
    code, printed = command("--mode=fewshot", f"--workdir={workdir}", "--shots=500")
    assert code == 2 and "has only" in printed


def test_the_ridge_is_the_solution_of_its_equations():
    rng = np.random.RandomState(0)
    x, labels = rng.normal(size=(12, 5)), rng.randint(3, size=12)
    weights = fewshot.ridge(x, labels, 3, [0.5, 2.0])
    ones = np.concatenate([x, np.ones((12, 1))], axis=1)
    targets = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    for strength, w in zip((0.5, 2.0), weights, strict=True):
        np.testing.assert_allclose(ones.T @ ones @ w + strength * w, ones.T @ targets, atol=1e-9)


def test_features_that_separate_the_classes_are_learned_from_one_image_each():
    rng = np.random.RandomState(0)
    centres, labels = np.eye(4) * 5, np.arange(40) % 4
    features = centres[labels] + rng.normal(0, 0.3, (40, 4))
    part = (features, labels)
    few = fewshot.few_of_each(labels, 1, seed=1, classes="abcd")
    assert few.shape == (4, 1) and (labels[few[:, 0]] == np.arange(4)).all()
    top1, _ = fewshot.score(features[few[:, 0]], np.arange(4), part, part, 4)
    assert top1 == 1.0
    with pytest.raises(UserError, match="--shots=11: class 'ant' has only 10 images to learn from"):
        fewshot.few_of_each(labels, 11, seed=0, classes=("ant", "bee", "cow", "dog"))


PROCESSORS = {
    "cut": ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}, 0.8),
    "stretched": ({"size": {"height": 32, "width": 32}}, 1.0),
    "one number, as of old": ({"size": 40, "crop_size": 32, "do_center_crop": True}, 0.8),
    "stretched, then cut": (
        {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True},
        0.8,
    ),
    "strange": ({"size": {"shortest_edge": "40"}, "crop_size": [], "do_center_crop": True}, 1.0),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_images_are_cut_and_resized_as_the_weights_want_them(name, tmp_path):
    processor, crop_pct = PROCESSORS[name]
    folder = tmp_path / "hf"
    shutil.copytree(FOLDER / "hf_vit", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"resample": 3}))
    data = with_model(Config(init_from=str(folder)), None).data
    assert (data.crop_pct, data.interpolation) == (crop_pct, "bicubic")
    chosen = DataConfig(crop_pct=0.5, interpolation="lanczos")
    data = with_model(Config(init_from=str(folder), data=chosen), None).data
    assert (data.crop_pct, data.interpolation) == (0.5, "lanczos")


def test_a_timm_folder_says_how_images_are_cut_and_resized(tmp_path):
    save_file(dict(np.load(FOLDER / "timm_token.npz")), tmp_path / "model.safetensors")
    seen = {"crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    args = {"num_heads": 3, "img_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_args": args, "pretrained_cfg": seen}))
    config = with_model(Config(init_from=str(tmp_path)), None)
    assert (config.data.crop_pct, config.data.interpolation) == (0.95, "bilinear")
    assert (config.augment.mean, config.augment.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "said", [{"image_mean": [float("nan"), 0, 0], "image_std": [1, 1, 1]}, {"image_std": [0, 1, 1]}]
)
def test_a_normalisation_that_can_not_be_is_refused(said, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(FOLDER / "hf_vit", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0], **said}))
    with pytest.raises(UserError, match="are finite, and the latter above 0"):
        with_model(Config(init_from=str(folder)), None)


@pytest.mark.parametrize("keys", [{"layer_scale": 0.1}, {"gated_mlp": True}, {"embed_norm": True}, {"registers": 1}])
def test_what_weights_do_not_have_is_listed(keys):
    with pytest.raises(UserError, match="places?; nothing was loaded"):
        pretrained.load(FOLDER / "hf_vit", **keys)
