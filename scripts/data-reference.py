#!/usr/bin/env python3
"""Data sets as their own libraries write and read them, and as nst-cache reads them: every row of
Parquet files (pyarrow), WebDataset shards (webdataset), tables (csv) and pickles of CIFAR's shape
(pickle, numpy) is the same image with the same label.

Usage: scripts/data-reference.py target/release/nst-cache
"""

import csv
import io
import itertools
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import webdataset
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BINARY = sys.argv[1]
# takes bytes of any size, so that a cache's inputs are the decoded images
TEACHER = ROOT / "tests/data/models/uint8.onnx"
RANDOM = numpy.random.default_rng(7)


def encoded(pixels):
    """[height, width, 3] as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def decoded(image):
    """The pixels of an encoded image, [3, height, width]."""
    return numpy.asarray(Image.open(io.BytesIO(image)).convert("RGB")).transpose(2, 0, 1)


def read(data, split="train"):
    """The images and labels that nst-cache reads."""
    with tempfile.TemporaryDirectory() as folder:
        cache, file = f"{folder}/cache", f"{folder}/cache.npz"
        run = [BINARY, "--quiet", "extract", str(TEACHER), "--data", data, "--split", split]
        subprocess.run([*run, "-o", cache], check=True, stdout=subprocess.DEVNULL)
        run = [BINARY, "--quiet", "cache", "export", cache, "--npz", file]
        subprocess.run([*run, "--tap", "input"], check=True, stdout=subprocess.DEVNULL)
        with numpy.load(file) as arrays:
            # rows are in the order in which they are trained on: by sample is the data set's
            order = numpy.argsort(arrays["sample_id"])
            assert arrays["sample_id"][order].tolist() == list(range(len(order)))
            inputs = arrays["input"]
            return inputs.reshape(-1, *inputs.shape[-3:])[order], arrays["label"][order]


def compare(what, data, rows, split="train"):
    """Compares with (image [3, height, width], label) of the reference."""
    images, labels = read(data, split)
    expected = numpy.stack([image for image, _ in rows])
    assert images.shape == expected.shape, (what, images.shape, expected.shape)
    assert (images == expected).all(), f"{what}: images differ"
    assert labels.tolist() == [label for _, label in rows], f"{what}: labels differ"
    print(f"{what}: {len(rows)} rows are the same")


def check_parquet(folder, images, labels):
    names = ["cat", "dog", "eel"]
    feature = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    table = pyarrow.table(
        {
            "image": [{"bytes": image, "path": f"{at}.png"} for at, image in enumerate(images)],
            "label": labels,
        }
    ).replace_schema_metadata(metadata)
    kinds = itertools.product(
        ("none", "snappy", "gzip", "zstd"), ("1.0", "2.0"), (True, False), (7, 1000)
    )
    for compression, version, dictionary, group in kinds:
        data = folder / f"{compression}-{version}-{dictionary}-{group}" / "data"
        data.mkdir(parents=True)
        parts = (table.slice(0, 30), table.slice(30))
        for at, part in enumerate(parts):
            pyarrow.parquet.write_table(
                part,
                data / f"train-{at:05}-of-00002.parquet",
                compression=compression,
                data_page_version=version,
                use_dictionary=dictionary,
                row_group_size=group,
                data_page_size=4096,
            )
        pyarrow.parquet.write_table(table.slice(0, 3), data / "test-00000-of-00001.parquet")
        files = sorted(data.glob("train-*.parquet"))
        rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
        rows = [
            (decoded(row["image"]["bytes"]), -1 if row["label"] is None else row["label"])
            for row in rows
            if row["image"] is not None
        ]
        what = f"parquet {compression}, pages {version}, dictionary {dictionary}, groups of {group}"
        compare(what, f"parquet:{data.parent}", rows)


def check_webdataset(folder, images, labels):
    names = ["cat", "dog", "eel"]
    for kind in ("cls", "json"):
        shards = folder / f"wds-{kind}"
        shards.mkdir()
        with webdataset.ShardWriter(f"{shards}/x-%06d.tar", maxcount=16, verbose=0) as writer:
            for at, (image, label) in enumerate(zip(images, labels)):
                sample = {"__key__": f"{at:04}", "png": image, "txt": "a caption"}
                sample |= {"cls": label} if kind == "cls" else {"json": {"label": names[label]}}
                writer.write(sample)
        last = len(list(shards.glob("*.tar"))) - 1
        braces = f"{shards}/x-{{000000..{last:06}}}.tar"
        rows = []
        for sample in webdataset.WebDataset(braces, shardshuffle=False):
            label = int(sample["cls"]) if kind == "cls" else json.loads(sample["json"])["label"]
            rows.append((decoded(sample["png"]), names.index(label) if kind == "json" else label))
        compare(f"webdataset, labels in .{kind}, braces", f"wds:{braces}", rows)
        subprocess.run(["gzip", *shards.glob("*.tar")], check=True)
        compare(f"webdataset, labels in .{kind}, compressed", f"wds:{shards}", rows)


def check_table(folder, images, labels):
    table = folder / "table"
    table.mkdir()
    with (table / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "note", "label", "split"])
        for at, (image, label) in enumerate(zip(images, labels)):
            (table / f"{at}, \u00e9.png").write_bytes(image)
            writer.writerow(
                [f"{at}, \u00e9.png", 'a "b"\nc', label, "test" if at % 3 else "train"]
            )
    for split in ("train", "test"):
        with (table / "metadata.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        rows = [
            (decoded((table / row["file_name"]).read_bytes()), int(row["label"])) for row in rows
        ]
        compare(f"csv, split {split}", f"csv:{table}/metadata.csv", rows, split)


def check_cifar(folder):
    for protocol in (3, 4):
        data = folder / f"pickle-{protocol}" / "cifar-10-batches-py"
        data.mkdir(parents=True)
        for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
            batch = {
                b"batch_label": b"a batch",
                b"labels": RANDOM.integers(0, 10, 8).tolist(),
                b"data": RANDOM.integers(0, 256, (8, 3072), dtype=numpy.uint8),
                b"filenames": [b"a.png"] * 8,
            }
            (data / name).write_bytes(pickle.dumps(batch, protocol))
        rows = []
        for number in range(1, 6):
            with (data / f"data_batch_{number}").open("rb") as file:
                batch = pickle.load(file, encoding="bytes")
            rows += zip(batch[b"data"].reshape(-1, 3, 32, 32), batch[b"labels"])
        compare(f"CIFAR-10 for Python, protocol {protocol}", str(data.parent), rows)


with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    pixels = RANDOM.integers(0, 256, (50, 32, 32, 3), dtype=numpy.uint8)
    images = [encoded(image) for image in pixels]
    labels = RANDOM.integers(0, 3, 50).tolist()
    check_webdataset(folder, images, labels)
    check_table(folder, images, labels)
    check_cifar(folder)
    labels[4] = None
    images[5:7] = [images[4]] * 2
    check_parquet(folder, images, labels)
    print(
        f"pyarrow {pyarrow.__version__}, webdataset {webdataset.__version__}, "
        f"numpy {numpy.__version__}: every row is the same"
    )
