#!/usr/bin/env bash
# Fetches the pinned ONNX Runtime wheel with pip, which checks its hash, and puts the shared
# libraries into DIR.
# usage: fetch-onnxruntime.sh cpu|gpu DIR
set -euo pipefail
flavour=$1
into=$2
here=$(cd "$(dirname "$0")" && pwd)
requirements="$here/onnxruntime-$flavour.txt"

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=manylinux_2_28_x86_64 library=libonnxruntime.so ;;
  Linux-aarch64) platform=manylinux_2_28_aarch64 library=libonnxruntime.so ;;
  Darwin-arm64) platform=macosx_14_0_arm64 library=libonnxruntime.dylib ;;
  *)
    echo "error: no pinned ONNX Runtime for $(uname -s) $(uname -m);" \
      "install one and set ORT_DYLIB_PATH" >&2
    exit 2
    ;;
esac

# the stamp names what was fetched, so that a changed pin or flavour fetches again
stamp="$into/.onnxruntime"
want="$flavour $(cksum <"$requirements")"
if [ -f "$into/$library" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
  exit 0
fi

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "error: python3 with pip is needed to fetch ONNX Runtime" \
    "(apt-get install python3-pip), or set ORT_DYLIB_PATH" >&2
  exit 2
fi
mkdir -p "$into"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "fetching ONNX Runtime ($flavour, $platform)" >&2
# the wheel's Python tag does not matter: only the library inside is used
python3 -m pip download --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
  --no-deps --platform "$platform" --python-version 3.11 --implementation cp --abi cp311 \
  --requirement "$requirements" --dest "$scratch"
python3 - "$scratch" "$into" "$library" <<'PYTHON'
import os, pathlib, sys, zipfile

scratch, into, library = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
    for name in wheel.namelist():
        file = pathlib.PurePosixPath(name).name
        is_library = name.startswith("onnxruntime/capi/libonnxruntime")
        if not is_library and file not in ("LICENSE", "ThirdPartyNotices.txt"):
            continue
        if file.startswith("libonnxruntime_providers"):
            target = file
        elif file.startswith("libonnxruntime"):
            target = library
        else:
            target = f"onnxruntime-{file}"
        # whole or not at all: a truncated library kills the process that loads it
        part = into / f".{target}.part"
        part.write_bytes(wheel.read(name))
        os.replace(part, into / target)
PYTHON
echo "$want" >"$stamp"
