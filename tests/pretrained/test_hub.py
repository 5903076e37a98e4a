"""Weights by their name on the Hugging Face Hub, of one commit, offline once they are there."""

import dataclasses
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vit_jax import pretrained
from vit_jax.config import Config, DataConfig
from vit_jax.errors import UserError
from vit_jax.models import resolve
from vit_jax.pretrained.start import with_model
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import to_dict

WEIGHTS = Path(__file__).parents[1] / "fixtures/pretrained/hf_vit"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for huggingface_hub that notes what is asked of it."""
    snapshot, asked = tmp_path / "hub" / COMMIT, []
    shutil.copytree(WEIGHTS, snapshot)
    library, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    errors.HfHubHTTPError = type("HfHubHTTPError", (Exception,), {})
    errors.RepositoryNotFoundError = type("RepositoryNotFoundError", (errors.HfHubHTTPError,), {})
    errors.RevisionNotFoundError = type("RevisionNotFoundError", (errors.HfHubHTTPError,), {})

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision))
        assert allow_patterns == ["model*.safetensors", "*.json"]
        if repository.startswith("no/"):
            raise errors.RepositoryNotFoundError("404")
        if repository.startswith("offline/"):
            raise OSError("no route to host")
        return str(snapshot)

    library.snapshot_download, library.errors = snapshot_download, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked


def test_weights_are_those_of_the_name(hub):
    module, _ = pretrained.load("hf://owner/name@v1.0")
    assert hub == [("owner/name", "v1.0")] and module.cfg.width == 48


def test_a_run_keeps_the_commit_that_it_began_with(hub, tmp_path):
    config = with_model(Config(init_from="hf://owner/name", data=DataConfig(name="fake")), None)
    assert config.init_from == f"hf://owner/name@{COMMIT}"
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")
    run.write("config.json", to_dict(dataclasses.replace(config, model=resolve(config.model, 5))))
    hub.clear()
    for name in ("hf://owner/name", "hf://owner/name@main", f"hf://owner/name@{COMMIT[:8]}", config.init_from):
        again = with_model(Config(init_from=name, data=DataConfig(name="fake")), str(run.path))
        assert run.same_config(again).init_from == config.init_from and not hub
    for name in ("hf://owner/other", "hf://owner/name@89abcdef"):
        with pytest.raises(UserError, match="init_from"):
            run.same_config(with_model(Config(init_from=name, data=DataConfig(name="fake")), str(run.path)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://no/such", "there is no such repository or revision main"),
        ("hf://offline/name@v1", r"no route to host.*hf download offline/name --revision v1"),
        ("hf://name", "named hf://OWNER/NAME"),
    ],
)
def test_what_can_not_be_fetched_gets_one_message(name, message, hub):
    with pytest.raises(UserError, match=message):
        pretrained.load(name)


def test_without_the_library_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"vit-jax\[hub\].*`hf download owner/name --include"):
        pretrained.load("hf://owner/name")
