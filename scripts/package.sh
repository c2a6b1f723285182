#!/usr/bin/env bash
# Packs what `make build` leaves in target/release into DIR/NAME.tar.gz, then unpacks it elsewhere
# and measures the demo's teacher with it.
# usage: package.sh NAME DIR
set -euo pipefail
name=${1:?NAME of the archive and of its folder}
mkdir -p "${2:?DIR}"
into=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
built=target/release
library=libonnxruntime.so
if [ "$(uname -s)" = Darwin ]; then library=libonnxruntime.dylib; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

folder="$scratch/packed/$name"
mkdir -p "$folder/models"
cp "$built/nst-cache" "$built/$library" "$built/onnxruntime-LICENSE" \
  "$built/onnxruntime-ThirdPartyNotices.txt" "$folder"
cp README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$folder"
"$built/nst-cache" --quiet man "$folder/man"
mkdir "$folder/completions"
for shell in bash elvish fish powershell zsh; do
  "$built/nst-cache" completions "$shell" >"$folder/completions/nst-cache.$shell"
done
cp models/README.md models/teacher.onnx "$folder/models"
scripts/third-party.py >"$folder/THIRD-PARTY.txt"
# no files of its own from macOS
COPYFILE_DISABLE=1 tar -czf "$into/$name.tar.gz" -C "$scratch/packed" "$name"

mkdir "$scratch/unpacked"
tar -xzf "$into/$name.tar.gz" -C "$scratch/unpacked"
cd "$scratch/unpacked/$name"
./nst-cache --version
env -u ORT_DYLIB_PATH ./nst-cache eval models/teacher.onnx --data fashion-mnist --limit 100
