"""What comes before JAX computes anything: the cache of compiled steps, the job's processes, the CPU's devices."""

import contextlib
import dataclasses
from collections.abc import Collection
from pathlib import Path

from vit_jax.config import Config
from vit_jax.pretrained.start import with_model
from vit_jax.runs.folder import RunFolder
from vit_jax.steps.cpu import use_cpu_cores
from vit_jax.steps.partition import without_mesh
from vit_jax.system.accelerators import be_quiet_without_accelerator
from vit_jax.system.compilation import use_cache, use_deterministic_ops
from vit_jax.system.jobs import Peers, join
from vit_jax.system.stop import StopRequest
from vit_jax.system.tensorflow import settle_environment
from vit_jax.training.teacher import with_commit


def ready(
    config: Config,
    workdir: str | None,
    given: Collection[str] = (),
    peers: Peers | None = None,
    stop: StopRequest | None = None,
    *,
    trained: bool = False,
) -> Config:
    """Makes this process ready to compute `config`; to be called before anything else uses JAX, where that can be.

    Gives the config, its model filled in from the weights of `config.init_from`, unless it is of a `trained` run.
    `workdir` is that of training, if it has one; `given` are the keys of config.model that were said explicitly. Raises
    UserError for a config that can't be, and RunError where the job's other processes don't come.
    """
    settle_environment()
    be_quiet_without_accelerator()
    use_cache()
    if peers:
        with stop.unguarded() if stop else contextlib.nullcontext():
            join(peers)
    if config.init_from and not trained:
        config = with_model(config, workdir, given)
    if not trained:
        config = with_commit(config, workdir)
    if config.train.deterministic:
        use_deterministic_ops()
    # A mesh is that of training, and names the devices of all processes: their number has to be known, too.
    unknown = peers is not None and peers.num_processes is None
    told = config if trained or workdir is None else _with_its_micro_batches(config, workdir)
    use_cpu_cores(without_mesh(told) if trained or unknown else told, peers.num_processes or 1 if peers else 1)
    return config


def _with_its_micro_batches(config: Config, workdir: str) -> Config:
    """The config with the number of micro-batches that the run there, if any, has chosen, maybe for fewer cores."""
    for run in (RunFolder(workdir), RunFolder(Path(workdir) / f"seed_{config.seed}")):
        if config.train.accumulate is None and run.exists():
            chosen = run.config().train.accumulate
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=chosen))
    return config
