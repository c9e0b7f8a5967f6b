# Sourced by the launchers: makes and enters a virtual environment with this project and the extras named.
#   PYTHON       interpreter that makes it (default: the newest of python3.12, python3.11, python3 that is >= 3.11)
#   VENV         where it lies (default: .venv)
#   TORCH_INDEX  index that serves the CPU build of torch, tried where there is no NVIDIA GPU
find_python() {
  local name
  for name in ${PYTHON:-} python3.12 python3.11 python3; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$name"; return; fi
  done
  echo "Python 3.11 or newer with venv is needed; set PYTHON to one." >&2
  return 2
}

install_torch() {
  local pin index="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
  pin="$(grep '^torch==' constraints.txt)"
  python -c 'import torch' 2>/dev/null && return
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    pip install -q "$pin"
  else # the CPU build is ten times smaller; where its index is out of reach, pip's own sources serve
    pip install -q --no-deps --retries 0 --timeout 15 --index-url "$index" "$pin" 2>/dev/null || true
    pip install -q "$pin"
  fi
}

install_project() {
  local extras wanted stamp
  extras="$(IFS=,; echo "$*")"
  wanted="$(cat pyproject.toml constraints.txt | sha256sum) $extras"
  stamp="$VIRTUAL_ENV/installed"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  install_torch || return
  pip install -q -c constraints.txt -e ".${extras:+[$extras]}" && echo "$wanted" >"$stamp"
}

VENV="${VENV:-.venv}"
[ -x "$VENV/bin/python" ] || { interpreter="$(find_python)" || exit; "$interpreter" -m venv "$VENV"; }
source "$VENV/bin/activate"
export PIP_DISABLE_PIP_VERSION_CHECK=1
install_project "$@"
