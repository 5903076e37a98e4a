#!/usr/bin/env bash
# Makes .venv ready: creates it, installs by hash the lock for the accelerator that is here, and this package in place.
# Does nothing when the lock and setup.cfg are the ones installed last. Sourced by train.sh and test.sh; also runs alone.
#   VIT_JAX_PYTHON       the interpreter; else that of the .venv that is here, else the newest that works
#   VIT_JAX_ACCELERATOR  cpu, cuda12, cuda13 or tpu; else that of the .venv that is here, else what fits the machine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

accelerators='^(cpu|cuda12|cuda13|tpu)$'
stamp=.venv/.installed # the accelerator, and below it what else was asked for

refuse() {
  echo "error: $1" >&2
  exit 2
}

# The interpreter behind a name, itself if that is an environment's: nothing unless it is a release of CPython that has
# wheels (no free-threaded build), is whole, and can make an environment.
interpreter() {
  "$1" -I -c '
import ctypes, ssl, sys, sysconfig, zlib
from importlib.util import find_spec
v = sys.version_info
good = sys.implementation.name == "cpython" and (3, 11) <= v < (3, 15) and v.releaselevel == "final"
if good and not sysconfig.get_config_var("Py_GIL_DISABLED") and ("uv" in sys.argv or find_spec("ensurepip")):
    print(sys.executable if sys.prefix == sys.base_prefix else sys._base_executable)
' "$(! command -v uv >/dev/null 2>&1 || echo uv)" 2>/dev/null || true
}

version() { "$1" --version 2>/dev/null || echo none; }

# Where an interpreter may be, the newest first: in PATH, then in the folders of pyenv, uv, mise and asdf.
candidates() {
  local minor home="${HOME:-}"
  for minor in 3.14 3.13 3.12 3.11; do
    echo "python$minor"
    ls -1 "${PYENV_ROOT:-$home/.pyenv}/versions/$minor".*"/bin/python$minor" \
      "${UV_PYTHON_INSTALL_DIR:-$home/.local/share/uv/python}/cpython-$minor".*"/bin/python$minor" \
      "$home/.local/share/mise/installs/python/$minor".*"/bin/python$minor" \
      "${ASDF_DATA_DIR:-$home/.asdf}/installs/python/$minor".*"/bin/python$minor" 2>/dev/null | sort -rV || true
  done
  echo python3
}

newest() {
  local candidate found
  while read -r candidate; do
    found="$(interpreter "$candidate")"
    [[ -z "$found" ]] || break
  done < <(candidates)
  echo "$found"
}

accelerator="${VIT_JAX_ACCELERATOR:-}" why="as VIT_JAX_ACCELERATOR says"
[[ -z "$accelerator" || "$accelerator" =~ $accelerators ]] ||
  refuse "VIT_JAX_ACCELERATOR=$accelerator: it is cpu, cuda12, cuda13 or tpu"
[[ "${accelerator:-cpu}" == cpu || "$(uname -s)" == Linux ]] ||
  refuse "VIT_JAX_ACCELERATOR=$accelerator: JAX has that build for Linux only; leave it out"

# A .venv that is in use keeps its Python and its accelerator: what else comes to the machine must not rebuild it, nor a
# node of a cluster that has no GPU.
before="$(head -n 1 "$stamp" 2>/dev/null || true)" python="" which=""
if [[ -n "${VIT_JAX_PYTHON:-}" ]]; then
  python="$(interpreter "$VIT_JAX_PYTHON")" which="as VIT_JAX_PYTHON says"
  [[ -n "$python" ]] || refuse "VIT_JAX_PYTHON=$VIT_JAX_PYTHON: a release of Python 3.11, 3.12, 3.13 or 3.14 is needed,\
 with its module ensurepip (or uv); found: $(version "$VIT_JAX_PYTHON")"
elif [[ -n "$before" ]]; then
  python="$(interpreter .venv/bin/python)" which="as before"
fi
if [[ -z "$python" ]]; then
  python="$(newest)" which="the newest that works here"
  [[ -n "$python" ]] || refuse "vit_jax needs a release of Python 3.11, 3.12, 3.13 or 3.14, with its module ensurepip\
 (or uv); python3 is: $(version python3). Debian and Ubuntu have it as python3-venv; name another with\
 VIT_JAX_PYTHON=/path/to/python3.13"
fi
if [[ -z "$accelerator" && "$before" =~ $accelerators ]]; then
  accelerator="$before" why="as before"
elif [[ -z "$accelerator" ]]; then
  read -r accelerator why < <("$python" -I vit_jax/system/accelerators.py)
fi

case "$accelerator" in
  cpu) lock=requirements.lock size="2.7 GB" ;;
  tpu) lock=requirements-tpu.lock size="3.4 GB" ;;
  cuda12) lock=requirements-cuda12.lock size="7.3 GB" ;;
  cuda13) lock=requirements-cuda13.lock size="6.5 GB" ;;
esac
wanted="$accelerator
$(cat "$lock" setup.cfg pyproject.toml | cksum) $PWD $("$python" -VV)"
if [[ ! -x .venv/bin/python || "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
  echo "$(version "$python"), $which ($python). To choose: VIT_JAX_PYTHON=/path/to/python"
  [[ "$(version "$python")" != "Python 3.14."* ]] ||
    echo "  TensorFlow has no wheel for it: reading from TensorFlow Datasets and TensorBoard are left out."
  echo "JAX for $accelerator: $why. To choose: VIT_JAX_ACCELERATOR=cpu|cuda12|cuda13|tpu"
  echo "Setting up .venv, once; it takes $size on the disk ..."
  started=$SECONDS
  if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --clear --python "$python" .venv
    # As pip does: where PYTHONDONTWRITEBYTECODE is set, each start would else compile all that it imports.
    install=(uv pip install --quiet --compile-bytecode --python .venv/bin/python)
  else
    "$python" -m venv --clear .venv
    install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
  fi
  # What builds the few packages without a wheel comes first, also by hash: pip would fetch it without.
  awk '/^setuptools==/, !/\\$/' "$lock" >.venv/build.lock
  "${install[@]}" --require-hashes -r .venv/build.lock
  "${install[@]}" --require-hashes --no-build-isolation -r "$lock"
  "${install[@]}" --no-deps --no-build-isolation -e .
  echo "$wanted" >"$stamp"
  echo "Ready after $((SECONDS - started)) s."
fi
