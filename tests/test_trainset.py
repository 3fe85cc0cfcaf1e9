"""The order of the training examples: a function of seed and epoch, shared out evenly to any number of processes."""

from dataclasses import replace
from typing import Any

import pytest

from corpus import configure, write_world
from hybrid_pruning import processes
from hybrid_pruning.batches import Crops, by_recording
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import read_manifest
from hybrid_pruning.trainset import TrainSet

Recipe = dict[str, Any]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return write_world(tmp_path_factory.mktemp("world"))


def addresses(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, rank: int = 0, ranks: int = 1, **changes: Any) -> Any:
    monkeypatch.setattr(processes, "count", lambda: ranks)
    monkeypatch.setattr(processes, "rank", lambda: rank)
    config = configure(recipe, **changes)
    return TrainSet(read_manifest(config.data.train), config).addresses(epoch=1)


def test_what_shares_a_recording_shares_batch_and_place(recipe: Recipe):
    config = configure(recipe)
    utterances = read_manifest(config.data.train)
    pairs = [replace(u, recording=f"take {index // 2}") for index, u in enumerate(utterances)]
    assert by_recording(utterances) == [[index] for index in range(len(utterances))]
    crops = Crops(pairs, [0] * len(pairs), 100, seed=1)
    assert by_recording(pairs)[1] == [2, 3]
    assert crops.recording[2] == crops.recording[3] == 2
    trainset = TrainSet(pairs, config)
    batches = trainset.addresses(epoch=3)
    assert batches != trainset.addresses(epoch=4)
    for batch in batches:
        takes = [pairs[index].recording for _, index in batch]
        assert all(takes.count(take) == 2 for take in takes)


def test_an_incomplete_last_batch_is_left_out(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    batches = addresses(recipe, monkeypatch, training__batch_size=7)
    assert [len(batch) for batch in batches] == [7, 7, 7]
    assert len({index for batch in batches for _, index in batch}) == 21
    (whole,) = addresses(recipe, monkeypatch, training__batch_size=32)
    assert len(whole) == 24


@pytest.mark.parametrize(("ranks", "size", "accumulate"), [(2, 4, 1), (2, 6, 3), (3, 4, 2), (5, 100, 1)])
def test_processes_share_every_batch_of_one(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, ranks: int, size: int, accumulate: int
):
    """Micro-step by micro-step, so that each of them draws its gates for the same examples."""
    shares = [
        addresses(recipe, monkeypatch, rank, ranks, training__batch_size=size, training__accumulate=accumulate)
        for rank in range(ranks)
    ]
    whole = addresses(recipe, monkeypatch, training__batch_size=min(size, 24 // ranks) * ranks)
    assert {len(batches) for batches in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        assert len({len(part) for part in parts}) == 1, "everyone's share is as large"
        step = len(batch) // accumulate
        micro = len(parts[0]) // accumulate
        for index in range(accumulate):
            found = [address for part in parts for address in part[index * micro : (index + 1) * micro]]
            assert sorted(found) == sorted(batch[index * step : (index + 1) * step])


def test_too_many_processes_are_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        InputError, match=r"manifest.tsv: 24 utterances cannot be shared out to 25 processes; start fewer"
    ):
        addresses(recipe, monkeypatch, ranks=25)
