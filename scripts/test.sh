#!/usr/bin/env bash
# Sets up .venv and runs the tests, some at once; arguments go to pytest: ./scripts/test.sh -m "not slow", or -n 0 --pdb
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python -m pytest "$@"
