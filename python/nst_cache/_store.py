"""Rows of an array from its shards, which are mapped into memory and checked as they are read.

Checked when a shard is mapped: its length, its index's CRC-32C, that its chunks are where the
format puts them, and its digest, which the manifest names. Checked when a process first reads a
chunk: its CRC-32C. Checked whenever a chunk is decompressed: zstd's own checksum and the size.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._crc32c import crc32c
from ._errors import CacheError
from ._manifest import ArrayInfo, Manifest, Sum
from ._zstd import content_size, decompressor

Indices = npt.NDArray[np.intp]
Rows = npt.NDArray[Any]

_CHECKSUM = 4
_ENTRY = 16
# bytes of a row from which on copying it takes longer than numpy's call
_LONG_ROW = 4096
_EMPTY = np.uint64(2**64 - 1)
_VERIFY = "`nst-cache cache verify` lists all that is wrong with the cache"


def damaged(place: str, problem: str) -> CacheError:
    return CacheError(f"{place}: {problem}", _VERIFY)


def _map(path: Path, size: int | None) -> mmap.mmap:
    """Maps a whole file. From Python 3.13 on no descriptor stays open."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise damaged(str(path), f"expected {size} bytes, found {found}")
            if not found:
                raise damaged(str(path), "truncated")
            if sys.version_info >= (3, 13):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise damaged(str(path), "missing") from None
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {error}") from error


class Shard:
    """A mapped shard of `chunks` chunks, of which the first `used` hold data."""

    def __init__(
        self, path: Path, info: ArrayInfo, chunks: int, used: int, expected: Sum | None
    ) -> None:
        self.path = path
        self.used = used
        # the rows as mapped, where they are not compressed
        self.rows: Rows | None = None
        self.map = _map(path, expected.bytes if expected else None)
        self._view = memoryview(self.map)
        size = len(self.map)
        start = size - chunks * _ENTRY - _CHECKSUM
        if start < 0:
            raise damaged(str(path), "truncated")
        stored = self.map[-_CHECKSUM:]
        index = self._view[start : size - _CHECKSUM]
        if crc32c(index).to_bytes(_CHECKSUM, "little") != stored:
            raise damaged(str(path), "its index: checksum does not match")
        entries = np.frombuffer(index, "<u8").reshape(chunks, 2)
        offsets, lengths = entries[:used, 0], entries[:used, 1]
        # lengths first: afterwards no sum of them overflows
        shortest, longest = _CHECKSUM + 1, start
        if info.codec == "raw":
            shortest = longest = info.chunk_bytes + _CHECKSUM
        if (
            not ((lengths >= shortest) & (lengths <= longest)).all()
            or (entries[used:] != _EMPTY).any()
        ):
            raise damaged(str(path), "its index: expected other chunks")
        ends = np.cumsum(lengths.astype(np.float64))
        bounds = np.concatenate(([0], np.cumsum(lengths.astype(np.int64))))
        if ends[-1] != start or bounds[-1] != start or (offsets != bounds[:-1]).any():
            raise damaged(str(path), "its index: expected other chunks")
        if expected:
            data = np.frombuffer(self.map, np.uint8)
            sums = data[bounds[1:, None] - _CHECKSUM + np.arange(_CHECKSUM)]
            if crc32c(sums.tobytes() + stored) != expected.crc32c:
                raise damaged(str(path), "intact, but not the shard that the manifest names")
        self._bounds = bounds

    def encoded(self, chunk: int) -> memoryview:
        """A chunk's bytes, without its checksum."""
        return self._view[self._bounds[chunk] : self._bounds[chunk + 1] - _CHECKSUM]

    def check(self, chunk: int, place: Callable[[], str]) -> None:
        """Checks a chunk's CRC-32C."""
        end = self._bounds[chunk + 1]
        stored = self._view[end - _CHECKSUM : end]
        if crc32c(self.encoded(chunk)).to_bytes(_CHECKSUM, "little") != stored:
            raise damaged(place(), "checksum does not match")


def _most_maps(arrays: int) -> int:
    """How many shards of one of `arrays` arrays stay mapped: before Python 3.13 each holds a file
    descriptor."""
    if sys.version_info >= (3, 13):
        return max(16, 32_768 // arrays)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:
        limit = 512
    return max(16, min(limit, 65_536) // 2 // arrays)


class Store:
    """Reads rows of one view array, `[view, row, …]`. Threads take turns."""

    def __init__(self, folder: Path, manifest: Manifest, info: ArrayInfo) -> None:
        self.info = info
        self._folder = folder
        self._manifest = manifest
        self._chunks = manifest.segment_rows // info.chunk_rows
        # chunks of a view, with those past the data of its last segment
        self._stride = self._chunks * manifest.segments
        self._checked = np.zeros(self._stride * manifest.views, np.bool_)
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._most = _most_maps(len(manifest.view_arrays))
        self._lock = threading.Lock()

    def rows(self, views: Indices, rows: Indices) -> Rows:
        """The rows of these views, `[n, …row]`, in this order, as a new array."""
        with self._lock:
            return self._rows(views, rows)

    def _rows(self, views: Indices, rows: Indices) -> Rows:
        raise NotImplementedError

    def slice(self, view: int, first: int, end: int) -> Rows:
        """Rows `first..end` of a view, `[end - first, …row]`."""
        rows = np.arange(first, end, dtype=np.intp)
        return self.rows(np.full_like(rows, view), rows)

    def _rows_of(self, segment: int) -> int:
        """Rows of data in a segment of a view."""
        manifest = self._manifest
        return min(manifest.segment_rows, manifest.rows - segment * manifest.segment_rows)

    def _shard(self, place: int) -> Shard:
        """The shard of a segment, counted over all views."""
        shard = self._shards.get(place)
        if shard is not None:
            self._shards.move_to_end(place)
            return shard
        view, segment = divmod(place, self._manifest.segments)
        path = self._folder / self.info.path / "c" / str(view) / str(segment)
        path = path.joinpath(*("0" for _ in self.info.shape))
        used = -(-self._rows_of(segment) // self.info.chunk_rows)
        expected = self._manifest.sums[self.info.path][place]
        shard = Shard(path, self.info, self._chunks, used, expected)
        while len(self._shards) >= self._most:
            self._shards.popitem(last=False)
        self._shards[place] = shard
        return shard

    def _place(self, shard: Shard, chunk: int) -> str:
        """The file and the rows within the view of a chunk, counted over all views."""
        first = chunk % self._stride * self.info.chunk_rows
        end = min(first + self.info.chunk_rows, self._manifest.rows)
        return f"{shard.path}: rows {first}..{end}"

    def _check(self, shard: Shard, chunk: int) -> None:
        if not self._checked[chunk]:
            shard.check(chunk % self._chunks, lambda: self._place(shard, chunk))
            self._checked[chunk] = True


class RawStore(Store):
    """Uncompressed chunks: rows are read where they lie."""

    def _view(self, place: int) -> Rows:
        """The rows of a shard as mapped, `[chunk, row, …]`: a checksum follows each chunk."""
        shard = self._shard(place)
        if shard.rows is None:
            info = self.info
            one: Rows = np.ndarray((info.chunk_rows, *info.shape), info.dtype, shard.map)
            shard.rows = np.ndarray(
                (shard.used, *one.shape),
                info.dtype,
                shard.map,
                strides=(info.chunk_bytes + _CHECKSUM, *one.strides),
            )
        return shard.rows

    def _check_all(self, chunks: Indices) -> None:
        unchecked = chunks[~self._checked[chunks]]
        for chunk in np.unique(unchecked).tolist():
            self._check(self._shard(chunk // self._chunks), chunk)

    def _rows(self, views: Indices, rows: Indices) -> Rows:
        info, segment_rows = self.info, self._manifest.segment_rows
        self._check_all(views * self._stride + rows // info.chunk_rows)
        out = np.empty((rows.size, *info.shape), info.dtype)
        places = views * self._manifest.segments + rows // segment_rows
        within = rows % segment_rows
        chunk, row = within // info.chunk_rows, within % info.chunk_rows
        order = np.argsort(places, kind="stable")
        sorted_places = places[order]
        starts = np.flatnonzero(np.diff(sorted_places, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), rows.size]):
            at, mapped = order[start:end], self._view(int(sorted_places[start]))
            if info.row_bytes < _LONG_ROW:
                out[at] = mapped[chunk[at], row[at]]
                continue
            # without a second array of this size, whose pages cost more than the calls
            for i, c, r in zip(at.tolist(), chunk[at].tolist(), row[at].tolist()):
                out[i] = mapped[c, r]
        return out

    def slice(self, view: int, first: int, end: int) -> Rows:
        """Rows of one chunk as they lie in the file, read-only and without a copy; others as a new
        array."""
        info, segment_rows = self.info, self._manifest.segment_rows
        if first >= end or first // info.chunk_rows != (end - 1) // info.chunk_rows:
            return super().slice(view, first, end)
        with self._lock:
            self._check_all(np.array([view * self._stride + first // info.chunk_rows]))
            chunks = self._view(view * self._manifest.segments + first // segment_rows)
            start = first % info.chunk_rows
            found: Rows = chunks[first % segment_rows // info.chunk_rows]
            return found[start : start + end - first]


class ZstdStore(Store):
    """Compressed chunks: the last ones that were used stay decoded, at most `memory` bytes."""

    def __init__(self, folder: Path, manifest: Manifest, info: ArrayInfo, memory: int) -> None:
        super().__init__(folder, manifest, info)
        slots = min(max(1, memory // info.chunk_bytes), self._checked.size)
        # pages of slots that are never used take no memory
        self._pool = np.empty((slots, info.chunk_rows, *info.shape), info.dtype)
        self._flat = self._pool.reshape(slots * info.chunk_rows, *info.shape)
        self._slot = np.full(self._checked.size, -1, np.intp)
        self._owner = np.full(slots, -1, np.intp)
        self._used = np.zeros(slots, np.int64)
        self._tick = 0
        self._decompress = decompressor()

    def _rows(self, views: Indices, rows: Indices) -> Rows:
        chunk_rows = self.info.chunk_rows
        chunks = views * self._stride + rows // chunk_rows
        slots = self._slot[chunks]
        if slots.size and slots.min() < 0:
            wanted = np.unique(chunks)
            if wanted.size > self._owner.size:
                return self._in_parts(views, rows, chunks)
            self._load(wanted)
            slots = self._slot[chunks]
        self._tick += 1
        self._used[slots] = self._tick
        found: Rows = self._flat[slots * chunk_rows + rows % chunk_rows]
        return found

    def _in_parts(self, views: Indices, rows: Indices, chunks: Indices) -> Rows:
        """Rows of more chunks than stay decoded: as many chunks at a time as do."""
        out = np.empty((rows.size, *self.info.shape), self.info.dtype)
        wanted = np.unique(chunks)
        part = np.searchsorted(wanted, chunks) // self._owner.size
        for number in range(int(part.max()) + 1):
            at = np.flatnonzero(part == number)
            out[at] = self._rows(views[at], rows[at])
        return out

    def _load(self, wanted: Indices) -> None:
        """Decodes those of the chunks that are not decoded, in place of the ones that were not used
        for longest."""
        self._tick += 1
        slots = self._slot[wanted]
        self._used[slots[slots >= 0]] = self._tick
        missing = wanted[slots < 0]
        count = missing.size
        free = np.argpartition(self._used, count - 1)[:count] if count < self._used.size else None
        targets = np.arange(count) if free is None else np.sort(free)
        for chunk, slot in zip(missing.tolist(), targets.tolist()):
            before = self._owner[slot]
            if before >= 0:
                self._slot[before] = -1
                self._owner[slot] = -1
            self._decode(chunk, slot)
            self._slot[chunk], self._owner[slot] = slot, chunk
            self._used[slot] = self._tick

    def _decode(self, chunk: int, slot: int) -> None:
        shard = self._shard(chunk // self._chunks)
        self._check(shard, chunk)
        frame = bytes(shard.encoded(chunk % self._chunks))
        if content_size(frame) != self.info.chunk_bytes:
            raise damaged(
                self._place(shard, chunk),
                f"expected a frame of {self.info.chunk_bytes} bytes with a checksum",
            )
        try:
            data = self._decompress(frame)
        # every module for zstd has an error of its own
        except Exception as error:
            raise damaged(self._place(shard, chunk), f"cannot be decoded: {error}") from error
        if len(data) != self.info.chunk_bytes:
            raise damaged(self._place(shard, chunk), f"decodes to {len(data)} bytes")
        self._pool[slot] = np.frombuffer(data, self.info.dtype).reshape(self._pool.shape[1:])


def open_store(folder: Path, manifest: Manifest, info: ArrayInfo, memory: int) -> Store:
    """The store of a view array, of which at most `memory` decoded bytes are kept."""
    if info.codec == "raw":
        return RawStore(folder, manifest, info)
    return ZstdStore(folder, manifest, info, memory)


def row_array(folder: Path, manifest: Manifest, info: ArrayInfo) -> npt.NDArray[np.int64]:
    """A whole row array, int64 `[row]`."""
    chunks = manifest.segments * manifest.segment_rows // info.chunk_rows
    used = -(-manifest.rows // info.chunk_rows)
    expected = manifest.row_sums.get(info.path)
    shard = Shard(folder / info.path / "c" / "0", info, chunks, used, expected)
    out = np.empty(used * info.chunk_rows, np.int64)
    decompress = decompressor() if info.codec == "zstd" else bytes
    for chunk in range(used):
        first, end = chunk * info.chunk_rows, (chunk + 1) * info.chunk_rows
        place = f"{shard.path}: rows {first}..{min(end, manifest.rows)}"
        shard.check(chunk, lambda: place)
        frame = bytes(shard.encoded(chunk))
        if info.codec == "zstd" and content_size(frame) != info.chunk_bytes:
            raise damaged(place, f"expected a frame of {info.chunk_bytes} bytes with a checksum")
        try:
            out[first:end] = np.frombuffer(decompress(frame), "<i8")
        except Exception as error:
            raise damaged(place, f"cannot be decoded: {error}") from error
    return out[: manifest.rows]
