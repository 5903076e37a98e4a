#!/usr/bin/env bash
# A job of several machines under Slurm, on which the environment is active and that all see the workdir:
#   sbatch --nodes=2 --gpus-per-node=8 --time=4:00:00 scripts/launch/slurm.sh --config=vit_ti4_cifar10 --workdir=/shared/ti4
# It is stopped two minutes before its time is up, saves, goes back into the queue and goes on from there; so does one
# that is preempted, where the cluster gives it time to save. One that is cancelled stays away.
#SBATCH --job-name=vit_jax
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
trap ':' TERM # which a preemption sends to this script, too: the processes are saving meanwhile
srun --kill-on-bad-exit=0 vit-jax "$@" --coordinator_address=auto &
steps=$!
wait "$steps"
code=$?
while ((code > 128)) && kill -0 "$steps" 2>/dev/null; do # a signal has ended the wait, not the processes
  wait "$steps"
  code=$?
done
# 143: stopped by SIGTERM, after saving (docs/promises.md). A job that is cancelled is no longer RUNNING by then.
if ((code == 143)) && scontrol show job "$SLURM_JOB_ID" | grep -q "JobState=RUNNING"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
