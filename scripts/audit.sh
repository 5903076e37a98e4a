#!/usr/bin/env bash
# Checks every version in requirements*.lock against the known vulnerabilities of osv.dev, with pip-audit in a
# temporary environment that is removed afterwards. Nothing of the locks is installed. Needs a network.
# Arguments go to pip-audit, e.g. ./scripts/audit.sh --ignore-vuln=ID
# Exit code: 0 nothing known, 1 vulnerabilities (listed), 3 the audit could not be done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python="${VIT_JAX_PYTHON:-python3}"

give_up() { # the step that failed; its output is in $folder/said
  echo "error: requirements*.lock were not audited: $1: $(grep -v '^ *$' "$folder/said" | tail -n 1 | cut -c 1-300)" >&2
  exit 3
}

"$python" -m venv "$folder/env" >"$folder/said" 2>&1 || give_up "no environment for pip-audit"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1 \
  >"$folder/said" 2>&1 || give_up "pip-audit can't be installed"

# pip-audit passes over the requirements of other machines and Python versions. So the markers are taken off, and
# the second version of a package goes into a second file: one file may name a package only once. What several locks
# have, the first gives.
awk -v folder="$folder" '
  /^[A-Za-z0-9]/ { new = !had[$1]++; split($1, parts, "=="); if (new) part = ++seen[parts[1]]; sub(/ ; [^\\]*/, " ") }
  new && /^([A-Za-z0-9]| +--hash)/ { print > (folder "/lock." part) }
' requirements*.lock

code=0
for lock in "$folder"/lock.*; do
  "$folder/env/bin/pip-audit" --require-hashes --disable-pip --vulnerability-service=osv --progress-spinner=off \
    --cache-dir="$folder/cache" -r "$lock" "$@" >"$folder/said" 2>&1 || code=1
  # Its exit code is the same for what it found and for what went wrong.
  grep -Eq '^(Found [0-9]+|No) known vulnerabilit' "$folder/said" || give_up "pip-audit failed"
  echo "$(grep -c "==" "$lock") packages: $(grep -v "^WARNING:pip_audit._cli:The --require-hashes" "$folder/said")"
done
exit "$code"
