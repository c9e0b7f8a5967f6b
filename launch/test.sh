#!/usr/bin/env bash
# Install into .venv and run what continuous integration runs. `--all` adds the slow tests; other words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh dev ray wandb deepspeed

marks="not slow"
if [ "${1:-}" = "--all" ]; then marks=""; shift; fi

ruff check .
lint-imports
pyright
# a file of tests stays with one of up to four processes (`-n 0`: all in this one), each of which computes in one thread
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=PASSIVE \
  python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "$marks" "$@"
