#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET…]: runs fuzz targets one after the other, each from its seeds; stops at
# the first crash.
# cargo-fuzz wants a nightly compiler for the sanitizer's flags; RUSTC_BOOTSTRAP lets the stable one
# take them.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift
export RUSTC_BOOTSTRAP=1
# every input is a file or two: in memory, if there is such a file system
if [ -z "${TMPDIR:-}" ] && [ -d /dev/shm ]; then export TMPDIR=/dev/shm; fi
# no target but a program: writes the corpora to begin with
cargo fuzz run --fuzz-dir fuzz seeds
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir fuzz | grep -v '^seeds$')
fi
for target in "${targets[@]}"; do
  echo "== $target"
  cargo fuzz run --fuzz-dir fuzz "$target" -- -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=4096 -print_final_stats=1
done
