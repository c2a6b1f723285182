#!/usr/bin/env python3
"""Reading stored features in PyTorch: a cache by `nst_cache` beside one torch.save file per sample,
a .npy memmap by item and by batch, and zarr-python. Needs torch, zarr, zstandard and
NST_CACHE_BINARY.

The same 25 KB of float16 per sample (layer1 of models/teacher.onnx on Fashion-MNIST) is stored in
every form and read in shuffled batches, after one epoch that warms the page cache. The ways take
turns, so that a busy machine disturbs all of them; medians of the rounds are printed.

Usage: scripts/bench-python.py [--rows N] [--rounds N] [--workers 0,2] [--folder DIR]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import zarr
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))

import nst_cache  # noqa: E402
import nst_cache.torch  # noqa: E402

TAP = "taps/layer1/features"
warnings.filterwarnings("ignore", message="This DataLoader will create")


class PerFile(torch.utils.data.Dataset):
    """One torch.save file per sample: a dict of the logits and the features."""

    def __init__(self, folder, rows):
        self.folder, self.rows = folder, rows

    def path(self, i):
        return self.folder / f"{i // 1000:04d}" / f"{i}.pt"

    def __len__(self):
        return self.rows

    def __getitem__(self, i):
        stored = torch.load(self.path(i), weights_only=False)
        return {"taps": stored["features"], "logits": stored["logits"], "row": i}


class Memmap(torch.utils.data.Dataset):
    """One .npy file, a row copied per index."""

    def __init__(self, path, logits):
        self.path, self.logits, self.map = path, logits, None

    def __len__(self):
        return len(self.logits)

    def opened(self):
        if self.map is None:
            self.map = np.load(self.path, mmap_mode="r")
        return self.map

    def __getitem__(self, i):
        features = torch.from_numpy(np.array(self.opened()[i]))
        return {"taps": features, "logits": self.logits[i], "row": i}


class MemmapBatch(Memmap):
    """The same file, one read per batch."""

    def __getitems__(self, rows):
        features = torch.from_numpy(self.opened()[np.asarray(rows)])
        return {"taps": features, "logits": self.logits[rows], "row": torch.as_tensor(rows)}


class Zarr(torch.utils.data.Dataset):
    """The cache by zarr-python, one read per batch."""

    def __init__(self, path):
        self.path, self.group = path, None

    def __len__(self):
        return zarr.open_group(str(self.path), mode="r")["label"].shape[0]

    def __getitems__(self, rows):
        if self.group is None:
            group = zarr.open_group(str(self.path), mode="r")
            self.group = group[TAP], group["logits"]
        index = np.asarray(rows)
        features, logits = (array.oindex[0, index] for array in self.group)
        return {
            "taps": torch.from_numpy(features),
            "logits": torch.from_numpy(logits),
            "row": torch.as_tensor(rows),
        }


def as_it_is(batch):
    return batch


def others(before, own_before):
    """Cores that other processes kept busy since then (Linux)."""
    now, own = cpu()
    busy = (now[0] - before[0]) - (own - own_before)
    return busy / max(now[1] - before[1], 1e-9) * os.cpu_count()


def cpu():
    """(busy, total) seconds of the machine, and those of this process and its children."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    total, idle = sum(fields), fields[3] + fields[4]
    own = os.times()
    return ((total - idle) / tick, total / tick), sum(own[:4])


def epoch(loader, rows):
    """Samples per second of one pass, start of the workers included."""
    start = time.perf_counter()
    seen = sum(len(batch["row"]) for batch in loader)
    seconds = time.perf_counter() - start
    assert seen == rows, (seen, rows)
    return seen / seconds


def write(folder, rows):
    """The same features in every form."""
    caches = {}
    for form in ("zstd", "none"):
        caches[form] = folder / form
        nst_cache.run(
            "extract",
            ROOT / "models" / "teacher.onnx",
            data="fashion-mnist",
            tap="layer1",
            limit=rows,
            compress=form,
            output=caches[form],
            quiet=True,
        )
    cache = nst_cache.open(caches["none"])
    features, logits = cache.array(TAP), torch.from_numpy(cache.logits()[:])
    npy = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, features.shape)
    files = PerFile(folder / "pt", rows)
    for i in range(rows):
        npy[i] = features[i]
        files.path(i).parent.mkdir(parents=True, exist_ok=True)
        stored = {"features": torch.from_numpy(npy[i].copy()), "logits": logits[i].clone()}
        torch.save(stored, files.path(i))
    npy.flush()
    return caches, logits, files


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", default="0,2")
    parser.add_argument("--folder", help="scratch folder [default: the system's]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        caches, logits, files = write(folder, args.rows)
        npy = folder / "features.npy"
        shuffled = {"batch_size": args.batch, "shuffle": True}

        def ours(form, by_chunks):
            # half of the rows fit, as if there were more of them than memory
            memory = args.rows // 2 * 16 * 28 * 28 * 2
            dataset = nst_cache.torch.Dataset(
                caches[form], inputs=False, labels=False, memory=memory
            )
            if not by_chunks:
                return dataset, shuffled
            order = nst_cache.torch.ChunkShuffle(dataset, args.batch)
            return dataset, {"batch_sampler": order}

        raw = {"collate_fn": as_it_is, **shuffled}
        ways = {
            "torch.save per sample": (files, shuffled),
            "npy memmap, per item": (Memmap(npy, logits), shuffled),
            "npy memmap, per batch": (MemmapBatch(npy, logits), raw),
            "zarr-python, zstd": (Zarr(caches["zstd"]), raw),
            "zarr-python, uncompressed": (Zarr(caches["none"]), raw),
            "nst_cache, zstd, shuffle=True": ours("zstd", False),
            "nst_cache, zstd, ChunkShuffle": ours("zstd", True),
            "nst_cache, uncompressed, shuffle=True": ours("none", False),
            "nst_cache, uncompressed, ChunkShuffle": ours("none", True),
        }
        counts = [int(n) for n in args.workers.split(",")]
        rates = {(name, workers): [] for name in ways for workers in counts}
        before, own = cpu()
        for turn in range(args.rounds + 1):
            for name, (dataset, options) in ways.items():
                slow = name.startswith("zarr")
                for workers in counts:
                    # one round is enough to see its order of magnitude
                    if slow and turn != 1:
                        continue
                    rate = epoch(DataLoader(dataset, num_workers=workers, **options), args.rows)
                    # the first round warms the page cache
                    if turn:
                        rates[name, workers].append(rate)
            print(f"round {turn}", file=sys.stderr)
        whole = {}
        for form in caches:
            array = zarr.open_group(str(caches[form]), mode="r")[TAP]
            reads = {
                "nst_cache": lambda form=form: nst_cache.open(caches[form]).array(TAP)[:2000],
                "zarr-python": lambda array=array: array[0, :2000],
            }
            for name in list(reads) * args.rounds:
                start = time.perf_counter()
                size = reads[name]().nbytes
                rate = size / (time.perf_counter() - start) / 1e6
                whole.setdefault((name, form), []).append(rate)
        busy = others(before, own)
        sizes = {
            form: sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
            for form, path in caches.items()
        }
    versions = f"torch {torch.__version__}, zarr {zarr.__version__}, numpy {np.__version__}"
    print(f"rows {args.rows}, batch {args.batch}, {os.cpu_count()} cores, {versions}")
    print(f"caches: zstd {sizes['zstd']:.0f} MB, uncompressed {sizes['none']:.0f} MB")
    print(f"other processes kept {busy:.1f} cores busy")
    for (name, workers), found in rates.items():
        low, high = min(found), max(found)
        median = statistics.median(found)
        print(f"{name:40} {workers} workers {median:8.0f} samples/s ({low:.0f} to {high:.0f})")
    for (name, form), found in whole.items():
        median = statistics.median(found)
        print(f"{name}, {form}: 2,000 rows in order, {median:.0f} MB/s")


if __name__ == "__main__":
    main()
