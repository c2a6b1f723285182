"""The same samples by any road: one by one, in batches, in 0, 2 or 4 workers."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from conftest import FORMS, ROWS, Make

import nst_cache

torch = pytest.importorskip("torch")
nt = pytest.importorskip("nst_cache.torch")


def leaves(sample: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in sample.items():
        if isinstance(value, dict):
            found.update(leaves(value, f"{before}{name}/"))
        else:
            found[before + name] = value
    return found


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    left, right = leaves(left), leaves(right)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def epoch(dataset: Any, number: int = 0, workers: int = 0, **options: Any) -> list[dict[str, Any]]:
    batches = nt.ChunkShuffle(dataset, 32, seed=7)
    batches.set_epoch(number)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, **options
    )
    return list(loader)


@pytest.mark.parametrize("form", FORMS)
def test_samples_and_batches_hold_the_caches_values(make: Make, form: str) -> None:
    cache = nst_cache.open(make(form))
    dataset = nt.Dataset(cache)
    assert len(dataset) == ROWS * cache.views
    index = np.random.default_rng(0).permutation(len(dataset))[:40]
    batch = dataset.__getitems__(index.tolist())
    for at, i in enumerate(index.tolist()):
        view, row = divmod(i, ROWS)
        sample = dataset[i]
        assert same(sample, batch[at])
        found = leaves(sample)
        assert found.pop("row") == row and found.pop("label") == cache.labels[row]
        if "mix" in cache.arrays:
            partner = cache.array("partner", view)[row]
            assert found.pop("partner_label") == cache.labels[partner]
            assert found.pop("mix") == cache.array("mix", view)[row]
        for name, value in found.items():
            path = name
            if name.startswith("taps/"):
                parts = name.split("/")
                path = name if len(parts) == 3 else f"{name}/features"
            expected = cache.array(path, view)[row]
            assert tuple(value.shape) == expected.shape
            assert (value.numpy() == expected).all(), name
    taps = {tap for tap in leaves(batch.tensors) if tap.startswith("taps/")}
    assert len(taps) == sum(len(tap.arrays) for tap in cache.taps.values())


@pytest.mark.parametrize("form", FORMS)
def test_default_collation_of_batches_is_that_of_samples(make: Make, form: str) -> None:
    dataset = nt.Dataset(nst_cache.open(make(form)))
    order = [5, 250, 3, 3, 17]
    batch = torch.utils.data.default_collate(dataset.__getitems__(order))
    assert same(batch, torch.utils.data.default_collate([dataset[i] for i in order]))
    # as lists of samples, whoever made them
    assert same(batch, torch.utils.data.default_collate(list(dataset.__getitems__(order))))
    subset = torch.utils.data.Subset(dataset, order)
    loader = torch.utils.data.DataLoader(subset, batch_size=5)
    assert same(batch, next(iter(loader)))
    own = torch.utils.data.DataLoader(
        subset, batch_size=5, collate_fn=lambda samples: [int(s["row"]) for s in samples]
    )
    assert list(own) == [order]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("form", "start"), [("plain", "fork"), ("raw-views", "fork"), ("plain", "spawn")]
)
def test_workers_do_not_change_samples(make: Make, form: str, start: str) -> None:
    dataset = nt.Dataset(make(form), taps=["layer3"])
    expected = epoch(dataset)
    assert sum(len(batch["row"]) for batch in expected) == ROWS
    for workers in (2, 4) if start == "fork" else (2,):
        found = epoch(dataset, workers=workers, multiprocessing_context=start)
        assert len(found) == len(expected)
        assert all(map(same, found, expected)), workers


@pytest.mark.parametrize("window", [None, 1])
def test_the_order_is_a_seeded_permutation_that_changes_by_epoch(
    make: Make, window: int | None
) -> None:
    dataset = nt.Dataset(make("plain"))

    def order(seed: int, epoch: int, lanes: int = 4, drop_last: bool = False) -> list[list[int]]:
        batches = nt.ChunkShuffle(
            dataset, 32, seed=seed, lanes=lanes, window=window, drop_last=drop_last
        )
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches)
        return found

    first = order(1, 0)
    assert sorted(sum(first, [])) == list(range(ROWS))
    assert [len(batch) for batch in first] == [32] * 9 + [12]
    assert order(1, 0) == first
    assert order(1, 1) != first and order(2, 0) != first
    assert sum(first, []) != list(range(ROWS))
    assert [len(batch) for batch in order(1, 0, drop_last=True)] == [32] * 9
    for lanes in (1, 3, 50):
        assert sorted(sum(order(1, 0, lanes), [])) == list(range(ROWS))
    batches = nt.ChunkShuffle(dataset, 32, seed=1, window=window)
    assert list(batches) == first
    assert list(batches) == order(1, 1), "each iteration is the next epoch"


def test_each_chunk_is_decoded_by_one_worker_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = nt.Dataset(make("plain"), taps=["layer1"], inputs=False, logits=False)
    from nst_cache._store import ZstdStore

    decoded: list[int] = []
    decode = ZstdStore._decode
    monkeypatch.setattr(
        ZstdStore, "_decode", lambda self, c, slot: (decoded.append(c), decode(self, c, slot))[1]
    )
    # room for two windows of a block in each lane, half of it for small arrays
    info = dataset.cache.taps["layer1"].arrays["features"]
    lanes = 2
    dataset = nt.Dataset(
        dataset.cache,
        taps=["layer1"],
        inputs=False,
        logits=False,
        memory=2 * lanes * info.chunk_bytes,
    )
    batches = nt.ChunkShuffle(dataset, 4, lanes=lanes)
    assert dataset.block_rows == info.chunk_rows and batches._window == 1
    for batch in batches:
        dataset.__getitems__(batch)
    assert sorted(decoded) == list(range(-(-ROWS // info.chunk_rows)))
    # of two workers
    decoded.clear()
    for turn in range(2):
        batches.set_epoch(3)
        alone = nt.Dataset(dataset.cache, ["layer1"], None, False, False, True, dataset.memory)
        for batch in list(batches)[turn::2]:
            alone.__getitems__(batch)
    again = len(decoded) - len(set(decoded))
    # only the rows that are left of the lanes are mixed
    assert set(decoded) == set(range(-(-ROWS // info.chunk_rows))) and again <= 4


def test_the_epoch_selects_the_view(make: Make) -> None:
    cache = nst_cache.open(make("views"))
    dataset = nt.Dataset(cache, taps=[], logits=False)
    for number in range(4):
        batch = epoch(dataset, number)[0]
        expected = cache.inputs(view=number % 3)[batch["row"].numpy()]
        assert (batch["input"].numpy() == expected).all()
    one = nt.Dataset(cache, view=1)
    assert len(one) == ROWS
    batch = epoch(one, 5)[0]
    assert (batch["input"].numpy() == cache.inputs(view=1)[batch["row"].numpy()]).all()


def test_a_pickled_data_set_is_a_path(make: Make) -> None:
    dataset = nt.Dataset(make("statistics"), taps=["layer3/gram", "flatten/features"], view=0)
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    assert same(pickle.loads(data)[9], dataset[9])
    assert set(dataset[0]["taps"]) == {"layer3/gram", "flatten/features"}


def test_what_is_not_there_is_refused(make: Make) -> None:
    with pytest.raises(nst_cache.CacheError, match="no tap `layer9`"):
        nt.Dataset(make("plain"), taps=["layer9"])
    with pytest.raises(nst_cache.CacheError, match="expected one array of tap `layer3`"):
        nt.Dataset(make("statistics"), taps=["layer3"])
    with pytest.raises(nst_cache.CacheError, match="view 3 of 3"):
        nt.Dataset(make("views"), view=3)
    dataset = nt.Dataset(make("plain"))
    for index in (ROWS, -ROWS - 1):
        with pytest.raises(IndexError):
            dataset[index]
    assert same(dataset[-1], dataset[ROWS - 1])
    with pytest.raises(ValueError):
        nt.ChunkShuffle(dataset, 0)


def test_damage_reaches_the_caller_from_a_worker(copy: Make) -> None:
    path = copy("plain")
    file = path / "taps/layer3/features/c/0/0/0/0/0"
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(nst_cache.CacheError, match="checksum does not match"):
        epoch(nt.Dataset(path), workers=2)


def test_normalized_inputs_give_the_teachers_logits(make: Make) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from conftest import TEACHER

    cache = nst_cache.open(make("views"))
    batch = nt.Dataset(cache, taps=[]).__getitems__(list(range(ROWS, ROWS + 64))).tensors
    images = nt.Normalize(cache)(batch["input"])
    assert images.dtype == torch.float32 and images.shape == (64, 1, 28, 28)
    session = onnxruntime.InferenceSession(str(TEACHER))
    (logits,) = session.run(["logits"], {session.get_inputs()[0].name: images.numpy()})
    assert np.allclose(logits, batch["logits"].numpy(), atol=1e-4)
