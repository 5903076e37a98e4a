"""Runs whose images stay encoded: exact after a stop, and the same by one process or two, or by two and then by one.

Batches are the resident ones: see data/test_streaming.py. scripts/torture.py kills such runs.
"""

import signal

import numpy as np
import pytest
from promises import streamed
from promises.faults import Faults
from promises.harness import Child, arrays, call, free_address, require_same, rows, stopping_after

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    pytest.importorskip("tensorflow")
    return streamed.pictures(tmp_path_factory.mktemp("streamed") / "pictures")


def args_of(pictures, pipeline, workdir):
    return [*streamed.args_of(pictures, pipeline), f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def straight(pictures, tmp_path_factory):
    """The workdir of a run that nothing interrupted, in this process."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    code, printed = call(*args_of(pictures, "auto", workdir))
    assert code == 0 and "Train images: decoded; random crops are cut out of whole images" in printed, printed
    return workdir


def test_a_stop_in_mid_epoch_leaves_the_straight_run(pictures, straight, command, tmp_path):
    args = args_of(pictures, "auto", tmp_path / "stopped")
    with stopping_after({13}, signal.SIGTERM):  # of an epoch of 3 steps
        assert command(*args)[0] == 143
    assert command(*args)[0] == 0
    require_same(tmp_path / "stopped", straight)


def test_two_processes_and_then_one_train_as_one(pictures, straight, tmp_path):
    args = args_of(pictures, "decoded", tmp_path / "run")
    peers = [f"--coordinator_address={free_address()}", "--num_processes=2", "--peer_timeout=100"]
    slow = Faults(slow={"step": 0.1})
    with (
        Child(*args, *peers, "--process_id=0", faults=slow, log=tmp_path / "0") as one,
        Child(*args, *peers, "--process_id=1", faults=slow, log=tmp_path / "1") as other,
    ):
        assert one.wait_until(lambda: len(rows(tmp_path / "run", "train")) >= 13, 200), one.tail()
        other.send(signal.SIGTERM)
        codes = [child.wait(200) for child in (one, other)]
        assert codes == [143, 143], (one.tail(), other.tail())
    with Child(*args, devices=2, log=tmp_path / "alone") as alone:
        assert alone.wait(200) == 0 and "Resuming after step" in alone.printed(), alone.tail()
    losses, expected = ([row["loss"] for row in rows(run, "train")] for run in (tmp_path / "run", straight))
    np.testing.assert_allclose(losses, expected, atol=1e-4)  # of all steps: each image was seen where it should be
    found, expected = arrays(tmp_path / "run"), arrays(straight)
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        # Sums over devices and over processes differ in their order, and Adam makes much of gradients near zero.
        np.testing.assert_allclose(found[path], values, rtol=0, atol=1e-4, err_msg=path)
