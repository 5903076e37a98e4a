"""metrics.jsonl across restarts, and the clock."""

import json
import time

import pytest

from vit_jax.runs import metrics
from vit_jax.steps.clock import Clock


def write(workdir, rows):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("evaluated", "kept"), [(True, 4), (False, 2)])
def test_rows_that_will_come_again_are_dropped(tmp_path, evaluated, kept):
    splits = ((1, "train"), (2, "train"), (2, "train_epoch"), (2, "validation"), (3, "train"))
    rows = [{"step": step, "split": split} for step, split in splits]
    write(tmp_path, rows)
    file = metrics.MetricsFile(tmp_path, 2, evaluated)
    assert metrics.read(tmp_path) == rows[:kept]
    file.write({"step": 3, "split": "train"})
    file.close()
    assert metrics.read(tmp_path) == [*rows[:kept], rows[-1]]


def test_a_new_run_starts_an_empty_file(tmp_path):
    write(tmp_path, [{"step": 1, "split": "train"}])
    metrics.MetricsFile(tmp_path, 0, True).close()
    assert metrics.read(tmp_path) == []


def test_a_line_cut_off_by_a_crash_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": 2, "spl')
    assert metrics.read(tmp_path) == [{"step": 1, "split": "train"}]


def test_the_clock_goes_on_across_starts_and_leaves_pauses_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(90.0, {"wall": 1000.0, "compile": 5.0, "train": 50.0, "train_images": 500.0})
    clock.resume()
    now[0] += 10
    clock.resume()  # changes nothing
    clock.add("train_images", 200)
    clock.pause()
    now[0] += 30
    clock.add("compile", 2.0)
    expected = {"wall": 1050.0, "compile": 7.0, "train": 60.0, "train_images": 700.0}
    assert expected.items() <= clock.totals().items()
    assert clock.images_per_second() == pytest.approx(700 / 60)
