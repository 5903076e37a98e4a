"""What README.md and docs/ tell people to do works: commands parse, examples run, links, files and keys are there."""

import configparser
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from scripts.release_check import blocks, commands, needs_cifar10, pages
from vit_jax.cli import flags
from vit_jax.config import Config
from vit_jax.runs.folder import RunFolder

PAGES = {str(path): path.read_text() for path in pages(Path())}
README = PAGES["README.md"]
PAPERS = {**PAGES, **{name: Path(name).read_text() for name in ("RECORDS.md", "CHANGELOG.md")}}


CONFIGS = set(Path("configs").glob("*.py")) - {Path("configs/__init__.py")}

# Their examples in Python train, or need a run.
RUNS = ("README.md", "docs/index.md", "docs/python.md", "docs/export.md")


def is_program(line):
    return line.startswith(("vit-jax ", "python scripts/"))


COMMANDS = dict.fromkeys(
    command
    for page in PAGES.values()
    for command in commands(page) + [re.sub(r"\s+#.*", "", line) for line in commands(page, "text") if is_program(line)]
)


def test_it_opens_with_the_two_commands():
    assert commands(README)[:2] == ["./scripts/train.sh", "./scripts/test.sh"]


def test_it_is_short():
    assert len(README.splitlines()) <= 150
    assert all(len(page.splitlines()) <= 150 for page in PAGES.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command, monkeypatch, tmp_path):
    program, *args = shlex.split(command)
    if program == "source":
        assert args == [".venv/bin/activate"]
        return
    if program == "python":
        assert Path(args[0]).is_file()
        return
    if program != "vit-jax":
        assert Path(program).stat().st_mode & 0o100, "not executable"
        if program != "./scripts/train.sh" or not args:
            return
    if any(arg.startswith("--workdir") for arg in args) and not any(arg.startswith("--config=") for arg in args):
        args = [arg for arg in args if "workdir" not in arg]
        monkeypatch.setattr(RunFolder, "exists", lambda self: True)
        monkeypatch.setattr(RunFolder, "config", lambda self: Config())
        args.append(f"--workdir={tmp_path}")
    if "--help" in args:
        with pytest.raises(SystemExit, match="0"):
            flags.parse([program, *args])
    else:
        flags.parse([program, *args])


def test_runs_on_cifar10_are_told_by_their_config():
    assert needs_cifar10("vit-jax --config=laptop:attention --workdir=runs/a")
    assert needs_cifar10("vit-jax --config=conv_stem_cifar10 --workdir=runs/a")
    assert not needs_cifar10("vit-jax --config=linear_probe_cifar10 --workdir=runs/a --config.data.name=digits")
    assert not needs_cifar10("vit-jax --config=quickstart --workdir=runs/laptop")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block", "side"),
    [
        ("docs/python.md", "models.create", 72),
        ("docs/weights.md", "vit_jax.load", 32),
        ("docs/models.md", "create", 32),
    ],
)
def test_the_python_examples_run(page, block, side):
    code = next(code for code in blocks(PAGES[page], "python") if block in code)
    names = {"images": np.zeros((1, side, side, 3), np.float32)}
    exec(code.replace("B_16.npz", "tests/fixtures/pretrained/google_vit_token.npz"), names)
    assert names["logits"].shape == (1, 10) and "encoded" in names["aux"]


@pytest.mark.slow
def test_the_python_examples_of_runs_run(tmp_path, monkeypatch):
    """One page after the other, with a smaller config, in a folder with an image; later pages find the first's run."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.RandomState(0).randint(256, size=(40, 50, 3), dtype=np.uint8)).save("cat.png")
    found = {}
    for page in RUNS:
        names = found[page] = {"images": np.zeros((1, 72, 72, 3), np.float32)}
        for code in blocks(PAGES[page], "python"):
            exec(code.replace('"quickstart"', '"debug"').replace("runs/quickstart", "runs/python"), names)
        probabilities = names["probabilities"]
        assert probabilities.shape == (1, 10) and abs(probabilities.sum() - 1) < 1e-5, page
        if page != "docs/export.md":
            assert 0 <= names["results"]["top1"] <= 1, page
        if page in ("README.md", "docs/python.md"):
            assert np.isfinite(float(names["metrics"]["loss"])), page
    names = found["docs/python.md"]
    assert jax.tree.structure(names["product"]) == jax.tree.structure(names["setup"].state.params)
    assert np.isfinite(names["slope"]) and names["slope"] != 0


def test_every_python_example_is_run_by_a_test():
    others = {"docs/train.md": 1, "docs/weights.md": 1, "docs/models.md": 1}  # a config file; weights; a model
    found = {name: len(blocks(page, "python")) for name, page in PAGES.items() if name not in RUNS}
    assert {name: count for name, count in found.items() if count} == others


def test_the_config_file_of_the_page_is_one(tmp_path):
    (code,) = blocks(PAGES["docs/train.md"], "python")
    (tmp_path / "mine.py").write_text(code)
    for tokens in ("", ":attention", ":tiny"):
        command = flags.parse(["vit-jax", f"--config={tmp_path / 'mine.py'}{tokens}", f"--workdir={tmp_path / 'run'}"])
        assert command.config.train.length == "60 s" and command.config.train.sizes == ((0.0, 24), (0.7, 32))


def slugs(page):
    """What GitHub calls the headings of a page in links."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAPERS)
def test_every_link_leads_somewhere(name):
    for link in re.findall(r"\]\(([^)]+)\)", PAPERS[name]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = Path(name).parent / path if path else Path(name)
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.read_text()), link


@pytest.mark.parametrize("name", PAGES)
def test_every_file_it_names_is_there(name):
    for file in re.findall(r"`((?:configs|scripts|tests|vit_jax)/[\w./]+)`", PAGES[name]):
        assert Path(file).exists(), file


def rooms():
    """Those of the table in docs/contributing.md, from the ground up."""
    page = PAGES["docs/contributing.md"]
    table = page[page.index("| room, from the ground up") :].split("\n\n")[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+?)(?:/|\.py)`", row.split("|")[1])]


def test_the_house_has_the_rooms_of_the_page():
    """In the order of the contract, by which each room imports only rooms below it."""
    setup = configparser.ConfigParser()
    setup.read("setup.cfg")
    layers = setup["importlinter:contract:rooms"]["layers"].split("\n")[:0:-1]
    places = {room.strip(): place for place, layer in enumerate(layers) for room in layer.split("|")}
    assert sorted(rooms()) == sorted(places)
    assert [places[room] for room in rooms()] == sorted(places.values())


def test_every_data_set_and_ready_made_config_is_named():
    from vit_jax.data.sources import NAMES

    assert set(NAMES) <= set(re.findall(r"`(\w+)`", PAGES["docs/data.md"]))
    assert {file.stem for file in CONFIGS} <= set(re.findall(r"`(\w+)`", PAGES["docs/recipes.md"]))


def test_every_config_says_how_to_run_it():
    for file in CONFIGS:
        command = re.search(r"^vit-jax (.*)$", file.read_text(), flags=re.MULTILINE)
        assert command, file
        assert flags.parse(["vit-jax", *shlex.split(command[1])]).config is not None
        assert len(file.read_text().splitlines()) <= 45


def test_the_linter_is_the_locked_one():
    locked = re.search(r"^ruff==(\S+)", Path("requirements.lock").read_text(), flags=re.MULTILINE)[1]
    assert f"rev: v{locked}\n" in Path(".pre-commit-config.yaml").read_text()


def test_the_citation_is_of_this_version():
    import vit_jax

    assert "\nversion = attr: vit_jax.__version__\n" in Path("setup.cfg").read_text()
    assert "version" not in Path("CITATION.cff").read_text().replace("cff-version", "")
    assert f"\n## [{vit_jax.__version__}] - " in PAPERS["CHANGELOG.md"]
