#!/usr/bin/env bash
# A job of several machines, or of several processes on one, under Open MPI:
#   scripts/launch/openmpi.sh --hostfile machines.txt --map-by ppr:1:node -- --config=vit_ti4_cifar10 --workdir=/shared/ti4
# mpirun's own arguments come first, those of vit-jax after the two dashes. On every machine the environment of
# scripts/setup.sh is active (vit-jax on the PATH), and the workdir is the same shared folder.
set -euo pipefail
own=()
while (($#)) && [[ "$1" != -- ]]; do
  own+=("$1")
  shift
done
(($#)) || { echo "error: the arguments of vit-jax are missing: openmpi.sh ARGUMENTS OF MPIRUN -- --config=..." >&2; exit 2; }
shift
exec mpirun ${own[@]+"${own[@]}"} vit-jax "$@" --coordinator_address=auto
