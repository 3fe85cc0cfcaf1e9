"""A fraction of the training data: nested, of every class alike, with recordings and speakers kept whole."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.subset import choose_speakers, choose_utterances
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

FRACTIONS = (0.01, 0.1, 0.3, 0.75, 1.0)


def crowd(speakers: int, clips: int = 10) -> list[Utterance]:
    return [
        Utterance(f"{speaker}-{clip}", Path("x.wav"), list(Label)[clip % 2], f"s{speaker}")
        for clip in range(clips)
        for speaker in range(speakers)
    ]


def speaker(utterance: Utterance) -> str:
    return utterance.speaker


@pytest.mark.parametrize("seed", range(3))
def test_less_is_a_part_of_more(seed: int):
    everything = crowd(20)
    for choose in (
        lambda fraction: choose_utterances(everything, speaker, fraction, seed),
        lambda fraction: choose_speakers(everything, fraction, seed, "train.tsv"),
    ):
        found = [choose(fraction) for fraction in FRACTIONS]
        for less, more in pairwise(found):
            assert set(less) <= set(more)
        assert len(set(map(len, found))) >= len(FRACTIONS) - 1
        assert found[-1] == everything, "and in its order"


def test_every_class_keeps_its_share_and_one_at_least():
    for fraction, expected in ((0.01, 1), (0.2, 2), (0.3, 3), (0.31, 4)):
        counts = Counter(map(speaker, choose_utterances(crowd(20), speaker, fraction, 0)))
        assert set(counts.values()) == {expected}
        assert len(counts) == 20


def test_a_fraction_of_what_does_not_divide_evenly_in_floating_point():
    some = choose_utterances(crowd(1, 100), speaker, 0.07, 0)
    assert len(some) == 7


def test_what_shares_a_recording_stays_together():
    pairs = [
        Utterance(f"{take}-{label}", Path("x.wav"), label, recording=f"take {take}")
        for take in range(50)
        for label in Label
    ]
    some = choose_utterances(pairs, lambda utterance: utterance.label, 0.2, 0)
    assert Counter(Counter(utterance.recording for utterance in some).values()) == {2: 10}


def test_speakers_are_kept_whole():
    counts = Counter(map(speaker, choose_speakers(crowd(20), 0.25, 0, "train.tsv")))
    assert list(counts.values()) == [10] * 5


def test_another_seed_is_another_choice():
    assert choose_speakers(crowd(20), 0.25, 0, "x") != choose_speakers(crowd(20), 0.25, 1, "x")


def test_speakers_must_be_known():
    nobody = Utterance("nobody", Path("x.wav"), Label.BONAFIDE)
    with pytest.raises(InputError, match=r"train.tsv: 'nobody': its speaker is not known; fill in the column speaker"):
        choose_speakers([*crowd(2), nobody], 0.5, 0, "train.tsv")
