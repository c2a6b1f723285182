#!/usr/bin/env python3
"""Other people's readers against ours: every array of the golden caches as zarr-python reads it, and as numpy and safetensors read an export of it,
bit for bit; and the example runs. `make test-python` sets it up."""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import safetensors.numpy
import zarr

ROOT = Path(__file__).resolve().parent.parent
BINARY = sys.argv[1]


def arrays_of(group):
    """Every array below a group, by its path."""
    found = {}
    for name, member in group.members(max_depth=None):
        if isinstance(member, zarr.Array):
            found[name] = member[...]
    return found


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def check(name, folder):
    cache = ROOT / "tests/data/golden" / name
    expected = arrays_of(zarr.open_group(str(cache), mode="r"))
    assert len(expected) == 6, expected.keys()
    for suffix, load in (("npz", numpy.load), ("safetensors", safetensors.numpy.load_file)):
        path = Path(folder) / f"{name}.{suffix}"
        subprocess.run([BINARY, "--quiet", "cache", "export", str(cache), f"--{suffix}", str(path)], check=True, stdout=subprocess.DEVNULL)
        loaded = load(path)
        found = {key: loaded[key] for key in loaded}
        assert found.keys() == expected.keys(), (found.keys(), expected.keys())
        for key, array in expected.items():
            assert same(found[key], array), f"{name}: {key} differs in the {suffix}"
    output = subprocess.run([sys.executable, str(ROOT / "examples/read_cache.py"), str(cache)], check=True, capture_output=True, text=True).stdout
    assert "conv features /conv/Relu_output_0 float16 (2, 6, 3, 2, 2)" in output, output
    # what the golden test's generator gives for view 1, row 5 (src/cache/testing.rs)
    mask = (1 * 1009 + 5 * 31) % 251 - 100
    assert expected["inputs/mask"][1, 5] == mask, expected["inputs/mask"]
    assert expected["label"].tolist() == [-1, 0, 1, 2, -1, 0], expected["label"]


with tempfile.TemporaryDirectory() as folder:
    for golden in ("zstd", "raw"):
        check(golden, folder)
print(f"zarr {zarr.__version__}, numpy {numpy.__version__}, safetensors {safetensors.__version__}: every array of both golden caches is the same, bit for bit")
