"""No code in data runs, and what is installed is locked by hash."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text"),
    **dict.fromkeys(("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"), "runs text"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "starts a shell"),
    "tempfile.mktemp": "mktemp",
    "ssl._create_unverified_context": "no certificates",
}
# What is so on purpose, with the number of places: names out of tables in the code.
ADMITTED = {
    ("scripts/benchmarks/worker.py", "import_module"): 1,
    ("vit_jax/__init__.py", "import_module"): 1,
    (
        "scripts/trial/machine.py",
        "unpacks an archive",
    ): 1,  # wheels that were fetched by hash
}


def dotted(node, names):
    """The whole name that an expression like np.load stands for; empty for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        parent = dotted(node.value, names)
        return parent and f"{parent}.{node.attr}"
    return ""


def findings(source):
    """(line, what) of everything in Python source that the program must not do."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}" if module else alias.name
                names[alias.asname or alias.name.split(".")[0]] = (
                    whole if alias.asname or module else whole.split(".")[0]
                )
                if PICKLES & set(whole.split(".")):
                    found.append((node.lineno, "pickle"))
                if whole in CALLS:
                    found.append((node.lineno, CALLS[whole]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("http://"):
            found.append((node.lineno, "http"))
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func, names), {k.arg: k.value for k in node.keywords}

        def is_constant(key, value, given=given):
            return isinstance(given.get(key), ast.Constant) and given[key].value is value

        if name in CALLS:
            found.append((node.lineno, CALLS[name]))
        if name == "numpy.load" and not is_constant("allow_pickle", False):
            found.append((node.lineno, "np.load"))
        if "allow_pickle" in given and not is_constant("allow_pickle", False):
            found.append((node.lineno, "allow_pickle"))
        if "shell" in given and not is_constant("shell", False):
            found.append((node.lineno, "shell"))
        if is_constant("verify", False):
            found.append((node.lineno, "no certificates"))
        if name == "importlib.import_module" and not (node.args and isinstance(node.args[0], ast.Constant)):
            found.append((node.lineno, "import_module"))
        if getattr(node.func, "attr", "") in ("extractall", "unpack_archive"):
            found.append((node.lineno, "unpacks an archive"))
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        *((f"import {module}", "pickle") for module in sorted(PICKLES)),
        ("from pickle import loads", "pickle"),
        ("from six.moves import cPickle", "pickle"),
        ("import numpy, joblib.numpy_pickle as j", "pickle"),
        ("def f():\n    import pickle as harmless", "pickle"),
        ("eval('1')", "runs text"),
        ("exec('1')", "runs text"),
        ("compile('1', '', 'eval')", "runs text"),
        ("__import__('os')", "runs text"),
        ("import builtins\nbuiltins.eval('1')", "runs text"),
        ("import os\nos.system('ls')", "starts a shell"),
        ("import os as o\no.popen('ls')", "starts a shell"),
        ("from os import system as s\ns('ls')", "starts a shell"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
        ("from subprocess import Popen\nPopen('ls', shell=flag)", "shell"),
        ("import numpy as np\nnp.load('x')", "np.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=flag)", "np.load"),
        ("from numpy import load\nload('x')", "np.load"),
        ("import numpy as np\nnp.save('x', y, allow_pickle=True)", "allow_pickle"),
        ("import importlib\nimportlib.import_module(name)", "import_module"),
        ("from importlib import import_module\nimport_module(f'a.{b}')", "import_module"),
        ("import tempfile\ntempfile.mktemp()", "mktemp"),
        ("import urllib.request\nurllib.request.urlopen('http://x.org')", "http"),
        ("URL = f'http://{host}'", "http"),
        ("import requests\nrequests.get('https://x.org', verify=False)", "no certificates"),
        ("import ssl\nssl._create_unverified_context()", "no certificates"),
        ("import tarfile\ntarfile.open('x').extractall()", "unpacks an archive"),
    ],
)
def test_each_detector_fires(source, what):
    assert what in [found for _, found in findings(source)]


def test_harmless_code_is_let_be():
    source = """
import importlib, os, re, subprocess, pickletools
import numpy as np
re.compile("x"); model.eval(); step.lower(x).compile(); np.load("x", allow_pickle=False)
subprocess.run(["ls"], shell=False); importlib.import_module("os.path"); os.path.join("https://x.org", "a")
"""
    assert findings(source) == []


def test_the_code_does_nothing_of_the_kind():
    files = [f for folder in ("vit_jax", "configs", "scripts") for f in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert len(files) > 30
    found = [
        (f.relative_to(REPOSITORY).as_posix(), line, what) for f in files for line, what in findings(f.read_text())
    ]
    counts = {}
    for file, _, what in found:
        counts[file, what] = counts.get((file, what), 0) + 1
    assert counts == ADMITTED, found


def requirements(text):
    """The requirements of a pip file, each with its options on one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def unlocked(text):
    pattern = r"[A-Za-z0-9._\[\],-]+==[^ ;]+( ;[^-]*)?( --hash=sha256:[0-9a-f]{64})+"
    return [line for line in requirements(text) if not re.fullmatch(pattern, line)]


def unhashed_installs(script):
    lines = [line for line in script.splitlines() if "pip install" in line or "${install[@]}" in line]
    lines = [line for line in lines if not re.match(r" *install=\(", line)]
    # This package itself, in place, with nothing else: there is nothing to hash.
    return [line for line in lines if "--require-hashes" not in line and not re.search(r"--no-deps .*-e \.$", line)]


@pytest.mark.parametrize("lock", sorted(REPOSITORY.glob("requirements*.lock")), ids=lambda file: file.name)
def test_every_requirement_is_locked_by_hash(lock):
    text = lock.read_text()
    assert len(requirements(text)) > 50 and unlocked(text) == []
    digest = "--hash=sha256:" + "0" * 64
    for bad in ("x==1", f"x>=1 {digest}", f"x @ https://x.org/x.whl {digest}", "-e .", "--index-url=http://x.org"):
        assert unlocked(bad)


def test_the_set_up_installs_by_hash_only():
    script = (REPOSITORY / "scripts" / "setup.sh").read_text()
    assert script.count('"${install[@]}" --require-hashes ') == 2 and unhashed_installs(script) == []
    # Without an environment of its own, for which pip would fetch setuptools without a hash.
    assert script.count("--no-build-isolation") == 2
    assert "pip" not in (REPOSITORY / "Dockerfile").read_text().replace("PIP_CACHE_DIR", "")
    for bad in ("pip install -r requirements.lock", "uv pip install x", '"${install[@]}" -r x.lock'):
        assert unhashed_installs(bad)
