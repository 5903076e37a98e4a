"""A job under Slurm, for real: a controller and two nodes on this machine, where Debian's slurm-wlm and munge are."""

import os
import shutil
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from promises.harness import REPOSITORY, RUN, Child, arrays, free_address, latest, rows

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
_PATH = f"{os.environ['PATH']}:/usr/sbin"
SHARED = ("--config.train.mesh=fsdp=2", "--config.train.split_rules=(('.*/mlp/.*kernel', '0'), ('.*', 'whole'))")

_CONFIG = """
ClusterName=trial
SlurmctldHost={here}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=0
NodeName=one NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=two NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2
"""


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


@pytest.fixture
def slurm(tmp_path):
    """A function that runs one of Slurm's commands in a cluster of two nodes and gives what it printed."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for one in (a, b, c):
            one.bind(("localhost", 0))
        ports = [one.getsockname()[1] for one in (a, b, c)]
    (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, ports=ports, here=socket.gethostname()))
    (folder / "hosts").write_text("127.0.0.1 localhost one two\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    own = {"SLURM_CONF": str(folder / "slurm.conf"), "JAX_NUM_CPU_DEVICES": "1"}
    ends = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{name}={folder}/munge.{end}" for name, end in ends.items()]
    daemons = [["munged", "--foreground", "--force", *files], ["slurmctld", "-D", "-i"]]
    # Debian's slurmd asks the machine for its name: each has one of its own, which the other finds.
    alone = 'mount --bind "$0" /etc/hosts && hostname "$1" && exec slurmd -D'
    node = ["unshare", "--uts", "--mount", "sh", "-c", alone, str(folder / "hosts")]
    daemons += [[*node, name] for name in ("one", "two")]
    started = []
    try:
        for command in daemons:
            environment = os.environ | own | {"PATH": _PATH}
            started.append(subprocess.Popen(command, env=environment, stdout=-3, stderr=-3, start_new_session=True))
            time.sleep(0.5)

        def run(*command):
            environment = os.environ | own | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            logs = "".join(log.read_text()[-1000:] for log in folder.glob("slurm*.log"))
            assert done.returncode == 0, done.stderr + logs
            return done.stdout

        states = ("sinfo", "--Node", "--noheader", "--partition=usual", "--format=%T")
        until(lambda: run(*states).split() == ["idle"] * 2, 60, lambda: run(*states) + run("sinfo", "-R"))
        yield run
        run("scancel", "--full", "--user=root", "--signal=KILL")
    finally:
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            daemon.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(
    any(shutil.which(name, path=_PATH) is None for name in _PROGRAMS) or os.getuid() != 0,
    reason="needs root and Slurm: apt-get install slurm-wlm munge",
)
def test_a_job_that_is_preempted_goes_on_bit_for_bit(slurm, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "vit-jax"
    program.parent.mkdir()
    slowly = f"{sys.executable} {REPOSITORY}/tests/promises/faults.py"
    program.write_text(f"""#!/bin/sh\nexec {slowly} '{{"slow": {{"step": 0.3}}}}' "$@"\n""")
    program.chmod(0o755)
    workdir, log = tmp_path / "run", tmp_path / "job.log"
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    script = str(REPOSITORY / "scripts" / "launch" / "slurm.sh")
    said = slurm("sbatch", "--nodes=2", f"--output={log}", script, *RUN, *SHARED, f"--workdir={workdir}")
    job = said.split()[-1]

    def state():
        return slurm("scontrol", "show", "job", job)

    until(lambda: (workdir / "metrics.jsonl").exists() and len(rows(workdir)) >= 6, 120, lambda: log.read_text())
    slurm("sbatch", "--partition=urgent", "--nodes=2", f"--output={tmp_path / 'urgent.log'}", "--wrap=sleep 3")
    until(lambda: "Restarts=1" in state(), 120, lambda: state() + log.read_text())
    stopped = latest(workdir)
    until(lambda: "JobState=COMPLETED" in state(), 240, lambda: state() + log.read_text())
    assert 0 < stopped < 30 and f"Stopped after step {stopped} of 30; saved" in log.read_text()
    assert f"Resuming after step {stopped} of 30" in log.read_text()

    # One that is cancelled saves, and stays away.
    other = tmp_path / "cancelled"
    args = ("--nodes=2", f"--output={tmp_path / 'cancelled.log'}", script, *RUN, f"--workdir={other}")
    job = slurm("sbatch", *args).split()[-1]
    until(lambda: (other / "metrics.jsonl").exists() and len(rows(other)) >= 3, 120, state)
    slurm("scancel", job)
    until(lambda: "JobState=CANCELLED" in state() and latest(other) >= 3, 60, state)
    time.sleep(3)
    assert "JobState=CANCELLED" in state()

    straight = tmp_path / "straight"
    address = f"--coordinator_address={free_address()}"
    args = [*RUN, *SHARED, f"--workdir={straight}", address, "--num_processes=2"]
    with Child(*args, "--process_id=0", log=tmp_path / "0") as one, Child(*args, "--process_id=1", log=tmp_path / "1"):
        assert one.wait() == 0, one.tail()
    for name, x in arrays(straight, 30).items():
        np.testing.assert_array_equal(x, arrays(workdir, 30)[name], err_msg=name)
    assert jax.tree.leaves(arrays(straight, 30))
