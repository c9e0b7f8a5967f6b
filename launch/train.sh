#!/usr/bin/env bash
# Any training stage under `accelerate launch`, on a machine described in cluster/accelerate/PROFILE.yaml:
#
#   bash launch/train.sh cpu-2 gan --config gan/miniature --run.out runs/gan
#   bash launch/train.sh gpu-8-zero2 stylespace --train.precision bf16
#
# The same command resumes. PYTHON chooses the interpreter.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: launch/train.sh PROFILE STAGE [--config NAME_OR_PATH] [--section.key VALUE ...]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
profile=$root/cluster/accelerate/$1.yaml
stage=$2
if [ ! -f "$profile" ]; then
    known=$(cd "$root/cluster/accelerate" && ls ./*.yaml | sed 's|^./||; s|.yaml$||' | paste -sd' ')
    echo "there is no machine profile '$1'; known: $known" >&2
    exit 2
fi
case $1 in
    cpu-*)
        export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
        ;;
esac
case $1 in
    cpu-*-zero*) export DS_ACCELERATOR=cpu ;; # with the next line DeepSpeed would be left out
    cpu-*) export ACCELERATE_USE_CPU=1 ;;
esac
STYLEAVATAR3D_PROCESSES=$(sed -n 's/^num_processes: *//p' "$profile") # training refuses to begin with fewer
export STYLEAVATAR3D_PROCESSES
shift 2
export PYTHONFAULTHANDLER=1 # a process that a signal ends says where it was
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python}" -m accelerate.commands.launch --config_file "$profile" -m styleavatar3d train "$stage" "$@"
