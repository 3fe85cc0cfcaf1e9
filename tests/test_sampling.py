"""An epoch's order: every utterance once, or as many crops of every speaker."""

from collections import Counter

import numpy as np
import pytest

from hybrid_pruning.data.sampling import every_speaker

MEMBERS = [np.array([0]), np.arange(1, 4), np.arange(4, 64)]
SPEAKER = [0] + [1] * 3 + [2] * 60


def test_every_speaker_has_as_many_crops():
    order = every_speaker(MEMBERS, seed=1, epoch=0)
    assert len(order) == 64, "as many as there are utterances"
    counts = Counter(SPEAKER[index] for _, index, _ in order)
    assert sorted(counts.values()) == [21, 21, 22]


def test_an_utterance_comes_again_as_another_turn():
    order = every_speaker(MEMBERS, seed=1, epoch=0)
    assert len(set(order)) == len(order), "no crop twice"
    turns = [turn for _, index, turn in order if index == 0]
    assert sorted(turns) == list(range(len(turns)))
    again = Counter(index for _, index, _ in order if 1 <= index < 4)
    assert max(again.values()) - min(again.values()) <= 1
    assert all(turn == 0 for _, index, turn in order if index >= 4)


def test_who_has_one_more_is_left_to_chance():
    more = {
        Counter(SPEAKER[index] for _, index, _ in every_speaker(MEMBERS, 1, epoch)).most_common(1)[0][0]
        for epoch in range(20)
    }
    assert more == {0, 1, 2}


@pytest.mark.parametrize("change", [{"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}])
def test_an_order_is_one_of_seed_and_epoch(change: dict[str, int]):
    first = every_speaker(MEMBERS, seed=1, epoch=0)
    assert first == every_speaker(MEMBERS, seed=1, epoch=0)
    assert [pair[1:] for pair in first] != [pair[1:] for pair in every_speaker(MEMBERS, **change)]


def test_speakers_are_mixed():
    order = [SPEAKER[index] for _, index, _ in every_speaker(MEMBERS, seed=1, epoch=0)]
    assert all(len(set(order[start : start + 16])) == 3 for start in range(0, 64, 16))
