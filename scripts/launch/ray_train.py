"""A job under Ray Train, which finds the machines, and starts all of it again when one is lost: the run goes on.

python scripts/launch/ray_train.py '{"num_workers": 2, "use_gpu": true, "resources_per_worker": {"GPU": 8}}' \
    --config=vit_ti4_cifar10 --workdir=/shared/ti4

First Ray's ScalingConfig (of a TPU slice {"num_workers": 4, "use_tpu": true, "topology": "4x4", "accelerator_type":
"TPU-V5LITEPOD"}), then the arguments of vit-jax. `ray[train]` is installed beside it on every machine, and all see the
workdir. Each worker runs the program in a process of its own, which keeps its signals and gives all memory back.
"""

import json
import signal
import socket
import subprocess
import sys

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.jax import JaxTrainer
from ray.train.v2.jax.config import JaxConfig

RESTARTS = 100


def work(args: list[str]) -> None:
    """One of the job's processes. Raises RuntimeError where it fails: then Ray starts all of them again."""
    rank, count = get_context().get_world_rank(), get_context().get_world_size()
    with socket.socket() as probe:
        probe.bind(("", 0))
        mine = f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"
    address = broadcast_from_rank_zero(mine)
    peers = [f"--coordinator_address={address}", f"--num_processes={count}", f"--process_id={rank}"]
    # It ends with this worker, however that ends: the next one has the workdir for itself.
    program = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", "vit_jax.main"]
    code = subprocess.run([*program, *args, *peers]).returncode
    if code not in (0, 2, 128 + signal.SIGTERM, 128 + signal.SIGINT):  # a mistake stays one, a stop is wanted
        raise RuntimeError(f"process {rank} of {count} ended with {code}; what it printed says why")
    if code and rank == 0:
        print(f"The job has ended with exit code {code}.")


def main() -> None:
    if len(sys.argv) < 3 or not sys.argv[1].startswith("{"):
        sys.exit(f"error: Ray's ScalingConfig as JSON and the arguments of vit-jax are missing\n\n{__doc__}")
    JaxTrainer(
        work,
        train_loop_config=sys.argv[2:],
        jax_config=JaxConfig(),  # the program joins the job itself
        scaling_config=ScalingConfig(**json.loads(sys.argv[1])),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=RESTARTS)),
    ).fit()


if __name__ == "__main__":
    main()
