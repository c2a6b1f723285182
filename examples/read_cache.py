#!/usr/bin/env python3
"""Reads the features and labels of a cache with zarr-python (pip install zarr).

Usage: examples/read_cache.py cache/teacher
"""

import sys
import zarr

cache = zarr.open_group(sys.argv[1], mode="r")
labels = cache["label"][:]  # int64 [row], -1 if unlabeled
for alias, tap in cache["taps"].groups():
    for name, array in tap.arrays():  # [view, row, ...]
        first = array[0, :128]  # 128 rows of view 0 as a NumPy array
        print(
            alias,
            name,
            array.attrs["tensor"],
            array.dtype,
            array.shape,
            first.mean(),
            labels[:128].tolist()[:4],
        )
