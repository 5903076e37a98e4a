#!/usr/bin/env bash
# Trains: sets up .venv, then `python -m vit_jax.main` with the arguments given.
# Without a config or a mode, the quickstart: a small ViT on embedded images, under a minute on two cores. It goes to
# --workdir, by default runs/quickstart; a workdir that holds a run goes on with that.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
workdir="" plain=true previous=""
[[ "${1:-}" != [a-z]* ]] || plain=false # a mode
for argument in "$@"; do
  if [[ "$previous" == --workdir ]]; then
    workdir="$argument"
  else
    case "$argument" in
      --workdir=*) workdir="${argument#--workdir=}" ;;
      --config=* | --config | --mode* | --help | -h) plain=false ;;
    esac
  fi
  previous="$argument"
done
if $plain; then
  [[ -n "$workdir" ]] || set -- --workdir=runs/quickstart "$@"
  [[ -f "${workdir/#\~/$HOME}/config.json" ]] || set -- --config=quickstart "$@"
fi
# glibc then backs large arrays with huge pages: up to a tenth more images/s on a Linux CPU, same numbers.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
exec .venv/bin/python -m vit_jax.main "$@"
