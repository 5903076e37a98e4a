"""Whether a run fits, how fast it can be, and the largest batch, from figures."""

import dataclasses

import pytest

from vit_jax.aot.compiled import Figures
from vit_jax.aot.forecast import estimated_batch, forecast, largest_batch
from vit_jax.aot.machines import GIB, machine
from vit_jax.aot.programs import Run, Traced
from vit_jax.config import Config
from vit_jax.errors import UserError

STATE, DATA = GIB, GIB // 2


def run_at(batch_size, target="h100"):
    base = Config()
    config = dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, batch_size=batch_size),
        model=dataclasses.replace(base.model, dtype="bfloat16"),
    )
    programs = (
        Traced("step", None, 989 * 10**9, batch_size, 1),  # a millisecond of an H100
        Traced("evaluation", None, 10**9, 500, 0),
    )
    return Run(config, machine(target), programs, STATE, STATE // 4, DATA, 1_000_000)


def compiled(bytes_per_image, overhead=0):
    """A compiler whose step's temporaries grow with the batch, unevenly if there is an `overhead`."""

    def compile_(program, _):
        if not program.steps:
            return Figures(arguments=GIB // 4, temporaries=GIB, traffic=1e9)
        temporaries = program.images * bytes_per_image + (overhead if program.images > 4000 else 0)
        return Figures(arguments=STATE + DATA, temporaries=temporaries, traffic=3.35e10)

    return compile_


def test_roofline():
    step, evaluation = forecast(run_at(1024), compiled(2**20))
    assert step.seconds_by_flops == pytest.approx(1e-3)
    assert step.seconds_by_bytes == pytest.approx(1e-2) == step.seconds
    assert step.utilization == pytest.approx(0.1)
    assert evaluation.utilization < 0.01


def test_memory_is_judged_with_what_lies_beside():
    step, evaluation = forecast(run_at(1024), compiled(2**20))
    assert step.needed == STATE + DATA + GIB and step.fits
    # The state and the images stay while a run evaluates; parameters are among both.
    assert evaluation.needed == STATE + DATA + GIB // 4 - STATE // 4 + GIB
    assert not forecast(run_at(100_000), compiled(2**20))[0].fits


def test_what_the_compiler_refuses_does_not_fit():
    found = forecast(run_at(64, "v5e-1"), lambda program, _: Figures(missing=GIB))
    assert not found[0].fits and found[0].needed == machine("v5e-1").memory + GIB
    assert found[0].seconds is None and found[0].utilization is None


@pytest.mark.parametrize("start", [8, 1024, 900_000])
@pytest.mark.parametrize("overhead", [0, 3 * GIB])
@pytest.mark.parametrize("target", ["h100", "v5e-4"])
def test_the_largest_batch_is_found_in_a_few_attempts(start, overhead, target):
    """Though the evaluation may need more than a small step does, and memory doesn't grow evenly."""
    attempts = []

    def compile_(program, one):
        attempts.append(program.images)
        return compiled(2**20, overhead)(program, one)

    run = run_at(start, target)
    best, found = largest_batch(lambda size: run_at(size, target), run, compile_)
    most = (run.machine.memory - STATE - DATA - overhead) / 2**20
    assert 0.9 * most <= best <= most
    assert best % (8 * run.machine.devices) == 0 and all(one.fits for one in found)
    assert len(set(attempts) - {500}) <= 5


def test_a_batch_is_no_larger_than_the_train_split():
    def at(size):
        return dataclasses.replace(run_at(size), num_train=5000)

    for start in (1024, 60_000):
        best, _ = largest_batch(at, at(start), compiled(2**20))
        assert best == 5000 == estimated_batch(at(1024), forecast(at(1024), compiled(2**20)))


def test_batches_are_those_that_micro_batches_divide():
    run = run_at(1024)
    run = dataclasses.replace(
        run, config=dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, accumulate=24))
    )
    tried = []
    largest_batch(lambda size: tried.append(size) or run_at(size), run, compiled(2**20))
    assert tried and all(size % 24 == 0 for size in tried)


def test_no_batch_fits():
    """As the state alone is too large, or the evaluation."""
    never = dataclasses.replace(run_at(1024), state_bytes=100 * GIB)
    found = forecast(never, lambda program, _: Figures(arguments=100 * GIB, temporaries=program.images))
    assert estimated_batch(never, found) == 0
    for images in (0, 10**9):  # of training, of the evaluation

        def compile_(program, _, images=images):
            return Figures(arguments=STATE + DATA, temporaries=(0 if program.steps else images) or 100 * GIB - images)

        best, found = largest_batch(run_at, run_at(1024), compile_)
        assert (best, found) == (0, [])


def test_the_estimate_is_of_what_grows():
    run = run_at(1024)
    assert estimated_batch(run, forecast(run, compiled(2**20))) == (run.machine.memory - STATE - DATA) // 2**20 // 8 * 8


@pytest.mark.parametrize(
    ("name", "devices", "platform"),
    [("h100", 1, "gpu"), ("h100x8", 8, "gpu"), ("a100-80x2", 2, "gpu"), ("v5e-16", 16, "tpu"), ("v5p-8", 4, "tpu"),
     ("v6e", 1, "tpu"), ("rtx4090", 1, "gpu"), ("v5e-256", 256, "tpu")],
)  # fmt: skip
def test_machines_by_name(name, devices, platform):
    found = machine(name)
    assert (found.devices, found.platform) == (devices, platform)
    assert found.target.devices == devices


@pytest.mark.parametrize("name", ["h300", "v5e-3", "h100x0", "v5ex4", ""])
def test_a_machine_that_is_not_known(name):
    with pytest.raises(UserError, match=f"--target={name}: (not known; there are h100|there is no slice of 3)"):
        machine(name)
