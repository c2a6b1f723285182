#!/usr/bin/env bash
# Installs a wheel into a fresh environment, without Rust and without a library that the shell
# names, and runs `doctor`, the demo and the Python package there; then with an ONNX Runtime that is
# too old, which is one clear line.
# usage: try-wheel.sh FILE.whl
set -euo pipefail
wheel=$(realpath "${1:?FILE.whl}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset ORT_DYLIB_PATH
python=$(dirname "$(python3 -c 'import sys; print(sys.executable)')")
export PATH=$python:/usr/bin:/bin
export PIP_DISABLE_PIP_VERSION_CHECK=1
cd "$scratch"
if command -v cargo; then
  echo "cargo is on the PATH" >&2
  exit 1
fi

size=$(stat -c %s "$wheel" 2>/dev/null || stat -f %z "$wheel")
[ "$size" -le 20000000 ] || { echo "the wheel is larger than 20 MB" >&2; exit 1; }
started=$SECONDS
python3 -m venv env
env/bin/pip install --quiet "$wheel"
installed=$SECONDS
env/bin/nst-cache doctor
env/bin/nst-cache demo
env/bin/python -c 'import nst_cache; print(len(nst_cache.open("runs/demo/cache")), "rows")'
env/bin/python -m nst_cache --version
echo "wheel: $size bytes; installed in $((installed - started)) s, the table after" \
  "$((SECONDS - started)) s"

env/bin/pip install --quiet 'onnxruntime<1.24'
if env/bin/nst-cache doctor >old.txt 2>&1; then
  echo "an ONNX Runtime that is too old was accepted" >&2
  exit 1
fi
grep -A1 'expected 1\.' old.txt
