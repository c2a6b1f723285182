#!/usr/bin/env bash
# Prints the section of CHANGELOG.md for VERSION; fails unless Cargo.toml has that version too.
# usage: release-notes.sh VERSION
set -euo pipefail
version=${1:?VERSION, such as 0.1.0}
cd "$(dirname "$0")/.."
stated=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
if [ "$stated" != "$version" ]; then
  echo "error: Cargo.toml: expected version $version, found $stated" >&2
  exit 1
fi
notes=$(awk -v version="$version" '
  /^## / { inside = $2 == version; next }
  inside && (NF || begun) { begun = 1; print }
' CHANGELOG.md)
if [ -z "$notes" ]; then
  echo "error: CHANGELOG.md: expected a section \`## $version - DATE\`, found none" >&2
  exit 1
fi
printf '%s\n' "$notes"
