#!/usr/bin/env bash
# Makes .venv ready: creates it, installs requirements.lock by hash, and this package in place.
# Does nothing when requirements.lock and setup.cfg are the ones installed last. Sourced by train.sh
# and test.sh; also runs alone. VIT_JAX_PYTHON picks the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${VIT_JAX_PYTHON:-python3}"
stamp=.venv/.installed
if ! "$python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
  echo "vit_jax needs Python 3.11, 3.12 or 3.13; found: $("$python" --version 2>&1 || echo none)." \
       "Name one with VIT_JAX_PYTHON=/path/to/python3.12" >&2
  exit 2
fi

wanted="$(cat requirements.lock setup.cfg pyproject.toml | cksum) $PWD $("$python" -VV)"
if [[ ! -x .venv/bin/python || "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
  echo "Setting up .venv (once; downloads about 600 MB) ..."
  started=$SECONDS
  if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --clear --python "$python" .venv
    uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
  else
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  fi
  echo "$wanted" > "$stamp"
  echo "Ready after $((SECONDS - started)) s."
fi
