"""zstd by whichever module is there: Python 3.14's own, zstandard, pyzstd, backports.zstd or
numcodecs."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ._errors import CacheError

_MAGIC = b"\x28\xb5\x2f\xfd"
_HAS_CHECKSUM = 0x04
_Decompress = Callable[[bytes], bytes]


def _zstandard() -> _Decompress:
    module = importlib.import_module("zstandard")
    decompress: _Decompress = module.ZstdDecompressor().decompress
    return decompress


def _function(name: str) -> Callable[[], _Decompress]:
    def load() -> _Decompress:
        decompress: _Decompress = importlib.import_module(name).decompress
        return decompress

    return load


# in the order of their speed on chunks of 100 KB
_MODULES: dict[str, Callable[[], _Decompress]] = {
    "zstandard": _zstandard,
    "compression.zstd": _function("compression.zstd"),
    "pyzstd": _function("pyzstd"),
    "backports.zstd": _function("backports.zstd"),
    "numcodecs": _function("numcodecs.zstd"),
}


def find() -> _Decompress | None:
    """A function from a frame to its contents, for one thread; None without any of the modules."""
    for load in _MODULES.values():
        try:
            return load()
        except ImportError:
            continue
    return None


def decompressor() -> _Decompress:
    """What `find` finds.

    Raises `CacheError` if there is none.
    """
    found = find()
    if found is not None:
        return found
    raise CacheError(
        "compressed arrays: no module for zstd is installed",
        "pip install zstandard; with --compress none, only labels and sample ids are compressed",
    )


def content_size(frame: bytes) -> int | None:
    """The size that a frame declares if it also has a checksum, as all frames of a cache do; else
    None (RFC 8878, 3.1.1.1)."""
    if frame[:4] != _MAGIC or len(frame) < 14 or not frame[4] & _HAS_CHECKSUM:
        return None
    descriptor = frame[4]
    is_single = bool(descriptor & 0x20)
    start = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[descriptor & 3]
    kind = descriptor >> 6
    if kind == 0 and not is_single:
        return None
    length = (1, 2, 4, 8)[kind]
    size = int.from_bytes(frame[start : start + length], "little")
    return size + 256 if kind == 1 else size
