"""Reads the caches of nst-cache, and runs the program.

    cache = nst_cache.open("cache/teacher")
    cache.taps["layer3"].shape              # (64, 7, 7)
    cache.array("taps/layer3/features")[0]  # a row, numpy
    nst_cache.run("extract", "teacher.onnx", data="photos", output="cache/teacher")

`nst_cache.torch` has a data set and a sampler for PyTorch. docs/python.md has examples.
"""

from __future__ import annotations

import os

from ._binary import find_binary
from ._cache import MEMORY, Array, Cache, SparseLogits
from ._errors import CacheError, ToolError
from ._manifest import ArrayInfo, Tap
from ._run import run

__all__ = [
    "Array",
    "ArrayInfo",
    "Cache",
    "CacheError",
    "SparseLogits",
    "Tap",
    "ToolError",
    "find_binary",
    "open",
    "run",
]


def open(path: str | os.PathLike[str], *, memory: int = MEMORY) -> Cache:
    """Opens a cache for reading; at most `memory` bytes of decoded chunks are kept.

    Raises `CacheError` if there is none, or if it is incomplete, damaged, of a newer format or
    being written. A cache to which views or arrays are being added is read as it was before, with
    a warning.
    """
    return Cache(path, memory)
