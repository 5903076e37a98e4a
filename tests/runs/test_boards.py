"""Boards and trackers: they get a run's figures once, whatever fails there stops no run."""

import json
import threading

import pytest

from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.runs import trackers
from vit_jax.runs.boards import InBackground

ROWS = [{"step": step, "split": "train", "loss": 1.0 / step, "skipped": None} for step in (1, 2, 3)]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """MLflow's client of a store in files."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow prefers a data base since 3.7
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def tracked(name, workdir, before, new, finished=True):
    """What a start of a run does: opens the tracker with the rows so far, writes new ones, ends."""
    board = InBackground(f"figures for {name}", lambda: trackers.open_tracker(name, workdir, Config(seed=7)), before)
    for row in new:
        board.write(row)
    board.close(finished, timeout=60)
    return json.loads((workdir / "tracker.json").read_text())[name]["id"]


def test_a_run_that_goes_on_goes_on_in_mlflow(store, tmp_path):
    workdir = tmp_path / "runs" / "first"
    workdir.mkdir(parents=True)
    run = tracked("mlflow", workdir, [], ROWS[:2], finished=False)
    found = store.get_run(run)
    assert found.info.status == "KILLED" and found.info.run_name == "runs/first"
    assert found.data.params["seed"] == "7" and found.data.params["optim.learning_rate"] == "0.001"
    # Killed after step 1 was saved: step 2 comes again.
    again = tracked("mlflow", workdir, ROWS[:1], [*ROWS[1:], {"step": 3, "split": "test", "top1": 0.5}])
    assert again == run and store.get_run(run).info.status == "FINISHED"
    history = [(metric.step, metric.value) for metric in store.get_metric_history(run, "train/loss")]
    assert history == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert store.get_run(run).data.metrics == {"train/loss": 1 / 3, "test/top1": 0.5}


def test_what_mlflow_missed_comes_with_the_next_start(store, tmp_path):
    run = tracked("mlflow", tmp_path, [], ROWS[:1])
    assert tracked("mlflow", tmp_path, ROWS[:2], ROWS[2:]) == run
    assert [metric.step for metric in store.get_metric_history(run, "train/loss")] == [1, 2, 3]


OFFLINE = """
import sys
from pathlib import Path
from vit_jax.config import Config
from vit_jax.runs import trackers
board = trackers.open_tracker(sys.argv[1], Path(sys.argv[2]), Config())
board.write(1, {"train/loss": 0.5})
board.close(finished=True)
"""


def test_another_store_of_mlflows_gets_a_run_of_its_own(store, tmp_path, monkeypatch, capsys):
    first = tracked("mlflow", tmp_path, [], ROWS[:1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'other'}")
    second = tracked("mlflow", tmp_path, ROWS[:1], ROWS[1:])
    assert second != first and "it gets a new one" in capsys.readouterr().out
    history = type(store)().get_metric_history(second, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3]


def test_a_figure_that_was_sent_is_not_sent_again():
    sent = {"train/loss": 5}
    assert trackers.new_of(5, {"train/loss": 1.0, "validation/loss": 2.0}, sent) == {"validation/loss": 2.0}
    # The test of an earlier, better checkpoint comes last.
    assert trackers.new_of(3, {"test/loss": 3.0}, sent) == {"test/loss": 3.0}
    assert sent == {"train/loss": 5, "validation/loss": 5, "test/loss": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package", "left"), [("wandb", "wandb", "wandb/offline-run-*/*.wandb"), ("comet", "comet_ml", "*.zip")]
)
def test_without_a_key_the_figures_stay_in_the_workdir(name, package, left, tmp_path, process):
    pytest.importorskip(package)
    child = process(name, str(tmp_path), code=OFFLINE)
    printed, _ = child.communicate(timeout=120)
    assert child.returncode == 0, printed
    assert len(list(tmp_path.glob(left))) == 1
    noted = json.loads((tmp_path / "tracker.json").read_text())[name]
    assert noted["id"] and noted["sent"] == {"train/loss": 1}


def test_a_board_that_fails_is_said_once_and_stops_nothing(capsys):
    class Full:
        def write(self, step, scalars):
            raise OSError("no room")

        def close(self, finished):
            raise AssertionError("it is given up")

    board = InBackground("figures for Full", Full, ROWS)
    for row in ROWS:
        board.write(row)
    board.close(finished=True, timeout=60)
    printed = capsys.readouterr().out
    assert printed == "No figures for Full (OSError: no room). The figures are in metrics.jsonl.\n"


def test_a_board_that_does_not_answer_is_not_waited_for(capsys):
    class Deaf:
        def __init__(self):
            self.heard = threading.Event()

        def write(self, step, scalars):
            self.heard.wait(20)

        def close(self, finished):
            pass

    deaf = Deaf()
    board = InBackground("figures for Deaf", lambda: deaf, ROWS)
    board.close(finished=True, timeout=0.05)
    assert "figures for Deaf" in capsys.readouterr().out
    deaf.heard.set()


def test_a_tracker_that_is_not_installed_is_a_mistake(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config.log.tracker='comet' needs the package comet_ml: pip install 'vit-jax"):
        trackers.check_installed("comet")
    trackers.check_installed("none")
