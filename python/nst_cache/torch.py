"""A cache as a PyTorch data set, in an order that decodes each chunk once.

dataset = nst_cache.torch.Dataset("cache/teacher", taps=["layer3"])
batches = nst_cache.torch.ChunkShuffle(dataset, batch_size=64)
loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches, num_workers=2)
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from ._cache import Cache, reopen
from ._errors import CacheError
from ._manifest import ArrayInfo
from ._store import Indices, Store

__all__ = ["Batch", "ChunkShuffle", "Dataset", "Normalize"]

MEMORY = 512 << 20
# an array is small if a view of it takes at most this part of the memory
_SMALL = 8

Sample = dict[str, Any]


class _OfBatch(Sample):
    """A sample that is a part of a `Batch`: its type tells PyTorch's collation."""


class Batch(Sequence[Sample]):
    """Samples that were read together: `tensors` has them stacked, `[n, …]` each, and default
    collation returns that as it is. As a sequence it is its samples, one by one."""

    def __init__(self, tensors: Sample, size: int) -> None:
        self.tensors = tensors
        self._size = size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._size))]
        if not -self._size <= index < self._size:
            raise IndexError(f"sample {index} of {self._size}")
        return _OfBatch(_at(self.tensors, index))


def _at(tensors: Mapping[str, Any], index: int) -> Sample:
    return {
        name: _at(value, index) if isinstance(value, dict) else value[index]
        for name, value in tensors.items()
    }


def _collate(batch: Any, *, collate_fn_map: Any = None) -> Sample:
    if isinstance(batch, Batch):
        return batch.tensors
    # samples of batches, in a list of somebody else's
    collated: Sample = torch.utils.data.default_collate([dict(sample) for sample in batch])
    return collated


default_collate_fn_map[_OfBatch] = _collate


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    # PyTorch computes with no other unsigned type
    if values.dtype.kind == "u" and values.dtype.itemsize in (2, 4):
        values = values.astype(np.int64)
    return torch.from_numpy(values)


def _tap_paths(cache: Cache, taps: Sequence[str] | None) -> dict[str, str]:
    """The path of each tap's array, by the name that it has in a sample."""
    found = {}
    for name in cache.taps if taps is None else taps:
        alias, statistic = name, ""
        if alias not in cache.taps:
            alias, _, statistic = name.rpartition("/")
        tap = cache.taps.get(alias)
        if tap is None or (statistic and statistic not in tap.arrays):
            known = [f"{a}/{s}" for a, tap in cache.taps.items() for s in tap.arrays]
            raise CacheError(f"cache {cache.path}: no tap `{name}`", f"it has {', '.join(known)}")
        if statistic or len(tap.arrays) == 1:
            found[name] = tap.arrays[statistic or tap.statistic].path
        elif taps is None:
            found.update({f"{alias}/{s}": info.path for s, info in tap.arrays.items()})
        else:
            choices = ", ".join(f"{alias}/{s}" for s in tap.arrays)
            raise CacheError(f"cache {cache.path}: expected one array of tap `{name}`: {choices}")
    return found


class Dataset(torch.utils.data.Dataset[Sample]):
    """The rows of a cache as samples, for `torch.utils.data.DataLoader`.

    A sample is a dict of tensors; in a batch each has the batch as its first axis:

    - `row`: int64, the row in the cache;
    - `input`: the teacher's input as stored, uint8 `[c, h, w]` for images (`Normalize` makes it
      what a network takes); `inputs`, a dict by name, where there are several;
    - `label`: int64, -1 where there is none; with `mixup` or `cutmix` also `partner_label` and
      `mix`, float32: the loss is mix·CE(label) + (1 − mix)·CE(partner_label);
    - `logits`: `[class]` or `[t, class]`; of sparse logits a dict of `value` and `class` `[top]` or
      `[t, top]` (`class` as int64) and `rest`;
    - `taps`: a dict by the names in `taps`, each an alias (`layer3`, if the tap has one array) or
      an alias and a statistic (`layer3/gram`), of the array's type; by default all of them.

    By default all views are read: index i is row i mod rows of view i div rows, and `ChunkShuffle`
    takes one view per epoch in turn. With `view=v`, index i is row i of view v alone. At most
    `memory` bytes of decoded chunks are kept in each process. It is pickled as the cache's path: a
    worker opens the cache itself and refuses one that has changed.
    """

    def __init__(
        self,
        cache: Cache | str | os.PathLike[str],
        taps: Sequence[str] | None = None,
        view: int | None = None,
        inputs: bool = True,
        logits: bool = True,
        labels: bool = True,
        memory: int = MEMORY,
    ) -> None:
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.view = view
        self.memory = memory
        self._arguments = (taps, view, inputs, logits, labels, memory)
        if view is not None and not 0 <= view < self.cache.views:
            raise CacheError(f"cache {self.cache.path}: view {view} of {self.cache.views}")
        arrays = self.cache.arrays
        self._labels = labels
        # by the name in a sample, or the names if it is in a dict of its own
        paths: dict[tuple[str, ...], str] = {}
        if inputs:
            found = self.cache.input_paths
            if not found:
                raise CacheError(
                    f"cache {self.cache.path}: its inputs are not stored",
                    "pass inputs=False, or extract again with --inputs stored",
                )
            if len(found) == 1:
                paths[("input",)] = found[0]
            else:
                paths.update({("inputs", p.removeprefix("inputs/")): p for p in found})
        if logits:
            if self.cache.top:
                paths.update({("logits", p): f"logits/{p}" for p in ("value", "class", "rest")})
            elif "logits" in arrays:
                paths[("logits",)] = "logits"
            else:
                raise CacheError(f"cache {self.cache.path}: it has no logits", "pass logits=False")
        if labels and "mix" in arrays:
            paths[("mix",)] = "mix"
            paths[("partner_label",)] = "partner"
        paths.update({("taps", name): p for name, p in _tap_paths(self.cache, taps).items()})
        # small arrays stay decoded whole, a view of them; of the others, the same rows of each
        infos = sorted((arrays[path] for path in paths.values()), key=lambda info: info.row_bytes)
        self._large, left = list[ArrayInfo](), memory
        for info in infos:
            size = info.row_bytes * len(self.cache)
            if size > memory // _SMALL or left - size < memory // 2:
                self._large.append(info)
            elif info.codec == "zstd":
                left -= size
        row_bytes = sum(info.row_bytes for info in self._large if info.codec == "zstd")
        self._resident = left // row_bytes if row_bytes else len(self.cache)
        self._stores: dict[tuple[str, ...], Store] = {}
        for names, path in paths.items():
            info = arrays[path]
            rows = self._resident if info in self._large else len(self.cache) + info.chunk_rows
            self._stores[names] = self.cache.store(path, rows * info.row_bytes)

    @property
    def block_rows(self) -> int:
        """The fewest rows that are whole chunks of every array, but for small ones, of which a
        whole view stays decoded."""
        return math.lcm(*(info.chunk_rows for info in self._large))

    @property
    def resident_rows(self) -> int:
        """How many rows of every array stay decoded within `memory`."""
        return self._resident

    def __len__(self) -> int:
        return len(self.cache) * (self.cache.views if self.view is None else 1)

    def _read(self, index: Indices) -> Sample:
        if index.size and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"samples {index.min()} to {index.max()} of {len(self)}")
        if self.view is None:
            views, rows = np.divmod(index, len(self.cache))
        else:
            views, rows = np.full_like(index, self.view), index
        sample: Sample = {"row": torch.from_numpy(rows.astype(np.int64))}
        if self._labels:
            sample["label"] = torch.from_numpy(self.cache.labels[rows])
        for names, store in self._stores.items():
            values = store.rows(views, rows)
            if names == ("partner_label",):
                values = self.cache.labels[values]
            target = sample
            for name in names[:-1]:
                target = target.setdefault(name, {})
            target[names[-1]] = _tensor(values)
        return sample

    def __getitem__(self, index: int) -> Sample:
        found = index + len(self) if index < 0 else index
        return _at(self._read(np.array([found], np.intp)), 0)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return Batch(self._read(np.asarray(indices, np.intp)), len(indices))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (*self.cache.__reduce__()[1], self._arguments)


def _reopen(path: str, memory: int, sha256: str, arguments: tuple[Any, ...]) -> Dataset:
    return Dataset(reopen(path, memory, sha256), *arguments)


class ChunkShuffle(torch.utils.data.Sampler[list[int]]):
    """Batches in a shuffled order that decodes each chunk once: a batch sampler.

    The blocks of `dataset.block_rows` rows are shuffled and dealt to `lanes`; each lane shuffles
    the rows of `window` blocks at a time. The batches of the lanes take turns, so that with
    `num_workers` that divides `lanes` every chunk is decoded by one worker. Rows of a cache are in
    a random order already. The default `window` is the longest for which `dataset.memory` holds two
    windows of every lane; if that is the whole cache, the order is a plain shuffle in each lane.

    The order follows from (seed, epoch), whatever `num_workers` is. Each iteration is the next
    epoch; `set_epoch` says which one comes next. Where the data set is all views of a cache, epoch
    e takes view e mod views.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        lanes: int = 4,
        window: int | None = None,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1 or lanes < 1 or (window is not None and window < 1):
            raise ValueError("batch_size, lanes and window: expected 1 or more")
        self._rows = len(dataset.cache)
        self._views = dataset.cache.views if dataset.view is None else 1
        self._block = dataset.block_rows
        self._window = window or max(1, dataset.resident_rows // (2 * lanes * self._block))
        if self._block * lanes > dataset.resident_rows:
            warnings.warn(
                f"ChunkShuffle: {lanes} lanes of {self._block} rows are more than the "
                f"{dataset.resident_rows} rows that stay decoded, so chunks are decoded more than "
                "once: give the data set more memory, or fewer lanes",
                stacklevel=2,
            )
        self.batch_size = batch_size
        self.seed = seed
        self.lanes = lanes
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration."""
        if epoch < 0:
            raise ValueError(f"epoch: expected 0 or more, found {epoch}")
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self._rows, self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def _lane(self, blocks: npt.NDArray[Any], random: np.random.Generator) -> npt.NDArray[Any]:
        """The rows of these blocks, shuffled within each window."""
        windows = []
        for first in range(0, len(blocks), self._window):
            starts = blocks[first : first + self._window, None] * self._block
            rows = (starts + np.arange(self._block)).ravel()
            windows.append(random.permutation(rows[rows < self._rows]))
        return np.concatenate(windows) if windows else np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, size = self.epoch, self.batch_size
        self.epoch += 1
        random = np.random.default_rng([self.seed, epoch])
        blocks = random.permutation(-(-self._rows // self._block))
        lanes = [self._lane(blocks[lane :: self.lanes], random) for lane in range(self.lanes)]
        offset = epoch % self._views * self._rows
        for turn in range(max(len(rows) for rows in lanes) // size):
            for rows in lanes:
                batch = rows[turn * size : (turn + 1) * size]
                if len(batch) == size:
                    yield (batch + offset).tolist()
        rest = np.concatenate([rows[len(rows) // size * size :] for rows in lanes])
        for first in range(0, len(rest), size):
            batch = rest[first : first + size]
            if len(batch) == size or not self.drop_last:
                yield (batch + offset).tolist()


class Normalize(torch.nn.Module):
    """From stored images to what a network takes: (x · scale − mean) / std per channel, as the
    preprocessing of the cache says. uint8 `[…, c, h, w]` (or `[…, h, w, c]`) to float32 of the same
    shape."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        preprocess = cache.manifest["data"]["preprocess"]
        if preprocess is None:
            raise CacheError(f"cache {cache.path}: its inputs are arrays that are fed as they are")
        shape = (-1, 1, 1) if preprocess["layout"] == "nchw" else (-1,)
        self.scale = float(np.float32(preprocess["scale"]))
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name in ("mean", "std"):
            values = torch.tensor(preprocess[name], dtype=torch.float32).reshape(shape)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 of the shape of `images`."""
        return (images.to(torch.float32) * self.scale - self.mean) / self.std
