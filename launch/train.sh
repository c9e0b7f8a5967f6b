#!/usr/bin/env bash
# Any training stage under `accelerate launch`, on a machine described in cluster/accelerate/PROFILE.yaml:
#
#   bash launch/train.sh cpu-2 gan --config gan/miniature --run.out runs/gan
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
        export ACCELERATE_USE_CPU=1 CUDA_VISIBLE_DEVICES=
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
        ;;
esac
shift 2
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python}" -m accelerate.commands.launch --config_file "$profile" -m styleavatar3d train "$stage" "$@"
