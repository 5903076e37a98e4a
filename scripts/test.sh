#!/usr/bin/env bash
# Sets up .venv and runs the tests; arguments go to pytest, e.g. ./scripts/test.sh -m "not slow"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python -m pytest "$@"
