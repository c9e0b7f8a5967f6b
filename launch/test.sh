#!/usr/bin/env bash
# Install into .venv and run what continuous integration runs. `--all` adds the slow tests; other words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh dev ray wandb

marks="not slow"
if [ "${1:-}" = "--all" ]; then marks=""; shift; fi

ruff check .
lint-imports
pyright
OMP_WAIT_POLICY=PASSIVE python -m pytest -m "$marks" "$@"
