#!/usr/bin/env bash
# Everything that needs a GPU, in runs of at most ten minutes; the same command goes on where the last one stopped.
#
#   bash launch/gpu.sh check   tests of rasteriser, half precision and compiling on CUDA, and tables of views and of the fused renderer
#   bash launch/gpu.sh train   the miniature's models on pictures rendered here, by configs/miniature/gpu.yaml
#
#   OUT      where results go (default: runs/gpu): tables, curves and, at the end, averaged weights in files <= 16 MiB
#   WHEELS   folder of wheels to install what is missing from, without a network; else pip's own index serves
#   SECONDS_EACH  limit of one training run (default: 540); exit code 3 says that it wants to go on
#   PYTHON   interpreter, with torch for CUDA (default: python3)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-runs/gpu}
run=runs/gpu

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }

need_gpu() {
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null && return
  echo "no GPU: torch of $python sees no CUDA device; this launcher is for machines that have one" >&2
  exit 2
}

install() {
  "$python" -c 'import styleavatar3d.miniature.models, diffusers, transformers, pytest' 2>/dev/null && return
  local from=()
  [ -n "${WHEELS:-}" ] && from=(--no-index --find-links "$WHEELS")
  "$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' |
    "$python" -m pip install -q --no-compile "${from[@]}" -r /dev/stdin pytest pytest-timeout beartype
}

check() {
  "$python" -m pytest -q -rs tests/figures/test_rasterize.py tests/miniature/test_renders.py tests/gan/test_precision.py \
    tests/gan/test_train.py -k "cuda" \
    2>&1 | tee "$out/tests.txt"
  local table
  for table in figures ops; do
    timeout 240 "$python" -m styleavatar3d bench "$table" --repeats 1 --json | tee "$out/bench-$table.json"
  done
}

train() {
  local code=0
  timeout --signal=TERM --kill-after=40 "${SECONDS_EACH:-540}" \
    "$python" -m styleavatar3d train miniature --config miniature/gpu --run.out "$run" || code=$?
  cp "$run"/*/log.jsonl "$out/" 2>/dev/null || true
  [ "$code" != 124 ] || code=3
  [ "$code" = 0 ] || exit "$code"
  tar -C "$run/weights" -cf - . | split -b 16777216 -d -a 2 - "$out/weights.tar."
}

case ${1:-} in
  check | train) need_gpu; install; mkdir -p "$out"; export PYTHONPATH=$PWD ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
"$1"
