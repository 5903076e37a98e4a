"""The command line: what each mode takes, what help shows, and what a mistake is told."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import vit_jax
from vit_jax.cli import modes
from vit_jax.cli.flags import parse
from vit_jax.errors import UserError


def run(*args: str):
    return parse(["vit-jax", *args])


def test_help_is_one_screen_and_needs_no_jax():
    code = "import sys; from vit_jax.main import main\ntry: main(['vit-jax', '--help'])\n"
    code += "except SystemExit as done: print(done.code, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    assert last == "0 False" and not done.stderr
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    for mode in modes.MODES:
        assert any(line.startswith(f"  {mode} ") for line in lines)
    assert sum(line.startswith("  --") for line in lines) == 5
    assert "flagfile" not in done.stdout


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("form", ["{} --help", "--mode={} -h", "--help --mode {}"])
def test_help_of_a_mode_shows_its_flags_and_no_others(mode, form, capsys):
    with pytest.raises(SystemExit) as done:
        run(*form.format(mode).split())
    printed = capsys.readouterr().out
    assert not done.value.code
    shown = {name for name in re.findall(r"^  --(\w+)[= ]", printed, flags=re.M)}
    assert shown == set(modes.MODES[mode].flags)
    assert modes.MODES[mode].example in printed


@pytest.mark.parametrize("name", modes.MODES)
def test_the_examples_can_be_parsed(name, tmp_path):
    words = [re.sub('"', "", word) for word in modes.MODES[name].example.split()]
    assert run(*words[1:]).mode == name


def test_overrides_in_every_way_of_writing_them():
    given = ["--config=debug", "--workdir", "x", "--config.seed", "3", "--config.augment.flip", "--noconfig.eval.flips"]
    given += ["--config.optim.clip_norm=None", "--config.model.head_mlp=(8, 4)", "--config.seed=4"]
    command = run(*given)
    config = command.config
    assert config.seed == 4 and config.augment.flip is True and config.eval.flips is False
    assert config.optim.clip_norm is None and config.model.head_mlp == (8, 4)
    assert command.overrides["model.head_mlp"] == (8, 4)
    assert command.flags.workdir == "x" and command.flags.resume == "auto"


def test_flags_of_modes_reach_them():
    assert run("predict", "--workdir=x", "--images", "a", "b", "--images=c").flags.images == ["a", "b", "c"]
    assert run("report", "--workdir", "a", "b", "--workdir=c").flags.workdir == ["a", "b", "c"]
    assert run("fewshot", "--workdir=x", "--shots=2,3").flags.shots == (2, 3)
    assert run("sweep", "--config=debug", "--workdir=x", "--arm=", "--arm=a=1 b=2").flags.arm == ["", "a=1 b=2"]
    assert run("export", "--workdir=x").flags.format == "safetensors"
    assert run("-workdir=x", "-config=debug", "-config.seed=3").config.seed == 3  # one dash will do
    assert run("evaluate", "--workdir=x", "--config.eval.batch_size=7").overrides == {"eval.batch_size": 7}


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ("nope", "there is no mode nope; there are train, "),
        ("eval-uate", "there is no mode eval-uate; did you mean evaluate?"),
        ("--workdir=x evaluate", "the mode comes first: vit-jax evaluate ..."),
        ("evaluate --mode=predict --workdir=x", "the mode is named twice"),
        ("--mode=train --mode=evaluate --workdir=x", "the mode is named twice"),
        ("--config --workdir=x", "--config has no value"),
        ("--config=debug --config.seed --workdir=x", "--config.seed has no value"),
        ("--config=debug --workdir=x --optim.learning_rate=3", "did you mean --config.optim.learning_rate?"),
        ("--config=debug:foo --workdir=x", "debug takes no argument; write --config=debug"),
        ("evalute --workdir=x", "did you mean evaluate?"),
        ("--config=debug --workdir=x --flagfile=y", "unknown flag --flagfile"),
        ("predict --workdir=x --image=y", "unknown flag --image; did you mean --images?"),
        ("predict --workdir=x", "--images is missing"),
        ("predict --workdir=x --images a --top_k=0", "--top_k: a whole number above 0; found 0"),
        ("predict --workdir=x --images a --format=onnx", "--format"),
        (
            "predict --workdir=x --images a --shots=1",
            "--shots doesn't belong to --mode=predict; it belongs to --mode=fewshot",
        ),
        ("fewshot --weights=x --checkpoint=best", "--checkpoint needs --workdir, a run; --weights have no checkpoints"),
        ("fewshot --workdir=x --shots=1,x", "numbers above 0 with commas between, like 1,5,10; found 1,x"),
        (
            "evaluate --workdir=x --config.model.width=3",
            "--config.model.width can't be changed by --mode=evaluate; what can be",
        ),
        ("evaluate --workdir=x --config.eval.batch=3", "did you mean config.eval.batch_size"),
        (
            "predict --workdir=x --images a --config.seed=3",
            "can't be changed by --mode=predict; a trained run's config is fixed",
        ),
        ("doctor --config=debug", "takes no --config"),
        ("prepare --config.data.name=digits", "--mode=prepare takes no config; vit-jax prepare --help shows its flags"),
        ("sweep --workdir=x", "--config is missing"),
        ("--config=debug --workdir=x --config.seed", "--config.seed has no value"),
        ("--config=debug --workdir=x --num_processes=2", "need --coordinator_address"),
        ("--config=debug --workdir=x --coordinator_address=auto --process_id=x", "a whole number; found x"),
        ("--config=quikstart --workdir=x", "did you mean quickstart?"),
        ("--config=zzz --workdir=x", "by name there are article, "),
        ("--config=configs/laptpo.py --workdir=x", "there is no such file"),
        ("--config=nowhere/laptop.py --workdir=x", "did you mean laptop, which comes with vit_jax?"),
        (f"--config={'a' * 300} --workdir=x", "there is no config of this name"),
        (f"--config={'a' * 300}.py --workdir=x", "there is no such file"),
        # From Python 3.14 on, pathlib takes it for one that isn't there.
        (f"--workdir={'a' * 300}", "File name too long" if sys.version_info < (3, 14) else "there is no run to go on"),
        (
            "--config=laptop:atention --workdir=x",
            '--config=laptop:atention: tokens come from "convolutions" or "attention"',
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(args, names):
    with pytest.raises(UserError) as told:
        run(*args.split())
    assert names in str(told.value) and "\n" not in str(told.value)


def test_a_config_of_ones_own_imports_its_neighbours_and_the_shipped_ones(tmp_path, monkeypatch):
    for name, seed in (("a", 5), ("b", 6)):  # each its own neighbour of the same name
        (tmp_path / name).mkdir()
        (tmp_path / name / "common.py").write_text(f"SEED = {seed}\n")
        (tmp_path / name / "mine.py").write_text(
            "import common\nfrom vit_jax.configs import laptop\n\ndef get_config(tokens='attention'):\n"
            "    config = laptop.get_config(tokens)\n    config.seed = common.SEED\n    return config\n"
        )
    monkeypatch.chdir(tmp_path)
    before = sys.path[:]
    assert run("--config=a/mine.py", "--workdir=x").config.seed == 5
    other = run(f"--config={tmp_path}/b/mine.py:convolutions", "--workdir=x").config
    assert other.seed == 6 and other.model.stem.kind == "conv"
    assert sys.path == before and "common" not in sys.modules
    assert not list(Path(tmp_path).rglob("__pycache__"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config():\n    pass\n", "get_config() gives nothing back; end it with `return config`"),
        ("def get_config():\n    return 3\n", "gave a int, not a ConfigDict"),
        ("config = 3\n", "a config file has a function get_config(); there is none"),
        ("def get_config():\n    return 1 / 0\n", ", line 2: ZeroDivisionError: division by zero"),
        ("def get_config(:\n", "can't be read, line 1: SyntaxError"),
        ("import no_such_module\n", ", line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit('bye')\n", ", line 2: SystemExit: bye"),
        ("get_config = 3\n", "it is 3"),
        ("def get_config(a):\n    return a\n", "needs an argument; write --config="),
        (
            "from vit_jax.config import base_config\ndef get_config():\n"
            "    c = base_config()\n    c.train.sizes = ((0.0, 24))\n    return c\n",
            "mine.py: config.train.sizes must be pairs",
        ),
        (
            "from vit_jax.config import base_config\ndef get_config():\n    c = base_config()\n    c.model.dept = 3\n",
            ", line 4: unknown key config.model.dept; did you mean config.model.depth?",
        ),
    ],
)
def test_what_is_wrong_in_a_config_file_is_told_with_its_line(tmp_path, text, told):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as error:
        run(f"--config={tmp_path}/mine.py", "--workdir=x")
    assert f"{tmp_path}/mine.py" in str(error.value) and told in str(error.value)


def test_the_version_and_help_by_a_word(capsys):
    for word in ("--version", "version", "help"):
        with pytest.raises(SystemExit) as done:
            run(word)
        assert not done.value.code
    printed = capsys.readouterr().out
    assert printed.startswith(f"vit_jax {vit_jax.__version__}\nvit_jax {vit_jax.__version__}\nvit-jax [MODE]")


def test_a_run_goes_on_without_its_config_named(tmp_path):
    from vit_jax.config import Config
    from vit_jax.runs.folder import RunFolder
    from vit_jax.schema import to_dict

    RunFolder(tmp_path).write("config.json", to_dict(Config(seed=7)))
    assert run(f"--workdir={tmp_path}").config.seed == 7
    moved = run(f"--workdir={tmp_path}", "--config.data.dir=/elsewhere")
    assert moved.config.seed == 7 and moved.config.data.dir == "/elsewhere"
