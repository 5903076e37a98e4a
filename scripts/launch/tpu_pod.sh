#!/usr/bin/env bash
# The same command on every machine of a TPU slice, on which this repository is set up in the home folder:
#   TPU=my-slice ZONE=us-west4-a scripts/launch/tpu_pod.sh --config=vit_s4_cifar10 --workdir=/mnt/shared/s4
# JAX asks the slice who is who.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?the zone that it is in}"
printf -v arguments ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd vit_jax && ./scripts/train.sh$arguments --coordinator_address=auto"
