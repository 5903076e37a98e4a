"""The list of models says what a model has without building it, and what a config is about without running it."""

import pytest

from vit_jax.cli.config_files import shipped
from vit_jax.cli.listing import ReadyMade, parameters, ready_made
from vit_jax.config import ModelConfig
from vit_jax.models import create, resolve
from vit_jax.steps import state


@pytest.mark.parametrize(("variant", "published"), [("Ti/16", 5_717_416), ("L/16", 304_326_632)])
def test_parameters_are_the_published_ones(variant, published):
    model = resolve(ModelConfig(variant=variant, image_size=224, num_classes=1000))
    # The published models have a class token, with a position of its own.
    assert parameters(model) == published - 2 * model.width


def test_parameters_are_those_of_the_whole_model():
    model = resolve(ModelConfig(variant="Ti/8", num_classes=10, depth=3))
    assert parameters(model) == state.count(state.abstract_params(create(model)))


def test_the_table_has_each_model_with_each_patch_size_that_fits(command):
    code, printed = command("list", "--image_size=14", "--num_classes=7")
    assert code == 0, printed
    rows = {cells[0]: cells[1:] for line in printed.splitlines() if len(cells := line.replace("│", " ").split()) == 8}
    assert [name for name in rows if name.startswith("Ti/")] == ["Ti/2", "Ti/14"]
    model = resolve(ModelConfig(variant="S/2", image_size=14, num_classes=7))
    tokens, count = 7 * 7, f"{parameters(model):,}"
    assert rows["S/2"][:6] == ["384", "12", "6", "1536", str(tokens), count]
    # 12 d^2 multiply-adds a block and token, attention's 2 N d, patches and head.
    macs = 12 * tokens * (12 * 384**2 + 2 * tokens * 384) + tokens * 12 * 384 + 384 * 7
    assert rows["S/2"][6] == f"{2 * macs / 1e9:.2f}"
    assert "--config.model.variant=S/2 --config.model.image_size=14" in printed
    assert "To train one: vit-jax --config=base " in printed


def test_every_config_says_what_it_is_what_to_expect_and_what_it_costs(command):
    configs = ready_made(shipped())
    assert {"quickstart", "laptop", "article", "base"} <= {config.name for config in configs}
    for config in configs:
        assert config.what.endswith((".", "?")) and config.expected and config.budget, config
    code, printed = command("list")
    assert code == 0
    for config in configs:
        assert config.name in printed and config.budget.split()[0] in printed
    assert "85.33 +- 0.20 %" in printed


def test_a_size_that_no_patch_divides_is_refused(command):
    code, printed = command("--mode=list", "--image_size=33")
    assert code == 2
    assert "--image_size=33" in printed and "2, 4, 8, 14, 16, 32" in printed and len(printed.splitlines()) == 1


def test_configs_are_read_and_not_run(tmp_path):
    told = '"""Of mine.\n\nExpected: 90 %\nBudget: a day\n\nMore."""\n'
    (tmp_path / "mine.py").write_text(told + 'raise SystemExit("it ran")\ndef get_config(): ...\n')
    (tmp_path / "helper.py").write_text('"""No config."""\n')
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    (tmp_path / "bare.py").write_text("def get_config(): ...\n")
    assert ready_made(tmp_path) == [
        ReadyMade("bare", ""),
        ReadyMade("broken", "(can't be read)"),
        ReadyMade("mine", "Of mine.", "90 %", "a day"),
    ]
    assert ready_made(tmp_path / "elsewhere") == []
