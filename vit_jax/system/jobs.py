"""A job of several processes: joining it, being alike, agreeing when to stop."""

import contextlib
import hashlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax.errors import RunError, of_the_system
from vit_jax.system.sharding import batch_sharding, replicated

_TOLD = 64  # bytes of what processes compare


@dataclass(frozen=True)
class Peers:
    """How to find the other processes of a job."""

    coordinator_address: str  # host:port of process 0, or "auto": what the cluster (Slurm, TPU, MPI) says
    num_processes: int | None
    process_id: int | None
    timeout: int  # seconds to wait for a peer at the start; twice that within a step


def join(peers: Peers) -> None:
    """Makes this process one of the job's. To be called before anything else uses JAX.

    Raises RunError where that fails. Where the others don't come in time it ends the process: JAX is waiting in C++.
    """
    # Its C++ handler would take SIGTERM away from ours.
    jax.config.update("jax_enable_preemption_service", False)
    address = None if peers.coordinator_address == "auto" else peers.coordinator_address
    where, number = peers.coordinator_address, peers.num_processes
    if address is None:
        remedy = (
            "auto asks Slurm, Open MPI or a TPU pod, and there may be none here: name --coordinator_address=HOST:PORT, "
            "--num_processes and --process_id"
        )
    else:
        remedy = (
            f"start all {number} with --coordinator_address={where} --num_processes={number} and each with its own "
            "--process_id, and see that the port is free and reachable"
        )

    def give_up() -> None:
        print(f"error: no word from the job's other processes for {peers.timeout} s; {remedy}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)

    print(f"Waiting for the job's processes at {peers.coordinator_address} ...", flush=True)
    timer = threading.Timer(peers.timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            address,
            peers.num_processes,
            peers.process_id,
            initialization_timeout=peers.timeout + 60,  # JAX would abort with a C++ stack
            heartbeat_timeout_seconds=min(peers.timeout, 100),
            shutdown_timeout_seconds=min(peers.timeout, 60),
        )
    except (RuntimeError, ValueError) as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise RunError(f"the job's processes did not come together ({text}); {remedy}") from error
    finally:
        timer.cancel()


def explained(error: RuntimeError | ValueError) -> str | None:
    """What a person can do about an error of JAX's runtime, where that is known."""
    text = (str(error).splitlines() or [""])[0][:300]
    if "RESOURCE_EXHAUSTED" in text:
        return (
            f"the device's memory is full ({text}); lower config.train.batch_size, raise config.train.accumulate, or "
            "set --config.model.remat=true, in another --workdir"
        )
    if re.search("nable to initialize backend|nknown backend", text):
        return f"JAX finds no device ({text}); `vit-jax doctor` says what to mend"
    # JAX raises some of its runtime's errors as ValueError; they begin with their status all the same.
    if jax.process_count() > 1 and re.match("[A-Z_]+: ", text):
        return (
            f"process {jax.process_index()} of {jax.process_count()} lost the others, or failed with them ({text}); "
            "what was saved is intact: start all of them again"
        )
    return None


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Within, an error of JAX's runtime that is understood is a RunError that says what a person can do.

    So is one of the system: a full disk, a file that others own.
    """
    try:
        yield
    except OSError as error:
        raise RunError(of_the_system(error)) from error
    except (RuntimeError, ValueError) as error:  # JAX's JaxRuntimeError is a RuntimeError
        if reason := explained(error):
            raise RunError(reason) from error
        raise


def is_first() -> bool:
    """Whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def meet(place: str) -> None:
    """Returns when all processes have come here; at once if there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def any_of(fact: object) -> bool:
    """Whether it is true in any of the processes, which all ask."""
    return bool(np.any(multihost_utils.process_allgather(np.array(bool(fact)))))


def require_same(values: dict[str, str], remedy: str) -> None:
    """Raises RunError unless these are the same in all processes: they would train apart, or wait for ever.

    `values` by what they are; all processes name the same ones. Long ones are told apart by their sha256.
    """
    if jax.process_count() == 1:
        return
    own = np.zeros((len(values), _TOLD), np.uint8)
    for row, value in zip(own, values.values(), strict=True):
        text = value.encode()
        text = text if len(text) <= _TOLD else hashlib.sha256(text).hexdigest()[:12].encode()
        row[: len(text)] = np.frombuffer(text, np.uint8)
    found = np.asarray(multihost_utils.process_allgather(own))  # (processes, values, bytes)
    texts = [[bytes(row).rstrip(b"\0").decode(errors="replace") for row in process] for process in found]
    differing = []
    for name, each in zip(values, zip(*texts, strict=True), strict=True):
        if len(set(each)) > 1:
            who = {text: [i for i, one in enumerate(each) if one == text] for text in dict.fromkeys(each)}
            differing.append(f"{name}: " + ", ".join(f"{text} (process {_listed(i)})" for text, i in who.items()))
    if differing:
        raise RunError(f"the job's processes differ in {'; '.join(differing)}. To mend it, {remedy}")


def _listed(numbers: list[int]) -> str:
    """ "0, 1, 2, 3 and 12 more" """
    more = f" and {len(numbers) - 4} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[: 4 if more else None])) + more


class StopVote:
    """Which signal any of the processes has got, known to all of them at the same step.

    The answer is that of the call before, so that no one waits for a collective that has just begun.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = batch_sharding(mesh)
        self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._pending: jax.Array | None = None

    def __call__(self, signum: int) -> int:
        """Gives this process' signal, 0 for none, to the others; the largest of all, one call later."""
        if jax.process_count() == 1:
            return signum
        answer = 0 if self._pending is None else int(self._pending)
        votes = np.full(jax.local_device_count(), signum, np.int32)
        self._pending = self._largest(jax.make_array_from_process_local_data(self._sharding, votes))
        return answer
