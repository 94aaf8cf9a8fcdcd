#!/usr/bin/env bash
# All checks on the environment at hand: lint, format, types, the site, tests. `tools/check.sh slow` runs the long sweeps as
# well.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
tools/site.sh
pytest -n 2
if [ "${1:-}" = slow ]; then pytest -n 2 -m slow; fi
