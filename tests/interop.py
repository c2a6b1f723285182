#!/usr/bin/env python3
"""Other people's readers against ours: every array of the golden caches as zarr-python reads it,
and as numpy and safetensors read an export of it, bit for bit; and the example runs. `make
test-python` sets it up."""

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
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def check(name, folder, arrays):
    cache = ROOT / "tests/data/golden" / name
    expected = arrays_of(zarr.open_group(str(cache), mode="r"))
    assert len(expected) == arrays, expected.keys()
    for suffix, load in (("npz", numpy.load), ("safetensors", safetensors.numpy.load_file)):
        path = Path(folder) / f"{name}.{suffix}"
        subprocess.run(
            [BINARY, "--quiet", "cache", "export", str(cache), f"--{suffix}", str(path)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        loaded = load(path)
        found = {key: loaded[key] for key in loaded}
        assert found.keys() == expected.keys(), (found.keys(), expected.keys())
        for key, array in expected.items():
            assert same(found[key], array), f"{name}: {key} differs in the {suffix}"
    output = subprocess.run(
        [sys.executable, str(ROOT / "examples/read_cache.py"), str(cache)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "conv features /conv/Relu_output_0 float16 (2, 6, 3, 2, 2)" in output, output
    # what the golden test's generator gives for view 1, row 5 (src/cache/testing.rs)
    mask = (1 * 1009 + 5 * 31) % 251 - 100
    assert expected["inputs/mask"][1, 5] == mask, expected["inputs/mask"]
    assert expected["label"].tolist() == [-1, 0, 1, 2, -1, 0], expected["label"]


def check_statistics():
    """What a Zarr reader needs of a statistic stands in its attributes."""
    tap = zarr.open_group(str(ROOT / "tests/data/golden/statistics/taps/conv"), mode="r")
    gram, sign = tap["gram"], tap["sign"]
    shape = gram.attrs["map"]
    channels, positions = shape["channels"], shape["height"] * shape["width"]
    assert gram.shape == (2, 6, positions * (positions + 1) // 2) and shape["layout"] == "nchw", (
        gram.shape,
        shape,
    )
    lower = numpy.zeros((positions, positions), numpy.float32)
    lower[numpy.tril_indices(positions)] = gram[1, 5]
    # (3, 1) is entry 3·4/2 + 1 of the packed triangle
    assert lower[3, 1] == gram[1, 5, 7] and lower[0, 3] == 0
    bits = numpy.unpackbits(sign[1, 5], bitorder="little", count=channels * positions)
    first = (1 * 17 + 5 * 31) % 256
    assert [int(bit) for bit in bits[:8]] == [first >> i & 1 for i in range(8)], bits


with tempfile.TemporaryDirectory() as folder:
    for golden, arrays in (("zstd", 6), ("raw", 6), ("statistics", 11)):
        check(golden, folder, arrays)
check_statistics()
print(
    f"zarr {zarr.__version__}, numpy {numpy.__version__}, safetensors {safetensors.__version__}: "
    "every array of the golden caches is the same, bit for bit"
)
