"""The house: who may import whom, what ships, and how long files and functions may be."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
FILES = sorted((REPOSITORY / "vit_jax").rglob("*.py"))


def test_each_room_imports_only_rooms_below_and_no_files_import_in_a_circle():
    # A process of its own: import-linter sets up logging for all of it.
    program = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports('setup.cfg', no_cache=True))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_wheel_has_every_room():
    config = configparser.ConfigParser(interpolation=None)
    config.read(REPOSITORY / "setup.cfg")
    listed = config["options"]["packages"].split()
    elsewhere = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    assert sorted(listed) == sorted(
        {".".join(f.parent.relative_to(REPOSITORY).parts) for f in FILES} | elsewhere.keys()
    )
    for package in listed:
        folder = REPOSITORY / elsewhere.get(package, package.replace(".", "/"))
        assert any(folder.glob("*.py")), f"{package}: {folder} holds no Python file"


CODE = sorted(file for room in ("vit_jax", "configs", "scripts", "tests") for file in (REPOSITORY / room).rglob("*.py"))


def test_no_file_is_longer_than_300_lines():
    lines = {str(file.relative_to(REPOSITORY)): len(file.read_text().splitlines()) for file in CODE}
    assert not {name: count for name, count in lines.items() if count > 300}


def test_no_function_but_the_loop_is_longer_than_60_lines():
    """With its signature and docstring; a table of cases in a test is none."""
    long = {}
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long[f"{file.relative_to(REPOSITORY)}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert long.keys() <= {"vit_jax/training/loop.py:_loop", "tests/pretrained/families.py:_of_transformers"}, long
