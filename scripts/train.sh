#!/usr/bin/env bash
# Trains: sets up .venv, then `python -m vit_jax.main` with the arguments given.
# Without arguments, the quickstart: a small ViT on embedded images, under a minute on two cores.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [[ $# -eq 0 ]]; then
  set -- --config=configs/quickstart.py --workdir=runs/quickstart
fi
# glibc then backs large arrays with huge pages: about a quarter more images/s on a Linux CPU, same numbers.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
exec .venv/bin/python -m vit_jax.main "$@"
