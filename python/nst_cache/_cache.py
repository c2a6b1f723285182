"""A cache opened for reading."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _lock, _manifest
from ._errors import CacheError
from ._manifest import ArrayInfo, Tap
from ._store import Rows, Store, damaged, open_store, row_array
from ._zstd import find

MEMORY = 256 << 20


class Array:
    """One view of an array of a cache, `[row, …]`, indexed like a numpy array along its rows.

    `array[i]` is a row; `array[a:b]`, `array[[3, 1, 2]]` and `array[mask]` are rows in that order.
    Of an array that is stored uncompressed, a row and a slice within one chunk are read-only views
    of the mapped file, without a copy; everything else is a new array.
    """

    def __init__(self, store: Store, view: int, rows: int) -> None:
        self._store = store
        self._view = view
        self._rows = rows

    @property
    def info(self) -> ArrayInfo:
        """The path, the tensor, and how the rows are stored."""
        return self._store.info

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, then the shape of a row."""
        return (self._rows, *self.info.shape)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, the first of them `row`."""
        return ("row", *self.info.axes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<Array {self.info.path} view {self._view} {self.dtype} {self.shape}>"

    def __getitem__(self, key: SupportsIndex | slice | Sequence[int] | Rows) -> Rows:
        if isinstance(key, slice):
            first, end, step = key.indices(self._rows)
            if step == 1:
                return self._store.slice(self._view, first, max(first, end))
            return self._take(np.arange(first, end, step))
        if isinstance(key, tuple):
            raise IndexError("expected rows alone: array[rows][:, …] indexes what is in them")
        if isinstance(key, (Sequence, np.ndarray)) and np.ndim(key):
            index = np.asarray(key)
            if index.dtype == np.bool_:
                if index.shape != (self._rows,):
                    raise IndexError(f"expected a mask of {self._rows} rows, found {index.shape}")
                index = np.flatnonzero(index)
            elif index.size == 0:
                index = index.astype(np.intp)
            if index.ndim != 1 or index.dtype.kind not in "iu":
                raise IndexError("expected integers along one axis, the rows")
            return self._take(index)
        try:
            row = key.__index__()  # type: ignore[union-attr]
        except (AttributeError, TypeError):
            raise IndexError(f"expected a row, a slice or rows, found {key!r}") from None
        found = row + self._rows if row < 0 else row
        if not 0 <= found < self._rows:
            raise IndexError(f"row {row} of {self._rows}")
        only: Rows = self._store.slice(self._view, found, found + 1)[0]
        return only

    def _take(self, index: npt.NDArray[Any]) -> Rows:
        if index.size and (index.min() < -self._rows or index.max() >= self._rows):
            raise IndexError(f"rows {index.min()} to {index.max()} of {self._rows}")
        rows = index.astype(np.intp)
        rows[rows < 0] += self._rows
        return self._store.rows(np.full_like(rows, self._view), rows)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Rows:
        if copy is False:
            raise ValueError("the rows of a cache are in many files: a copy is needed")
        found = self[:]
        return found if dtype is None else found.astype(dtype)


class SparseLogits(NamedTuple):
    """The K classes with the largest logits of each distribution over `classes` classes."""

    value: Array
    """Their log-probabilities, falling: float16 `[row, top]`, or `[row, t, top]`."""
    class_: Array
    """Their indices: uint16 or uint32, of the same shape."""
    rest: Array
    """The probability of all other classes: float32 `[row]`, or `[row, t]`."""
    classes: int
    """How many classes there are."""


class Cache:
    """A cache, opened for reading under its shared lock.

    Opening checks the manifest's frame, hash and format, that everything is published, and the
    whole row arrays; shards and chunks are checked when they are first read. At most `memory`
    bytes of decoded chunks are kept. A pickled cache is opened again where it is unpickled.
    """

    def __init__(self, path: str | os.PathLike[str], memory: int = MEMORY) -> None:
        self._folder = Path(path)
        self._memory = memory
        self._stores: dict[str, Store] = {}
        self._file = _lock.shared(self._folder)
        try:
            self._manifest = _manifest.load(self._folder)
            # labels are compressed in every cache: without a module, when they are asked for
            self._row_values = self._row_arrays() if find() else None
            _lock.check(self._file, self._folder)
            if self._manifest.extension:
                warnings.warn(self._manifest.extension, stacklevel=3)
        except BaseException:
            self.close()
            raise

    def _row_array(self, path: str) -> npt.NDArray[np.int64]:
        if self._row_values is None:
            self._row_values = self._row_arrays()
        return self._row_values[path]

    def _row_arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        read = {
            path: row_array(self._folder, self._manifest, info)
            for path, info in self._manifest.row_arrays.items()
        }
        ids, labels = read["sample_id"], read["label"]
        data = self._manifest.document["data"]
        if (
            (ids < 0).any()
            or (ids >= data["fingerprint"]["samples"]).any()
            or np.unique(ids).size != ids.size
        ):
            raise damaged(
                f"{self._folder}/sample_id", "expected samples of the data set, each once"
            )
        if (labels < -1).any() or (labels >= len(data["classes"])).any():
            raise damaged(f"{self._folder}/label", "expected a class or -1")
        ids.flags.writeable = labels.flags.writeable = False
        return read

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest as it stands in `manifest.json`; docs/format.md lists its fields."""
        return self._manifest.document

    @property
    def sha256(self) -> str:
        """The manifest's hash, which stands for everything that is stored."""
        return self._manifest.sha256

    @property
    def extension(self) -> str | None:
        """The note that views or arrays are being added, which are not read; None if not."""
        return self._manifest.extension

    def __len__(self) -> int:
        """Rows of a view."""
        return self._manifest.rows

    @property
    def views(self) -> int:
        """How many views there are of each row."""
        return self._manifest.views

    @property
    def taps(self) -> Mapping[str, Tap]:
        """The taps by their aliases."""
        return self._manifest.taps

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """All arrays over `[view, row, …]` by their paths: inputs, parameters of views, logits and
        taps."""
        return self._manifest.view_arrays

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each row, int64 `[row]`; -1 where there is none."""
        return self._row_array("label")

    @property
    def sample_ids(self) -> npt.NDArray[np.int64]:
        """The index in the data set of each row, int64 `[row]`."""
        return self._row_array("sample_id")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return tuple(self._manifest.document["data"]["classes"])

    @property
    def top(self) -> tuple[int, int] | None:
        """(K, classes) of sparse logits, else None."""
        top = (self._manifest.document.get("logits") or {}).get("top")
        return (top["k"], top["classes"]) if top and "logits/value" in self.arrays else None

    def array(self, path: str, view: int = 0) -> Array:
        """One view of the array at `path`, such as `taps/layer3/features`: `[row, …]`."""
        if path not in self.arrays:
            known = ", ".join(self.arrays)
            raise CacheError(f"cache {self.path}: no array `{path}`", f"it has {known}")
        if not 0 <= view < self.views:
            raise CacheError(f"cache {self.path}: view {view} of {self.views}")
        if path not in self._stores:
            compressed = [info for info in self.arrays.values() if info.codec == "zstd"]
            row_bytes = sum(info.row_bytes for info in compressed) or 1
            share = self._memory * self.arrays[path].row_bytes // row_bytes
            self._stores[path] = self.store(path, share)
        return Array(self._stores[path], view, len(self))

    def store(self, path: str, memory: int) -> Store:
        """A reader of the array at `path` that keeps at most `memory` decoded bytes."""
        return open_store(self._folder, self._manifest, self.arrays[path], memory)

    @property
    def input_paths(self) -> tuple[str, ...]:
        """Paths of the stored inputs: `input` for images, else `inputs/<name>` for each."""
        return tuple(p for p in self.arrays if p == "input" or p.startswith("inputs/"))

    def inputs(self, view: int = 0, name: str | None = None) -> Array:
        """The teacher's input as stored, `[row, …]`: of images, the bytes before normalization,
        `[row, c, h, w]` or `[row, h, w, c]`. `name` chooses between several inputs."""
        paths = self.input_paths
        if not paths:
            raise CacheError(
                f"cache {self.path}: its inputs are not stored",
                "extract again with --inputs stored",
            )
        wanted = [p for p in paths if name is None or p == f"inputs/{name}" or p == name]
        if len(wanted) != 1:
            names = ", ".join(p.removeprefix("inputs/") for p in paths)
            raise CacheError(f"cache {self.path}: expected the name of one input: {names}")
        return self.array(wanted[0], view)

    def logits(self, view: int = 0) -> Array | SparseLogits:
        """The teacher's logits: `[row, class]`, or `[row, t, class]`; of a cache that keeps the
        largest ones, `SparseLogits`."""
        if self.top:
            parts = [self.array(f"logits/{part}", view) for part in ("value", "class", "rest")]
            return SparseLogits(parts[0], parts[1], parts[2], self.top[1])
        if "logits" not in self.arrays:
            raise CacheError(f"cache {self.path}: it has no logits")
        return self.array("logits", view)

    def close(self) -> None:
        """Releases the lock. Rows that were read stay valid; nothing more may be read."""
        self._stores.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cache {self.path}: {len(self)} rows, {self.views} views, {len(self.taps)} taps>"

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (os.fspath(self._folder.absolute()), self._memory, self.sha256)


def reopen(path: str, memory: int, sha256: str) -> Cache:
    """The cache that was pickled, opened again in this process."""
    cache = Cache(path, memory)
    if cache.sha256 != sha256:
        cache.close()
        raise CacheError(f"cache {path}: has changed since it was pickled", "open it again")
    return cache
