"""A process that is slower than the others of its job is named."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from promises.harness import RUN, Child, free_address

from vit_jax.system import laggards
from vit_jax.system.laggards import Laggards, slow_ones


def test_who_is_slow_and_at_what():
    figures = np.array([[0.010, 0.02], [0.011, 0.55], [0.025, 0.01], [0.010, 0.00]])
    found = slow_ones(figures)
    assert found.keys() == {(1, "reading"), (2, "computing")}
    assert "55 % of the time, the others 1 %" in found[1, "reading"]
    assert "2.5 times as slowly" in found[2, "computing"]
    assert not slow_ones(np.array([[0.010, 0.9], [0.011, 0.8]]))  # both wait: their disk is slow, neither of them


def test_a_process_is_named_the_second_time_in_a_row_and_once(monkeypatch):
    slow = iter([2.0, 1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(laggards, "_trial", lambda: lambda: 0.01)

    def gather(own):
        figures, name = own
        return np.stack([figures, figures * [next(slow), 1.0]]), np.stack([name, name])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    compared = Laggards()
    lines = [compared.compare() for _ in range(5)]
    assert [len(one) for one in lines] == [0, 0, 0, 1, 0]
    assert lines[3][0].startswith("Warning: process 1 of 2, on ") and "2.0 times as slowly" in lines[3][0]


def test_alone_nothing_is_compared():
    assert Laggards().compare() == []


@pytest.mark.slow
def test_a_job_says_which_of_its_processes_is_held_up(tmp_path):
    peers = [f"--coordinator_address={free_address()}", "--num_processes=2", "--peer_timeout=100"]
    args = [
        *RUN,
        "--config.train.length=12 steps",
        "--config.eval.every=3 steps",
        f"--workdir={tmp_path / 'run'}",
        *peers,
    ]
    with (
        Child(*args, "--process_id=0", log=tmp_path / "0") as first,
        Child(*args, "--process_id=1", log=tmp_path / "1") as other,
    ):
        done = threading.Event()

        def hold_up():  # once it trains it has a sixth of the time: less than other tests beside it leave the first
            other.wait_until(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 200)
            while not done.is_set() and other.process.poll() is None:
                other.send(19)  # SIGSTOP
                time.sleep(0.05)
                other.send(18)  # SIGCONT
                time.sleep(0.01)

        thread = threading.Thread(target=hold_up)
        thread.start()
        codes = [child.wait(300) for child in (first, other)]
        done.set()
        thread.join()
    assert codes == [0, 0], (first.tail(), other.tail())
    told = [line for line in first.printed().splitlines() if line.startswith("Warning: process")]
    assert any("process 1 of 2, on " in line and "as slowly as the others" in line for line in told), first.printed()
    assert "Warning: process" not in other.printed()
