"""The config is closed: what isn't right is one message, exit code 2, and no data are touched."""

import dataclasses
import re
from pathlib import Path

import pytest

from vit_jax.config import Config, base_config, from_config_dict, to_config_dict
from vit_jax.data import sources
from vit_jax.errors import UserError
from vit_jax.models.backend import target_at_hand
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import from_mapping, keys_of, to_dict
from vit_jax.training.checks import warnings_of
from vit_jax.training.prepare import resolve_config


def test_defaults_survive_the_round_trip_through_config_dict_and_json():
    assert from_config_dict(base_config()) == Config()
    assert from_mapping(Config, to_dict(Config())) == Config()


def test_every_config_file_is_complete(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "load", _no_data)
    files = sorted(set(Path("configs").glob("*.py")) - {Path("configs/__init__.py")})
    assert len(files) >= 6
    for file in files:
        extra = ["--config.model.variant=Ti/4"] if file.name == "base.py" else []
        if file.name in ("finetune_cifar10.py", "finetune_folder.py", "linear_probe_cifar10.py"):
            extra = ["--config.init_from=tests/fixtures/pretrained/google_vit_token.npz"]
        with pytest.raises(AssertionError, match="data were touched"):
            command(f"--config={file}", f"--workdir={tmp_path / file.stem}", *extra)


@pytest.mark.parametrize(
    ("key", "value", "length", "said"),
    [
        ("log.every", "0 steps", "1 epochs", "config.log.every='0 steps': only the last step's figures are logged"),
        ("log.every", "0 epochs", "60 s", "config.log.every='0 epochs': no step's figures are logged"),
        ("train.batch_size", 462, "1 epochs", "config.train.batch_size=462 is more than the 461 images of config.data"),
        ("train.batch_size", 461, "1 epochs", None),
        ("eval.every", "0 steps", "1 epochs", None),
    ],
)
def test_what_is_seldom_meant_is_warned_of(key, value, length, said):
    config = base_config()
    config.update_from_flattened_dict({key: value, "train.length": length})
    found = warnings_of(from_config_dict(config), 461)
    assert len(found) == bool(said) and all(said in line for line in found)


def test_warnings_are_said_once_the_data_are_known(tmp_path, capsys):
    config = base_config()
    config.update_from_flattened_dict({"data.name": "digits", "model.variant": "Ti/8", "train.batch_size": 1440})
    (tmp_path / "run").mkdir()
    resolve_config(from_config_dict(config), RunFolder(tmp_path / "run"), target_at_hand())
    assert "Warning: config.train.batch_size=1440 is more than the 1,293 images" in capsys.readouterr().out


def test_settings_reach_the_typed_config():
    config = base_config()
    config.model.head_mlp = [64, 32]
    config.optim.learning_rate = 1
    config.optim.clip_norm = None
    typed = from_config_dict(config)
    assert typed.model.head_mlp == (64, 32)
    assert isinstance(typed.optim.learning_rate, float)
    assert typed.optim.clip_norm is None


def test_missing_keys_take_defaults_and_unknown_ones_are_refused():
    saved = to_dict(Config())
    del saved["model"]["qk_norm"]
    assert from_mapping(Config, saved) == Config()
    saved["model"]["qknorm"] = True
    with pytest.raises(UserError, match=r"config\.model\.qknorm; did you mean config\.model\.qk_norm"):
        from_mapping(Config, saved)


@pytest.mark.parametrize("value", ["ten", 1.5, None, True, (1,)])
def test_wrong_types_are_refused(value):
    with pytest.raises(UserError, match=r"config\.seed must be a whole number, like 4; found"):
        from_mapping(Config, {"seed": value})


def test_config_dict_is_locked():
    with pytest.raises(AttributeError, match='Did you mean "width"'):
        to_config_dict(Config()).model.widht = 3


def test_all_keys_are_found():
    assert "config.model.stem.kernel_size" in keys_of(Config) and "config.model" in keys_of(Config)


# key or keys=values on the command line, and what the message must name
MISTAKES = [
    ("modle.width=3", "config.model.width"),
    ("model.widht=3", "config.model.width"),
    ("optim.lr=3", r"did you mean config\.optim\.learning_rate"),
    ("optim.beta=3", r"config\.optim has name, learning_rate, "),
    ("batch_size=3", r"did you mean config\.train\.batch_size or config\.eval\.batch_size"),
    ("seed.x=3", r"config\.seed is no group"),
    ("model=3", r"group of keys"),
    ("model.width=abc", "a whole number, like 4, or none; found 'abc'"),
    ("model.width=1.5", "a whole number, like 4, or none; found '1.5'"),
    ("seed=-1", "config.seed"),
    ("seed=x", "a whole number, like 4; found 'x'"),
    ("seed=3.5", "a whole number, like 4; found '3.5'"),
    ("optim.learning_rate=fast", "a number, like 0.5; found 'fast'"),
    ("augment.flip=maybe", "flip must be true or false; found 'maybe'"),
    ("model.head_mlp=abc", r"head_mlp must be whole numbers, like \(64, 128\)"),
    ("model.head_mlp=none", r"head_mlp must be whole numbers, like \(64, 128\).*found 'none'"),
    ("model.head_mlp=64", r"\(64,\) for a single one; found 64"),
    ("optim.rate_rules=(('.*',1.0))", r"pairs, like .* or \(\('\.\*', 1\.0\),\) for a single one"),
    ("train.sizes=(0.0,24)", r"pairs, like \(\(0\.0, 24\), \(0\.7, 32\)\)"),
    ("model.patch_size=7", "1, 2, 4, 8, 16, 32"),
    ("model.patch_size=0", "patch_size"),
    ("model.patch_size=64", "patch_size"),
    ("model.heads=3", "config.model.width=32"),
    ("model.heads=-2", "heads"),
    ("model.depth=0", "depth"),
    ("model.width=none", "config.model.width"),
    ("model.variant=XL/4", "did you mean L/4"),
    ("model.variant=Ti", "Ti/4"),
    ("model.posemb=sincos", "sincos2d"),
    ("model.posemb=sincos2d --config.model.width=34 --config.model.heads=1", "width"),
    ("model.posemb=rope2d --config.model.head_dim=6", "head_dim"),
    ("model.token_mlp_dim=8 --config.model.qkv_bias=false", "qkv_bias=False.* belong to attention"),
    ("model.pool=average", "mean"),
    ("model.activation=swish", "gelu_tanh"),
    ("model.attention=flash", "cudnn"),
    ("model.attention=cudnn --config.model.attention_dropout=0.1", "attention_dropout"),
    ("model.attention=cudnn --config.model.head_dim=12", "head_dim"),
    ("model.dtype=float16", "bfloat16"),
    ("model.mlp_dropout=1.0", "below 1"),
    ("model.drop_path=-0.1", "drop_path"),
    ("model.registers=-1", "registers"),
    ("model.stem.kind=conv", "widths"),
    ("model.stem.widths=(8,)", "conv"),
    ("model.stem.kind=conv --config.model.stem.widths=(8,8) --config.model.stem.strides=(1,)", "strides"),
    ("model.stem.kind=conv --config.model.stem.widths=(8,) --config.model.stem.norm=batch", "norm"),
    ("model.stem.kind=conv --config.model.stem.widths=(8,) --config.model.stem.project=false", "patch_size=1"),
    ("model.num_classes=0", "num_classes"),
    ("train.split_rules=(('.*',0.0),)", "pairs of texts"),
    ("data.name=cifar1", "cifar10"),
    ("data.pipeline=numpy", "mapped"),
    ("data.train=train[:90", "train\\[:90%\\]"),
    ("data.train=training", "train, test"),
    ("data.validation=train[50%:]", "shares"),
    ("data.train=train[:0]", "empty"),
    ("data.test=tset", "train, test"),
    ("augment.mean=(0.5,)", "3 values"),
    ("optim.decay_rules=(('.*/kernal',1.0),('.*',0.0))", "kernal' matches no parameter"),
    ("optim.decay_rules=(('.*/kernel',1.0),)", "no rule matches"),
    ("optim.learning_rate=inf", "a number, like 0.5; found inf"),
    ("optim.weight_decay=nan", "a number, like 0.5; found nan"),
    ("augment.std=(1.0,nan,1.0)", r"numbers, like \(0.5, 0.5, 0.5\)"),
    ("augment.crop_ratio=0.75", r"two numbers, like \(0.75, 1.33\); found 0.75"),
    ("augment.crop_ratio=(0.75,)", r"two numbers, like \(0.75, 1.33\)"),
    ("model.token_mlp_dim=8 --config.train.sizes=((0.0,16),(0.5,32))", "any number of tokens, .* and no Mixer"),
    ("data.train=train --config.data.validation= --config.data.test=train[90%:]", 'or set config.data.test=""'),
    ("log.every=0.001steps", "less than a step"),
    ("model.attention=cudnn", "NVIDIA GPU"),
    ("augment.std=(1.0,0.0,1.0)", "above 0"),
    ("augment.rotate=2", "rotate"),
    ("augment.crop_padding=-1", "crop_padding"),
    ("optim.schedule=step", "cosine"),
    ("optim.learning_rate=0", "learning_rate"),
    ("optim.warmup=30", "5 %"),
    ("optim.warmup=100steps", "longer than training"),
    ("optim.warmup=2epochs", "longer than training"),
    ("optim.b1=1", "b1"),
    ("optim.weight_decay=-1", "weight_decay"),
    ("train.length=10", "10 epochs"),
    ("train.length=5%", "length of its own"),
    ("train.batch_size=33", "32 or 40"),
    ("train.batch_size=0", "batch_size"),
    ("train.accumulate=3", "24 or 48"),
    ("train.label_smoothing=1", "label_smoothing"),
    ("eval.batch_size=0", "eval.batch_size"),
    ("train.class_weights=equal", "none, balanced"),
    ("train.patience=0", "config.train.patience"),
    ("train.patience=3 --config.data.validation=", "validation='' there are none"),
    ("train.patience=3 --config.eval.every=0steps", "eval.every='0 ?steps' there are none"),
    ("eval.select=worst", "best"),
    ("eval.select=best --config.checkpoint.keep_best=0", "keep_best"),
    ("eval.every=often", "eval.every"),
    ("checkpoint.keep_latest=0", "keep_latest"),
    ("data.name=image_folder --config.data.dir=/nonexistent", "does not exist"),
    ("data.name=cifar10_batches", "config.data.dir"),
]


@pytest.mark.parametrize(("override", "names"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_are_one_message_and_exit_code_2(command, tmp_path, monkeypatch, override, names):
    if "name=image_folder" not in override and "name=cifar10_batches" not in override:
        monkeypatch.setattr(sources, "load", _no_data)
    flags = ["--config." + part.removeprefix("--config.") for part in override.split(" ")]
    code, printed = command("--config=configs/debug.py", f"--workdir={tmp_path / 'run'}", *flags)
    assert code == 2
    assert printed.startswith("error: ") and printed.count("\n") == 1 and "Traceback" not in printed
    assert re.search(names, printed), printed


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], "--workdir"),
        (["--workdir=x"], "--workdir=x: there is no run to go on with"),
        (["--config=configs/nope.py", "--workdir=x"], "no such file"),
        (["--config=setup.cfg", "--workdir=x"], "can't be read"),
        (["--config=configs/debug.py"], "--workdir"),
        (["--config=configs/debug.py", "--workdri=x"], "--workdir"),
        (["--config=configs/debug.py", "--workdir=x", "evaluate"], "evaluate"),
        (["--config=configs/debug.py", "--workdir=x", "--resume=perhaps"], "auto"),
        (["--config=configs/debug.py", "--workdir=x", "--checkpoint=best"], "--mode=evaluate"),
        (["--config.seed=3", "--workdir=x"], "name its config, like --config=quickstart"),
        (["--mode=evaluate", "--workdir=x", "--config=configs/debug.py"], "describes itself"),
        (["--mode=evaluate", "--workdir=nowhere"], "holds no run"),
        (["--config=configs/debug.py", "--workdir=/proc/x"], "can't be written"),
    ],
)
def test_wrong_flags_are_one_message_and_exit_code_2(command, monkeypatch, flags, names):
    monkeypatch.setattr(sources, "load", _no_data)
    code, printed = command(*flags)
    assert code == 2 and names in printed and printed.startswith("error: ")


def test_a_config_file_that_sets_an_unknown_key_is_named(command, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from vit_jax.config import base_config\n"
        "def get_config():\n    c = base_config()\n    c.optim.lr = 1.0\n    return c\n"
    )
    code, printed = command(f"--config={file}", f"--workdir={tmp_path / 'run'}")
    wanted = f"error: {file}, line 4: unknown key config.optim.lr; did you mean config.optim.learning_rate?\n"
    assert code == 2 and printed == wanted


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


def _no_data(*_, **__):
    raise AssertionError("data were touched")
