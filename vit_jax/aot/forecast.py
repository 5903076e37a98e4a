"""Does a run fit, and how fast can it be at most? From the figures of its compiled programs."""

from collections.abc import Callable
from dataclasses import dataclass

from vit_jax.aot.compiled import Figures
from vit_jax.aot.machines import Machine
from vit_jax.aot.programs import Run, Traced
from vit_jax.models import flops

Compile = Callable[[Traced, Machine], Figures]

_ATTEMPTS = 5  # of compiling, in a search for the largest batch


@dataclass(frozen=True)
class Forecast:
    """Of one program on one machine: all that its figures tell. Times are of the whole program."""

    program: str
    images: int  # that it takes, over all devices
    figures: Figures
    needed: int  # bytes of a device's memory, with what else lies there at the time
    capacity: int  # bytes
    flops: int  # of one device, by our count
    seconds_by_flops: float | None  # at the device's peak; None where that isn't known
    seconds_by_bytes: float  # at its memory's

    @property
    def fits(self) -> bool:
        return not self.figures.missing and self.needed <= self.capacity

    @property
    def seconds(self) -> float:
        """The least that it can take: the roofline (Williams et al. 2009)."""
        return max(self.seconds_by_flops or 0.0, self.seconds_by_bytes)

    @property
    def utilization(self) -> float | None:
        """Model FLOPs utilization at that speed."""
        return self.seconds_by_flops / self.seconds if self.seconds_by_flops and self.seconds else None


def forecast(run: Run, compile_: Compile) -> list[Forecast]:
    """Compiles all programs of a run."""
    return [_of(run, program, compile_(program, run.machine)) for program in run.programs]


def _of(run: Run, program: Traced, figures: Figures) -> Forecast:
    # While it evaluates, a run keeps its state and its images; the parameters are counted among the arguments.
    beside = 0 if program.steps else max(run.state_bytes + run.data_bytes - figures.arguments, 0)
    needed = figures.peak + beside if not figures.missing else run.machine.memory + figures.missing
    peak = flops.peak(run.machine.device_kind) if run.config.model.dtype == "bfloat16" else None
    return Forecast(
        program=program.name,
        images=program.images,
        figures=figures,
        needed=needed,
        capacity=run.machine.memory,
        flops=program.flops,
        seconds_by_flops=program.flops / peak if peak else None,
        seconds_by_bytes=figures.traffic / run.machine.bandwidth,
    )


def largest_batch(at: Callable[[int], Run], run: Run, compile_: Compile) -> tuple[int, list[Forecast]]:
    """The largest batch of training that was seen to fit, in steps of 8 images a device, and its programs.

    `at` gives the run with another batch size, `run` is the one with the config's own. Between batches that were
    compiled, memory is taken to grow evenly; the last ones are compiled. At most the train split; 0 where not even 8 a
    device fit.
    """
    unit = 8 * run.machine.devices
    tried: dict[int, list[Forecast]] = {}
    batch = max(run.config.train.batch_size // unit, 1) * unit
    for _ in range(_ATTEMPTS):
        tried[batch] = forecast(at(batch), compile_)
        batch = min(_next(tried, run, unit), run.num_train // unit * unit)
        if batch in tried or batch == 0:
            break
    fitting = [size for size, found in tried.items() if all(one.fits for one in found)]
    best = max(fitting, default=0)
    return best, tried.get(best, [])


def _next(tried: dict[int, list[Forecast]], run: Run, unit: int) -> int:
    """The batch at which the memory should be just full, by those that were tried."""
    most = {size: max(one.needed for one in found) for size, found in tried.items()}
    fixed = run.state_bytes + run.data_bytes
    if len(most) == 1:
        ((size, needed),) = most.items()
        guess = size * (run.machine.memory - fixed) / max(needed - fixed, 1)
        # Beyond all that is known, with some care.
        return int(0.97 * guess // unit) * unit
    (a, low), (b, high) = sorted(sorted(most.items(), key=lambda item: abs(item[1] - run.machine.memory))[:2])
    slope = (high - low) / (b - a)
    if slope <= 0:
        return 0
    guess = int((a + (run.machine.memory - low) / slope) // unit) * unit
    too_large = [size for size, needed in most.items() if needed > run.machine.memory]
    fits = [size for size, needed in most.items() if needed <= run.machine.memory]
    if too_large and guess >= min(too_large):
        guess = min(too_large) - unit
    if fits and guess <= max(fits):
        return max(fits)
    return guess


def estimated_batch(run: Run, found: list[Forecast]) -> int:
    """About the largest batch that fits, from one compiled: what isn't state or data grows with the batch."""
    unit, fixed = 8 * run.machine.devices, run.state_bytes + run.data_bytes
    training = [one for one, program in zip(found, run.programs, strict=True) if program.steps]
    growing = max(max(one.needed for one in training) - fixed, 1)
    most = run.config.train.batch_size * (run.machine.memory - fixed) / growing
    return int(min(most, run.num_train) // unit) * unit
