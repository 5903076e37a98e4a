"""Tables show all that is in them, however narrow the terminal is."""

import pytest

from vit_jax.system import progress

HEADER = ("model", "width", "depth", "heads", "mlp_dim", "tokens", "parameters", "GFLOPs")
ROWS = [
    ("Ti/16", "192", "12", "3", "768", "4", "5,489,098", "0.04"),
    ("L/2", "1024", "24", "16", "4096", "256", "302,597,130", "161.07"),
]
LONG = "a class of birds with a name that goes on and on, and a Latin one"


def printed(capsys, monkeypatch, columns, *table):
    monkeypatch.setattr(progress.console, "width", columns)
    progress.say_table(*table)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80])
def test_figures_are_whole(columns, capsys, monkeypatch):
    out = printed(capsys, monkeypatch, columns, "Models", ROWS, HEADER)
    lines = [line for line in out.splitlines() if "L/2" in line or "Ti/16" in line or "model" in line]
    assert [line.replace("│", " ").replace("┃", " ").split() for line in lines] == [
        list(row) for row in (HEADER, *ROWS)
    ]
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize(
    "row", [(LONG, "93.21 %"), ("loss", f"0.1, 95 % interval of the mean {LONG}"), ("x" * 90, "1")]
)
def test_long_texts_are_wrapped_and_not_cut(row, capsys, monkeypatch):
    out = printed(capsys, monkeypatch, 60, "t", [row])
    assert "…" not in out and max(map(len, out.splitlines())) <= 60
    letters = sorted("".join(row).replace(" ", ""))
    assert sorted("".join(out.splitlines()[1:]).replace(" ", "")) == letters
