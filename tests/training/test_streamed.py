"""Runs whose images stay encoded: exact after a stop, and the same by one process or two.

Batches are the resident ones: see data/test_streaming.py. scripts/torture.py kills such runs.
"""

import signal
import socket

import numpy as np
import pytest
from promises import streamed
from promises.harness import Child, arrays, call, require_same, stopping_after

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


def test_two_processes_train_as_one(pictures, straight, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    args = args_of(pictures, "decoded", tmp_path / "run")
    args += [f"--coordinator_address={address}", "--num_processes=2", "--peer_timeout=100"]
    with (
        Child(*args, "--process_id=0", log=tmp_path / "0") as one,
        Child(*args, "--process_id=1", log=tmp_path / "1") as other,
    ):
        codes = [child.wait(200) for child in (one, other)]
        assert codes == [0, 0], (one.tail(), other.tail())
    found, expected = arrays(tmp_path / "run"), arrays(straight)
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        # Sums over devices and over processes differ in their order, and Adam makes much of gradients near zero.
        np.testing.assert_allclose(found[path], values, rtol=0, atol=1e-4, err_msg=path)
