"""Does a run fit, and how fast can it be? From the figures of its compiled programs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vit_jax.aot.compiled import Figures
from vit_jax.aot.machines import Machine
from vit_jax.aot.programs import Run, Traced
from vit_jax.models import flops

Compile = Callable[[Traced, Machine], Figures]

_ATTEMPTS = 5  # of compiling, in a search for the largest batch
# Shares of the memory: what is aimed at, as a TPU's compiler takes very long for what just fits, and what is enough.
_AIM, _ENOUGH = 0.97, 0.94


@dataclass(frozen=True)
class Forecast:
    """Of one program on one machine: all that its figures tell. Times are of the whole program."""

    program: str
    steps: int  # of training in it; 0: an evaluation
    images: int  # that it takes, over all devices
    figures: Figures
    needed: int  # bytes of a device's memory, with what else lies there at the time
    capacity: int  # bytes
    flops: int  # of one device, by our count
    seconds_by_flops: float | None  # at the device's peak; None where that isn't known
    seconds_by_bytes: float | None  # at its memory's, what caches hold included; None of what doesn't fit

    @property
    def fits(self) -> bool:
        return not self.figures.missing and self.needed <= self.capacity

    @property
    def seconds(self) -> float | None:
        """The longer of the two: the roofline (Williams et al. 2009)."""
        return None if self.seconds_by_bytes is None else max(self.seconds_by_flops or 0.0, self.seconds_by_bytes)

    @property
    def utilization(self) -> float | None:
        """Model FLOPs utilization at that speed."""
        return self.seconds_by_flops / self.seconds if self.seconds_by_flops and self.seconds else None


def forecast(run: Run, compile_: Compile) -> list[Forecast]:
    """Compiles all programs of a run."""
    return [_of(run, program, compile_(program, run.machine)) for program in run.programs]


def _of(run: Run, program: Traced, figures: Figures) -> Forecast:
    # While it evaluates, a run keeps its state and its images; the parameters are among what the program is given.
    beside = 0 if program.steps else run.state_bytes - run.param_bytes + run.data_bytes
    peak = flops.peak(run.machine.device_kind) if run.config.model.dtype == "bfloat16" else None
    return Forecast(
        program=program.name,
        steps=program.steps,
        images=program.images,
        figures=figures,
        needed=run.machine.memory + figures.missing if figures.missing else figures.peak + beside,
        capacity=run.machine.memory,
        flops=program.flops,
        seconds_by_flops=program.flops / peak if peak else None,
        seconds_by_bytes=None if figures.missing else figures.traffic / run.machine.bandwidth,
    )


def largest_step(found: list[Forecast]) -> Forecast:
    """The training program that needs most memory."""
    return max((one for one in found if one.steps), key=lambda one: one.needed)


def unit_of(run: Run) -> int:
    """Batches are looked for in steps of so many images: 8 a device, and what micro-batches divide."""
    devices = run.machine.devices
    return math.lcm(8 * devices, devices * (run.config.train.accumulate or 1))


def largest_batch(at: Callable[[int], Run], run: Run, compile_: Compile) -> tuple[int, list[Forecast]]:
    """The largest batch of training that was seen to fit, within some percent, and its programs.

    `at` gives the run with another batch size, `run` is the one with the config's own. Each attempt is compiled; where
    to try is told by those before, between which memory is taken to grow evenly. At most the train split; 0 where what
    was tried doesn't fit.
    """
    unit = unit_of(run)
    most = run.num_train // unit * unit
    batch = min(max(run.config.train.batch_size // unit, 1) * unit, most)
    tried: dict[int, list[Forecast]] = {}
    low, high = 0, most + unit  # the largest that fits, the smallest that doesn't
    for _ in range(_ATTEMPTS):
        if not low < batch < high:
            break
        found = tried[batch] = forecast(at(batch), compile_)
        if all(one.fits for one in found):
            low = batch
        elif largest_step(found).fits:  # the evaluation doesn't, whatever the batch
            break
        else:
            high = batch
        if low == batch and largest_step(found).needed >= _ENOUGH * run.machine.memory:
            break
        batch = min(max(_guess(tried, run), low + unit), high - unit) // unit * unit
    return low, tried.get(low, [])


def _guess(tried: dict[int, list[Forecast]], run: Run) -> int:
    """The batch at which training should just leave some memory, by those that were tried."""
    needed = {size: largest_step(found).needed for size, found in tried.items()}
    aim, fixed = _AIM * run.machine.memory, run.state_bytes + run.data_bytes
    # The two that come nearest; without a second, none at all needs what is there anyway.
    points = sorted(sorted((needed | {0: fixed}).items(), key=lambda point: abs(point[1] - aim))[:2])
    (a, less), (b, more) = points
    if more <= less:  # the compiler has made room in its own ways
        return (a + b) // 2
    return int(a + (b - a) * (aim - less) / (more - less))


def estimated_batch(run: Run, found: list[Forecast]) -> int:
    """About the largest batch that fits, from one compiled: what isn't state or data grows with the batch."""
    unit, fixed = unit_of(run), run.state_bytes + run.data_bytes
    growing = max(largest_step(found).needed - fixed, 1)
    most = run.config.train.batch_size * max(run.machine.memory - fixed, 0) / growing
    return int(min(most, run.num_train) // unit) * unit
