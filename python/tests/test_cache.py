"""Values are zarr-python's, bit for bit; what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FORMS, ROOT, ROWS, Make

import nst_cache
from nst_cache import CacheError, _crc32c, _zstd

GOLDEN = ROOT / "tests" / "data" / "golden"


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def test_crc32c_is_that_of_rfc_3720_for_every_length() -> None:
    assert _crc32c._numpy(b"123456789") == 0xE3069283
    assert _crc32c._numpy(bytes(32)) == 0x8A9136AA
    # numpy's part, against the plain loop
    data = np.random.default_rng(0).integers(0, 256, 70_000, np.uint8).tobytes()
    for size in [*range(512, 540), 4096, 65_537, 70_000]:
        assert _crc32c._numpy(data[:size]) == _crc32c._short(data[:size]), size
    assert _crc32c.crc32c(data) == _crc32c._short(data)


@pytest.mark.parametrize("form", FORMS)
def test_every_array_is_zarr_pythons(make: Make, form: str) -> None:
    zarr = pytest.importorskip("zarr")
    expected = zarr.open_group(str(make(form)), mode="r")
    random = np.random.default_rng(1)
    with nst_cache.open(make(form)) as cache:
        assert len(cache) == ROWS
        for name in ("label", "sample_id"):
            values = cache.labels if name == "label" else cache.sample_ids
            assert same(values, expected[name][:])
        for path, info in cache.arrays.items():
            for view in range(cache.views):
                array, whole = cache.array(path, view), expected[path][view]
                assert array.shape == whole.shape and array.dtype == whole.dtype == info.dtype
                assert same(array[:], whole), path
                assert same(array[ROWS - 1], whole[ROWS - 1])
                assert same(array[-2], whole[-2])
                assert same(array[7:150], whole[7:150])
                assert same(array[1:3], whole[1:3])
                assert same(array[250:10:-3], whole[250:10:-3])
                rows = random.integers(-ROWS, ROWS, 400)
                assert same(array[rows], whole[rows])
                assert same(array[rows.tolist()], whole[rows])
                mask = random.random(ROWS) < 0.1
                assert same(array[mask], whole[mask])
                assert same(array[[]], whole[0:0])
                assert same(np.asarray(array), whole)


@pytest.mark.parametrize("form", ["plain", "raw"])
def test_fewer_decoded_chunks_than_a_read_needs_are_enough(make: Make, form: str) -> None:
    with nst_cache.open(make(form), memory=1) as small, nst_cache.open(make(form)) as cache:
        rows = np.random.default_rng(2).permutation(ROWS)
        for path in cache.arrays:
            assert same(small.array(path)[rows], cache.array(path)[rows]), path


@pytest.mark.parametrize("form", ["zstd", "raw", "statistics"])
def test_golden_caches_are_read(form: str) -> None:
    zarr = pytest.importorskip("zarr")
    expected = zarr.open_group(str(GOLDEN / form), mode="r")
    cache = nst_cache.open(GOLDEN / form)
    for path in cache.arrays:
        for view in range(cache.views):
            assert same(cache.array(path, view)[:], expected[path][view]), path


def test_uncompressed_rows_are_not_copied(make: Make) -> None:
    with nst_cache.open(make("raw")) as cache:
        array = cache.array("taps/layer3/features")
        assert array.info.codec == "raw"
        row = array[3]
        assert not row.flags.owndata and not row.flags.writeable
        assert np.shares_memory(row, array[3:5])
        # across chunks there is a copy
        assert array[:].flags.owndata


def test_uncompressed_caches_need_no_module_for_zstd(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, plain = make("raw"), make("plain")
    monkeypatch.setattr(_zstd, "_MODULES", {})
    cache = nst_cache.open(raw)
    with pytest.raises(CacheError, match="no module for zstd"):
        cache.labels  # noqa: B018
    assert {info.codec for info in cache.arrays.values()} == {"raw"}
    assert cache.array("logits")[:].shape == (ROWS, 10)
    with pytest.raises(CacheError, match="no module for zstd"):
        nst_cache.open(plain).inputs()


def test_what_a_cache_says_of_itself(make: Make) -> None:
    cache = nst_cache.open(make("statistics"))
    tap = cache.taps["layer3"]
    assert (tap.role, tap.statistic, tap.shape, tap.axes, tap.dtype) == (
        "map",
        "features",
        (64, 7, 7),
        ("c", "h", "w"),
        np.float32,
    )
    assert set(tap.arrays) == {"features", "gram", "mean", "attention", "vector", "sign"}
    assert tap.map == {"layout": "nchw", "channels": 64, "height": 7, "width": 7}
    assert tap.arrays["gram"].shape == (49 * 50 // 2,)
    assert cache.classes[0] == "T-shirt/top" and cache.views == 1
    assert cache.inputs().shape == (ROWS, 1, 28, 28)
    assert cache.array("taps/layer3/mean").axes == ("row", "h", "w")
    assert cache.manifest["rows"] == ROWS
    # a statistic is what its definition says
    maps = cache.array("taps/layer3/features")[:5].astype(np.float64)
    attention = (maps**2).mean(axis=1)
    assert np.allclose(cache.array("taps/layer3/attention")[:5], attention, rtol=1e-6)


def test_sparse_logits_are_those_of_all_classes(make: Make) -> None:
    sparse = nst_cache.open(make("sparse")).logits()
    dense = nst_cache.open(make("plain")).logits()
    assert isinstance(sparse, nst_cache.SparseLogits) and isinstance(dense, nst_cache.Array)
    logits = dense[:].astype(np.float64)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    assert sparse.classes == 10 and (sparse.class_[:] == order).all()
    kept = np.take_along_axis(probabilities, order, 1)
    assert np.allclose(np.exp(sparse.value[:].astype(np.float64)), kept, rtol=4e-3)
    assert np.allclose(sparse.rest[:], 1 - kept.sum(1), atol=1e-6)


def test_what_is_not_there_is_named(make: Make) -> None:
    cache = nst_cache.open(make("plain"))
    with pytest.raises(CacheError, match="no array `taps/layer9/features`"):
        cache.array("taps/layer9/features")
    with pytest.raises(CacheError, match="view 1 of 1"):
        cache.inputs(view=1)
    for row in (ROWS, -ROWS - 1, [0, ROWS]):
        with pytest.raises(IndexError):
            cache.array("logits")[row]
    for key in (1.5, [0.5], np.zeros(3, bool), (1, 2), np.array([[0]]), None):
        with pytest.raises(IndexError):
            cache.array("logits")[key]
    with pytest.raises(CacheError, match="no cache there"):
        nst_cache.open(make("plain") / "nothing")


@pytest.mark.parametrize("form", ["plain", "raw"])
def test_a_pickled_cache_is_the_same(copy: Make, form: str) -> None:
    path = copy(form)
    cache = nst_cache.open(path)
    data = pickle.dumps(cache)
    assert len(data) < 1000
    assert same(pickle.loads(data).array("logits")[:], cache.array("logits")[:])
    rewrite(path, lambda manifest: manifest["teacher"].update(file="another.onnx"))
    with pytest.raises(CacheError, match="has changed"):
        pickle.loads(data)


def rewrite(path: Path, change: object) -> None:
    """Changes the manifest, under a right checksum."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_bytes())["manifest"]
    change(manifest)  # type: ignore[operator]
    body = json.dumps(manifest, separators=(",", ":")).encode()
    head = f'{{"sha256":"{hashlib.sha256(body).hexdigest()}",\n"manifest":'.encode()
    file.write_bytes(head + body + b"}\n")


def files_of(path: Path, array: str) -> list[Path]:
    return sorted(file for file in (path / array / "c").rglob("*") if file.is_file())


@pytest.mark.parametrize("form", ["plain", "raw", "sparse"])
def test_a_flipped_byte_anywhere_is_an_error(copy: Make, form: str) -> None:
    path = copy(form)
    random = np.random.default_rng(3)
    arrays = [*nst_cache.open(path).arrays, "label", "sample_id"]
    for array in arrays:
        for file in files_of(path, array):
            data = bytearray(file.read_bytes())
            # a chunk, a checksum of a chunk, the index, its checksum
            for at in (*random.integers(0, len(data), 4), len(data) - 20, len(data) - 2):
                changed = bytearray(data)
                changed[at] ^= 1 << int(random.integers(8))
                file.write_bytes(changed)
                with pytest.raises(CacheError) as caught:
                    cache = nst_cache.open(path)
                    cache.array(array)[:]
                assert str(file) in str(caught.value) and "cache verify" in str(caught.value)
            file.write_bytes(data)
    cache = nst_cache.open(path)
    for array in cache.arrays:
        cache.array(array)[:]


@pytest.mark.parametrize("form", ["plain", "raw"])
def test_truncated_missing_and_swapped_shards_are_errors(copy: Make, form: str) -> None:
    path = copy(form)
    for array in ("taps/layer3/features", "logits", "label"):
        file = files_of(path, array)[0]
        data = file.read_bytes()
        for size in (0, 3, 30, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:size])
            with pytest.raises(CacheError, match=r"expected \d+ bytes|truncated"):
                nst_cache.open(path).array(array)[0]
        file.unlink()
        with pytest.raises(CacheError, match="missing"):
            nst_cache.open(path).array(array)[0]
        file.write_bytes(data)
    first, second = files_of(path, "logits")[:2]
    before = first.read_bytes()
    assert len(before) == second.stat().st_size, "logits are not compressed"
    shutil.copyfile(second, first)
    with pytest.raises(CacheError, match="not the shard that the manifest names"):
        nst_cache.open(path).array("logits")[0]


def test_an_error_leaves_the_rest_readable(copy: Make) -> None:
    path = copy("plain")
    good = nst_cache.open(path).array("taps/layer3/features")[:]
    file = files_of(path, "taps/layer3/features")[0]
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    array = nst_cache.open(path).array("taps/layer3/features")
    for _ in range(2):
        with pytest.raises(CacheError, match=r"rows 0\.\."):
            array[0]
    assert same(array[array.info.chunk_rows :], good[array.info.chunk_rows :])


def test_damaged_newer_and_incomplete_manifests_are_refused(copy: Make) -> None:
    path = copy("plain")
    file = path / "manifest.json"
    whole = file.read_bytes()
    for at in (0, 5, 30, 80, 200, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CacheError, match="damaged"):
            nst_cache.open(path)
    file.write_bytes(whole)
    rewrite(path, lambda manifest: manifest.update(format=8, tool="nst-cache 9.0.0"))
    with pytest.raises(CacheError, match="expected format 1 to 7, found format 8 written by nst-c"):
        nst_cache.open(path)
    file.write_bytes(whole)
    rewrite(path, lambda manifest: manifest["segments"].pop())
    with pytest.raises(CacheError, match="incomplete, 2 of 3 segments") as caught:
        nst_cache.open(path)
    assert "nst-cache extract" in str(caught.value.hint)
    changes = [
        {"unheard_of": 1},
        {"rows": 0},
        {"rows": -1},
        {"rows": True},
        {"rows": 1 << 60},
        {"segment_rows": "a"},
        {"view_arrays": 3},
        {"segments": None},
        {"row_arrays": []},
    ]
    for change in changes:
        file.write_bytes(whole)
        rewrite(path, lambda manifest, change=change: manifest.update(change))
        with pytest.raises(CacheError):
            nst_cache.open(path)
    for field, value in (("path", "../x"), ("path", "/etc"), ("chunk_rows", 7), ("dtype", "f16")):
        file.write_bytes(whole)
        rewrite(path, lambda m, f=field, v=value: m["view_arrays"][1].update({f: v}))
        with pytest.raises(CacheError):
            nst_cache.open(path)


def test_a_cache_that_is_extended_is_read_as_it_was(copy: Make) -> None:
    path = copy("plain")
    before = nst_cache.open(path).array("taps/layer2/features")[:]

    def extend(manifest: dict) -> None:
        manifest["extends"] = {"views": 1, "taps": 2, "view_arrays": 3}
        for segment in manifest["segments"][1:]:
            segment["bytes"], segment["crc32c"] = segment["bytes"][:3], segment["crc32c"][:3]

    rewrite(path, extend)
    with pytest.warns(UserWarning, match="being extended, 1 of 3 segments"):
        cache = nst_cache.open(path)
    assert list(cache.arrays) == ["input", "taps/layer1/features", "taps/layer2/features"]
    assert list(cache.taps) == ["layer1", "layer2"]
    assert same(cache.array("taps/layer2/features")[:], before)


def test_a_cache_that_is_written_is_refused(copy: Make) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = copy("plain")
    with (path / ".lock").open("r+b") as lock:
        lock.truncate()
        lock.write(b"pid 12 on there\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CacheError, match="in use by pid 12 on there"):
            nst_cache.open(path)
        fcntl.flock(lock, fcntl.LOCK_UN)
        with nst_cache.open(path):
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (path / ".lock").unlink()
    assert len(nst_cache.open(path)) == ROWS
