"""A sample of each promise; scripts/torture.py tries them many times over."""

import os
import random
import subprocess
import sys

import pytest
from promises.everything import CHILDREN, HERE
from promises.harness import REPOSITORY, Bench, Broken

QUICK = ("P4", "P6", "P7", "P8", "P10", "P11", "P18", "P19")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CHILDREN | HERE]
)
def test_a_sample_of_each_promise(name, straight_runs, tmp_path):
    bench = Bench(tmp_path, False, random.Random(name), straight_runs)
    assert list((CHILDREN | HERE)[name](bench))


def test_a_broken_promise_is_noticed(straight_runs, tmp_path, monkeypatch):
    """Were damaged checkpoints loaded, P8 would say so: the trial can fail."""
    from vit_jax.runs import manifest

    monkeypatch.setattr(manifest, "damage", lambda folder, only="": None)
    bench = Bench(tmp_path, False, random.Random(0), straight_runs)
    with pytest.raises(Broken):
        list(HERE["P8"](bench))


@pytest.mark.slow
def test_torture_prints_a_table_and_ends_with_1_if_a_promise_broke(tmp_path):
    command = [sys.executable, "scripts/torture.py", "--quick", "--promises=P11,P19,P27"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("P11       1      1", "P19       2      2", "P27       5      5", "all that was tried held"):
        assert line in done.stdout
    # A chain of broken promises: the table is printed all the same.
    program = "import sys; sys.argv[1:] = ['--quick', '--promises=P11,P19']; sys.path[:0] = ['scripts', 'tests', '.']\n"
    program += "import torture, vit_jax.runs.checkpoints as c; c.ranked = lambda scores: []; sys.exit(torture.main())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN: P11\n" in done.stdout and "P19       2      2" in done.stdout
