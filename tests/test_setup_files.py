"""The locks are what setup.cfg asks for, for each accelerator and Python; the container is made of what is meant."""

import configparser
import fnmatch
import re
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
LOCKS = {"cpu": "requirements.lock"} | {name: f"requirements-{name}.lock" for name in ("cuda12", "cuda13", "tpu")}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
WITH_TENSORFLOW = {"clu", "importlib-resources", "tensorboard", "tensorflow-cpu", "tensorflow-datasets"}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def machine(python):
    """The markers of a Linux machine."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }


def locked(accelerator, python):
    """{package: version} that the lock installs there."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]*)", (REPOSITORY / LOCKS[accelerator]).read_text(), flags=re.MULTILINE)
    found = [Requirement(line) for line in lines]
    chosen = [r for r in found if r.marker is None or r.marker.evaluate(machine(python))]
    names = [canonical(r.name) for r in chosen]
    assert len(names) == len(set(names)), "two versions of a package for one machine"
    return {name: Version(str(r.specifier)[2:]) for name, r in zip(names, chosen, strict=True)}


def wanted(accelerator, python):
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    text = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if accelerator != "cpu":
        assert setup["options.extras_require"][accelerator].strip() == f"jax[{accelerator}]"
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate(machine(python))]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("accelerator", LOCKS)
def test_each_lock_satisfies_setup_cfg(accelerator, python):
    versions = locked(accelerator, python)
    requirements = wanted(accelerator, python)
    assert len(requirements) > 20
    for requirement in requirements:
        assert requirement.specifier.contains(versions[canonical(requirement.name)]), requirement
    for cuda in ("cuda12", "cuda13"):
        for part in ("plugin", "pjrt"):  # JAX refuses one of another version
            assert versions.get(f"jax-{cuda}-{part}") == (versions["jaxlib"] if accelerator == cuda else None)
    assert ("libtpu" in versions) == (accelerator == "tpu")
    assert bool(WITH_TENSORFLOW & versions.keys()) == (python != "3.14")


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_agree_on_what_they_share(python):
    for one, other in pairwise(locked(accelerator, python) for accelerator in LOCKS):
        shared = one.keys() & other.keys()
        assert len(shared) > 60
        assert {name: one[name] for name in shared} == {name: other[name] for name in shared}


def test_every_lock_is_one_that_the_set_up_installs():
    assert {file.name for file in REPOSITORY.glob("*.lock")} == set(LOCKS.values())


def allowed():
    """What .dockerignore lets into the image, as patterns."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "all but what is named stays out"
    assert all(line.startswith("!") or line == "**/__pycache__" for line in lines[1:])
    return [line[1:] for line in lines[1:] if line.startswith("!")]


def test_the_image_holds_what_the_set_up_needs_and_no_more():
    patterns = allowed()
    for pattern in patterns:
        assert list(REPOSITORY.glob(pattern)), f"{pattern} is not there"

    def inside(path):
        return any(fnmatch.fnmatch(path.split("/")[0], pattern) for pattern in patterns)

    needed = [*LOCKS.values(), "setup.cfg", "pyproject.toml", "README.md", "scripts/setup.sh", "configs", "vit_jax"]
    assert all(map(inside, needed))
    secrets = (".git", ".env", ".netrc", ".ssh", ".venv", "id_rsa", "kaggle.json", "runs", "data", "shared", "tests")
    assert not any(map(inside, secrets))


def test_the_image_is_built_by_the_set_up_and_runs_as_a_user():
    text = re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line and line[0] != "#"]
    names = [name for name, _ in steps]
    assert re.fullmatch(r"python:3\.1[1-3]-slim-\w+", dict(steps)["FROM"])
    assert "ACCELERATOR=cpu" in [value for name, value in steps if name == "ARG"]
    assert [value for name, value in steps if name == "USER"] == ["1000"]
    user, copied = names.index("USER"), names.index("COPY")
    assert "--uid 1000" in steps[user - 1][1]
    assert user < copied and names[copied:].count("RUN") == 1  # nothing that is copied in runs as root
    (run,) = [value for name, value in steps[copied:] if name == "RUN"]
    assert run.endswith('VIT_JAX_ACCELERATOR="$ACCELERATOR" ./scripts/setup.sh')
    assert dict(steps)["ENTRYPOINT"] == '["vit-jax"]'
    assert not re.search(r"(?i)token|password|secret|_key|curl|wget", text)
