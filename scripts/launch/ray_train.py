"""A job under Ray Train, which finds the machines, and starts all of it again when one is lost: the run goes on.

python scripts/launch/ray_train.py '{"num_workers": 2, "use_gpu": true, "resources_per_worker": {"GPU": 8}}' \
    --config=vit_ti4_cifar10 --workdir=/shared/ti4

First Ray's ScalingConfig (of a TPU slice {"num_workers": 4, "use_tpu": true, "topology": "4x4", "accelerator_type":
"TPU-V5LITEPOD"}), then the arguments of vit-jax. `ray[train]` is installed beside it on every machine, and all see the
workdir and this folder. Each worker runs the program in a process of its own, which keeps its signals and gives all
memory back.
"""

import json
import os
import socket
import subprocess
import sys

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.jax import JaxTrainer
from ray.train.v2.jax.config import JaxConfig

RESTARTS = 100
# Done, a mistake in what was asked, stopped by Ctrl-C or SIGUSR1 (docs/promises.md). After SIGTERM, as when a machine
# is taken away, the job goes on.
ENDS = (0, 2, 130, 138)


def work(job: dict) -> int:
    """One of the job's processes, its exit code. Raises RuntimeError where all have to start again: Ray sees to it."""
    rank, count = get_context().get_world_rank(), get_context().get_world_size()
    with socket.socket() as probe:
        probe.bind(("", 0))
        mine = f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"
    address = broadcast_from_rank_zero(mine)
    peers = [f"--coordinator_address={address}", f"--num_processes={count}", f"--process_id={rank}"]
    # It ends with this worker, however that ends: the next one has the workdir for itself.
    program = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", "vit_jax.main"]
    code = subprocess.run([*program, *job["args"], *peers], cwd=job["folder"]).returncode
    if code not in ENDS:
        raise RuntimeError(f"process {rank} of {count} ended with {code}; what it printed says why")
    return code


def main() -> int:
    if len(sys.argv) < 3 or not sys.argv[1].startswith("{"):
        print(
            f"error: Ray's ScalingConfig as JSON and the arguments of vit-jax are missing\n\n{__doc__}", file=sys.stderr
        )
        return 2
    trainer = JaxTrainer(
        work,
        train_loop_config={"args": sys.argv[2:], "folder": os.getcwd()},  # else a worker's own, in Ray's session
        jax_config=JaxConfig(),  # the program joins the job itself
        scaling_config=ScalingConfig(**json.loads(sys.argv[1])),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=RESTARTS)),
    )
    return trainer.fit().return_value  # of the first worker


if __name__ == "__main__":
    sys.exit(main())
