"""Which of a job's processes is slower than the others, and at what: in every step all wait for the slowest."""

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.system.sharding import batch_sharding, make_mesh, put_local

_SLOWER = 1.5  # times the others' median: then a process is named
_WAITING = 0.2  # of the time for its images, and the others half of that at most: likewise
_REPEATS = 5  # of the trial, of which the median counts
_LONG = 0.05  # seconds of each: what the host's threads do beside it should be little
_NAME = 64  # bytes of a host's name


class Laggards:
    """Compares a job's processes, from time to time; of one that is alone it does nothing."""

    def __init__(self) -> None:
        self._since, self._waited = time.monotonic(), 0.0
        self._trial: Callable[[], float] | None = None
        self._before: set[tuple[int, str]] = set()  # who was slow the last time, and at what
        self._told: set[tuple[int, str]] = set()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Within, the process waits for its images."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def resume(self) -> None:
        """Says that training begins, or goes on after something else."""
        self._since, self._waited = time.monotonic(), 0.0

    def compare(self) -> list[str]:
        """A line for each process that has become slow, at training since `resume`; all processes call this together.

        Each counts how long it has waited for images, and times a product on its own devices. One that is slow
        once may have had something else to do: it is named the second time in a row, and once.
        """
        if jax.process_count() == 1:
            return []
        waited = self._waited / max(time.monotonic() - self._since, 1e-9)
        self._trial = self._trial or _trial()
        name = np.frombuffer(platform.node().encode()[:_NAME].ljust(_NAME), np.uint8)
        figures, names = multihost_utils.process_allgather((np.array([self._trial(), waited], np.float32), name))
        slow = slow_ones(np.asarray(figures))  # (processes, 2)
        lines = [
            f"Warning: process {i} of {len(figures)}, on {bytes(names[i]).decode(errors='replace').strip()}, {what}; "
            "every step waits for it."
            for (i, kind), what in slow.items()
            if (i, kind) in self._before - self._told
        ]
        self._told |= self._before & slow.keys()
        self._before = set(slow)
        return lines


def slow_ones(figures: np.ndarray) -> dict[tuple[int, str], str]:
    """Of the seconds of a trial and the shares of the time waited for images, (processes, 2): what to say of whom."""
    found = {}
    for i, (seconds, waited) in enumerate(figures.tolist()):
        usual, usually = np.median(np.delete(figures, i, axis=0), axis=0)
        if seconds > _SLOWER * usual:
            found[i, "computing"] = (
                f"computes {seconds / usual:.1f} times as slowly as the others (is something else running there, or "
                "its device hot?)"
            )
        if waited > max(_WAITING, 2 * usually):
            found[i, "reading"] = (
                f"waits for its images {100 * waited:.0f} % of the time, the others {100 * usually:.0f} % (a slower "
                "disk, fewer cores?)"
            )
    return found


def _trial() -> Callable[[], float]:
    """Gives the seconds that the slowest device of this process takes for a product of its own."""
    devices = jax.local_devices()
    side, dtype = (512, jnp.float32) if devices[0].platform == "cpu" else (2048, jnp.bfloat16)
    # Random numbers, as zeros cost a device less power, and their products neither vanish nor explode.
    one = np.random.RandomState(0).normal(scale=side**-0.5, size=(1, side, side)).astype(dtype)
    x = put_local(np.repeat(one, len(devices), axis=0), batch_sharding(make_mesh(devices)))
    products = jax.jit(lambda x, turns: jax.lax.fori_loop(0, turns, lambda _, y: y @ x, x))

    def seconds(turns: int) -> float:
        began = time.monotonic()
        products(x, turns).block_until_ready()
        return (time.monotonic() - began) / turns

    seconds(8)  # compiles
    turns = max(int(_LONG / seconds(8)), 8)
    return lambda: statistics.median(seconds(turns) for _ in range(_REPEATS))
