#!/usr/bin/env bash
# Set up a virtual environment and run the whole road on this machine; ends in runs/quickstart/index.html.
#   bash launch/quickstart.sh                  from the shipped weights, minutes
#   bash launch/quickstart.sh --from-scratch   every model trained here, hours
#   bash launch/quickstart.sh --out FOLDER     elsewhere; the same command resumes a stopped run
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
echo "[0/7] environment: installing into ${VENV:-.venv} (about 3 minutes the first time)"
source launch/environment.sh
echo "      environment: $((SECONDS - start)) s"
export OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1
exec styleavatar3d quickstart "$@"
