"""`manifest.json`: what a cache holds (docs/format.md). It decides; no `zarr.json` is read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import CacheError

FORMATS = range(1, 8)
_BYTES_MAX = 256 << 20
_CHUNK_BYTES_MAX = 1 << 30
_ROWS_MAX = 1 << 40
_HEAD, _MIDDLE, _TAIL = b'{"sha256":"', b'",\n"manifest":', b"}\n"
_PART = re.compile(r"(?!\.|__)[A-Za-z0-9._-]+")
_RESERVED = {"zarr.json", "manifest.json"}

_FIELDS = set(
    "format tool teacher data logits taps rows views augment seed segment_rows row_arrays row_sums "
    "view_arrays extends segments".split()
)
_ARRAY_FIELDS = set("path dtype row_shape axes tensor batch_axis codec chunk_rows".split())
_DTYPES = {
    "bool": "?",
    "uint8": "u1",
    "int8": "i1",
    "uint16": "<u2",
    "int16": "<i2",
    "uint32": "<u4",
    "int32": "<i4",
    "uint64": "<u8",
    "int64": "<i8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
}


@dataclass(frozen=True)
class ArrayInfo:
    """One array of a cache: `shape` and `axes` are those of a row, without view and row."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    tensor: str | None
    codec: str
    chunk_rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, decoded."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, decoded."""
        return self.row_bytes * self.chunk_rows


@dataclass(frozen=True)
class Tap:
    """A tap of the teacher: the tensor, its role (`map`, `tokens`, `volume`, `vector`, `values`,
    `logits`), and its arrays by statistic (`features`, `gram`, `mean`, `attention`, `vector`,
    `sign`). `map` is the map that statistics are computed from: `layout`, `channels`, `height`,
    `width`; None where only the features are stored.
    """

    alias: str
    tensor: str
    role: str
    stage: int | None
    output: bool
    map: dict[str, Any] | None
    arrays: dict[str, ArrayInfo] = field(default_factory=dict)

    @property
    def statistic(self) -> str:
        """The features, or the first statistic where those are not stored."""
        return "features" if "features" in self.arrays else next(iter(self.arrays))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row of `statistic`."""
        return self.arrays[self.statistic].shape

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of a row of `statistic`, such as `("c", "h", "w")`."""
        return self.arrays[self.statistic].axes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of `statistic`."""
        return self.arrays[self.statistic].dtype


@dataclass(frozen=True)
class Sum:
    """A shard's length and digest."""

    bytes: int
    crc32c: int


@dataclass(frozen=True)
class Manifest:
    """The checked contents of a manifest; `document` is the whole of it as JSON, `sha256` its
    hash, `extension` the note about an extension in progress, which is not read."""

    document: dict[str, Any]
    sha256: str
    rows: int
    views: int
    segment_rows: int
    row_arrays: dict[str, ArrayInfo]
    row_sums: dict[str, Sum]
    view_arrays: dict[str, ArrayInfo]
    # of each view array: by view, then segment
    sums: dict[str, list[Sum]]
    taps: dict[str, Tap]
    extension: str | None

    @property
    def segments(self) -> int:
        """Segments of a view."""
        return -(-self.rows // self.segment_rows)


class _Bad(Exception):
    """What is wrong with a manifest, in words."""


def _natural(value: Any, name: str, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise _Bad(f"{name}: expected an integer from {least} on, found {value!r}")
    return value


def _array(record: dict[str, Any], segment_rows: int) -> ArrayInfo:
    path = record["path"]
    unknown = set(record) - _ARRAY_FIELDS
    if unknown:
        raise _Bad(f"array `{path}`: unknown field `{min(unknown)}`")
    parts = path.split("/")
    if not all(_PART.fullmatch(part) and part not in _RESERVED for part in parts):
        raise _Bad(f"array `{path}`: expected a path inside the cache")
    if record["dtype"] not in _DTYPES or record["codec"] not in ("zstd", "raw"):
        raise _Bad(f"array `{path}`: unknown type `{record['dtype']}` or codec")
    chunk_rows = _natural(record["chunk_rows"], f"array `{path}`: chunk_rows", 1)
    if segment_rows % chunk_rows:
        raise _Bad(f"array `{path}`: chunks of {chunk_rows} rows do not divide a segment")
    info = ArrayInfo(
        path=path,
        dtype=np.dtype(_DTYPES[record["dtype"]]),
        shape=tuple(_natural(n, f"array `{path}`: row_shape", 1) for n in record["row_shape"]),
        axes=tuple(map(str, record["axes"])),
        tensor=record["tensor"],
        codec=record["codec"],
        chunk_rows=chunk_rows,
    )
    if info.chunk_bytes > _CHUNK_BYTES_MAX:
        raise _Bad(f"array `{path}`: chunks of {info.chunk_bytes} bytes, more than 2^30")
    return info


def _arrays(records: list[dict[str, Any]], segment_rows: int) -> dict[str, ArrayInfo]:
    found = [_array(record, segment_rows) for record in records]
    if len({info.path.lower() for info in found}) != len(found):
        raise _Bad("arrays: a path appears twice")
    return {info.path: info for info in found}


def _sum(length: Any, digest: Any) -> Sum:
    return Sum(_natural(length, "segments: bytes"), _natural(digest, "segments: crc32c"))


def _taps(records: list[dict[str, Any]], arrays: dict[str, ArrayInfo]) -> dict[str, Tap]:
    taps = {
        record["alias"]: Tap(
            alias=record["alias"],
            tensor=record["tensor"],
            role=record["role"],
            stage=record["stage"],
            output=record.get("output", False),
            map=record.get("map"),
        )
        for record in records
    }
    for path, info in arrays.items():
        # an alias may have parts of its own
        head, _, statistic = path.rpartition("/")
        if head.startswith("taps/") and head[5:] in taps:
            taps[head[5:]].arrays[statistic] = info
    return {alias: tap for alias, tap in taps.items() if tap.arrays}


def _parse(document: dict[str, Any], sha256: str, folder: Path) -> Manifest:
    unknown = set(document) - _FIELDS
    if unknown:
        raise _Bad(f"unknown field `{min(unknown)}`")
    rows, views, segment_rows = (
        _natural(document[name], name, 1) for name in ("rows", "views", "segment_rows")
    )
    segments = -(-rows // segment_rows)
    if segments * segment_rows * views > _ROWS_MAX:
        raise _Bad("expected rows and views within 2^40")
    records = document["view_arrays"]
    published: list[dict[str, Any]] = document["segments"]
    taps, extension, done_arrays = document["taps"], None, len(records)
    total = segments * views

    def whole(arrays: int) -> int:
        return sum(len(segment["bytes"]) >= arrays for segment in published)

    if extends := document.get("extends"):
        extension = (
            f"cache {folder}: being extended, {whole(done_arrays)} of {total} segments are "
            "complete; it is read as it was before"
        )
        views = _natural(extends["views"], "extends: views", 1)
        done_arrays = _natural(extends["view_arrays"], "extends: view_arrays")
        taps = taps[: _natural(extends["taps"], "extends: taps")]
        records, total = records[:done_arrays], segments * views
        published = [segment for segment in published if segment["view"] < views]
    if whole(done_arrays) != total:
        raise CacheError(
            f"cache {folder}: incomplete, {whole(done_arrays)} of {total} segments are published",
            "run the same `nst-cache extract` command again: it resumes where it stopped",
        )
    view_arrays = _arrays(records, segment_rows)
    row_arrays = _arrays(document["row_arrays"], segment_rows)
    if set(row_arrays) != {"sample_id", "label"} or any(
        info.dtype != np.dtype("<i8") or info.shape for info in row_arrays.values()
    ):
        raise _Bad("row_arrays: expected sample_id and label, one int64 a row")
    places = [(segment["view"], segment["index"]) for segment in published]
    if places != [(view, index) for view in range(views) for index in range(segments)]:
        raise _Bad("segments: expected each once, by view, then index")
    row_sums = [_sum(record["bytes"], record["crc32c"]) for record in document.get("row_sums", [])]
    if len(row_sums) not in (0, len(row_arrays)):
        raise _Bad("row_sums: expected one per row array")
    return Manifest(
        document=document,
        sha256=sha256,
        rows=rows,
        views=views,
        segment_rows=segment_rows,
        row_arrays=row_arrays,
        row_sums=dict(zip(row_arrays, row_sums)),
        view_arrays=view_arrays,
        sums={
            path: [_sum(segment["bytes"][at], segment["crc32c"][at]) for segment in published]
            for at, path in enumerate(view_arrays)
        },
        taps=_taps(taps, view_arrays),
        extension=extension,
    )


def load(folder: Path) -> Manifest:
    """Reads and checks the manifest of the cache in `folder`: its frame, its SHA-256, its format,
    every number, name and length that the package computes with, and that all is published.
    """
    path = folder / "manifest.json"
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        raise CacheError(
            f"{folder}: no cache there (expected a folder with manifest.json)",
            "`nst-cache extract` makes one",
        ) from None
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {error}") from error
    unusable = "a cache is unusable without its manifest: remove the folder and extract again"
    body_start = len(_HEAD) + 64 + len(_MIDDLE)
    body = data[body_start : -len(_TAIL)]
    sha256 = data[len(_HEAD) : len(_HEAD) + 64]
    if len(data) > _BYTES_MAX or data != _HEAD + sha256 + _MIDDLE + body + _TAIL:
        raise CacheError(f"{path}: damaged, or not an nst-cache manifest", unusable)
    if hashlib.sha256(body).hexdigest().encode() != sha256:
        raise CacheError(f"{path}: damaged: checksum does not match", unusable)
    try:
        document = json.loads(body)
        found = document["format"]
        if type(found) is not int or found not in FORMATS:
            raise CacheError(
                f"{path}: expected format {FORMATS[0]} to {FORMATS[-1]}, found format {found} "
                f"written by {document.get('tool')}",
                "use a newer nst_cache package, or extract again into another folder",
            )
        return _parse(document, sha256.decode(), folder)
    except _Bad as problem:
        raise CacheError(f"{path}: {problem}", unusable) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CacheError(f"{path}: malformed: {error!r}", unusable) from error
