"""The published figures, made again: what agrees, what differs, what can't be made."""

import json
import subprocess

import pytest

from scripts import figures
from scripts.figures import Bench, Figure, made, table
from vit_jax.training import seeds


class Made(Bench):
    """A bench whose programs have run before: what they left lies in its folder."""

    def python(self, *args):
        return "31 passed in 4.2s"


@pytest.fixture
def bench(tmp_path):
    return Made(tmp_path, tmp_path)


def write(bench, name, content):
    file = bench.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(("mean", "agrees"), [(98.7, True), (97.9, False)])
def test_seeds_agree_within_their_spread(bench, mean, agrees):
    top1 = [mean / 100 + off for off in (-0.004, -0.002, 0.0, 0.002, 0.004)]
    write(bench, "quickstart/summary.json", {"top1": seeds.spread(top1)})
    (row,) = made(bench, ["quickstart"])
    assert row.recorded == "98.94 +- 0.36" and row.now == f"{mean:.2f} +- 0.32" and row.agrees is agrees


def test_the_articles_first_epochs(bench):
    splits = [("train", 0.1), ("validation", 0.47), ("validation", 0.6)]
    rows = [{"step": step, "split": split, "top1": top1} for step, (split, top1) in enumerate(splits)]
    write(bench, "article/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [(row.now, row.agrees) for row in made(bench, ["article"])] == [("47.00", True), ("60.00", False)]


def test_what_depends_on_the_cpu_is_compared_with_its_kind(bench, monkeypatch):
    write(bench, "laptop/results.json", {"top1": 0.8, "top1_flips": 0.81, "total_seconds": 598.0})
    monkeypatch.setattr(figures.processor, "instruction_sets", lambda: ("AVX2",))
    assert [row.agrees for row in made(bench, ["laptop"])] == [True, True, True]
    monkeypatch.setattr(figures.processor, "instruction_sets", lambda: ("AVX-512", "AVX2"))
    assert [row.agrees for row in made(bench, ["laptop"])] == [False, False, True]
    monkeypatch.setattr(figures.processor, "instruction_sets", lambda: ("NEON",))
    assert [row.agrees for row in made(bench, ["laptop"])] == [None, None, True]


def test_the_fastest_peer_is_compared_with_what_a_user_gets(bench, monkeypatch):
    monkeypatch.setattr(figures.processor, "instruction_sets", lambda: ("AVX2",))
    seconds = {"vit_jax": 1.0, "vit_jax_bf16": 0.9, "vit_jax_1_device": 0.5, "torch_eager": 1.3, "keras_jax": 1.08}
    rows = [{"contestant": name, "seconds_per_step": s} for name, s in seconds.items()]
    rows.append({"contestant": "torch_compile", "absent": "it failed"})
    for model in ("vit_d192", "conv_stem"):
        write(bench, f"speed_{model}.json", {"rows": rows})
    assert [(row.now, row.agrees) for row in made(bench, ["speed"])] == [("1.20 (keras_jax)", True)] * 2


def test_runs_of_another_commit_are_not_taken_for_now(bench):
    made(bench, ["parity"])
    (bench.folder / "commit.txt").write_text("abc")
    with pytest.raises(ValueError, match="of commit abc"):
        made(bench, ["parity"])


def test_what_can_not_be_made_is_said_and_the_rest_is_made(bench, tmp_path, monkeypatch):
    def failing(bench):
        raise subprocess.CalledProcessError(2, "python")
        yield

    monkeypatch.setitem(figures.FIGURES, "broken", Figure(failing, 1))
    rows = made(Made(tmp_path, None), ["laptop", "broken", "parity"])
    assert [row.agrees for row in rows] == [None, False, True]
    printed = table(rows)
    assert "left out: it needs --data_dir" in printed and printed.count("**differs**") == 1
    assert "| 31 tests passed | agrees |" in printed
