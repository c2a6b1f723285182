#!/usr/bin/env bash
# Assembles a CUDA_HOME in DIR that can compile (nvcc, its headers, the runtime library) from
# NVIDIA's wheels, for a machine without CUDA.
# usage: cuda-home.sh DIR
set -euo pipefail
into=$1
here=$(cd "$(dirname "$0")" && pwd)
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "error: no pinned CUDA compiler for $(uname -s) $(uname -m);" \
    "install CUDA 13 and set CUDA_HOME" >&2
  exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
  --no-deps --requirement "$here/cuda-home.txt" --target "$scratch"
mkdir -p "$into"
cp -a "$scratch/nvidia/cu13/." "$into"
chmod +x "$into"/bin/* "$into"/nvvm/bin/*
ln -sfn libcudart.so.13 "$into/lib/libcudart.so"
ln -sfn lib "$into/lib64"
"$into/bin/nvcc" --version | tail -n 2 >&2
