"""The order of the training examples: a function of seed and epoch, shared out evenly to any number of processes."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import configure, write_world
from hybrid_pruning import distributed as processes
from hybrid_pruning.data.batches import Crops, by_recording
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.data.trainset import (
    TrainSet,
    choose_speakers,
    choose_utterances,
    class_counts,
    order_parts,
    read_devset,
    read_set,
    read_trainset,
)
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

speaker_of = attrgetter("speaker")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def addresses(recipe, monkeypatch, rank=0, ranks=1, **changes):
    monkeypatch.setattr(processes, "count", lambda: ranks)
    monkeypatch.setattr(processes, "rank", lambda: rank)
    return TrainSet(spoken(recipe), configure(recipe, **changes)).addresses(epoch=1)


def test_utterances_of_one_recording_share_batch_and_place(recipe):
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


def test_an_incomplete_last_batch_is_left_out(recipe, monkeypatch):
    batches = addresses(recipe, monkeypatch, training__batch_size=7)
    assert [len(batch) for batch in batches] == [7, 7, 7]
    assert len({index for batch in batches for _, index in batch}) == 21
    (whole,) = addresses(recipe, monkeypatch, training__batch_size=32)
    assert len(whole) == 24


@pytest.mark.parametrize("sampling", ["utterances", "speakers", "balanced"])
@pytest.mark.parametrize(("ranks", "size", "accumulate"), [(2, 4, 1), (2, 6, 3), (3, 4, 2), (5, 100, 1)])
def test_processes_share_every_batch_of_one(recipe, monkeypatch, ranks, size, accumulate, sampling):
    """Micro-step by micro-step, so that each of them draws its gates for the same examples."""
    balanced = {**SPEAKERS, "data__sampling": "speakers", "data__speed_speakers": [0.9]}
    common = {"speakers": balanced, "balanced": {"data__balance": ["class"]}}.get(sampling, {})
    count = 48 if sampling == "speakers" else 24
    changes = {**common, "training__batch_size": size, "training__accumulate": accumulate}
    shares = [addresses(recipe, monkeypatch, rank, ranks, **changes) for rank in range(ranks)]
    whole = addresses(recipe, monkeypatch, **common, training__batch_size=min(size, count // ranks) * ranks)
    assert {len(batches) for batches in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        assert len({len(part) for part in parts}) == 1, "everyone's share is as large"
        step = len(batch) // accumulate
        micro = len(parts[0]) // accumulate
        for index in range(accumulate):
            found = [address for part in parts for address in part[index * micro : (index + 1) * micro]]
            assert sorted(found) == sorted(batch[index * step : (index + 1) * step])


def test_too_many_processes_are_refused(recipe, monkeypatch):
    with pytest.raises(InputError, match=r"manifest.tsv: 24 utterances cannot be shared out to 25 processes"):
        addresses(recipe, monkeypatch, ranks=25)


SPEAKERS = {"task": "speaker-verification", "data__trials": {"dev": "dev.trials"}}
COUNTS = (1, 3, 8, 12)


def spoken(recipe):
    """The training utterances as those of four speakers, of whom one has a single one."""
    speakers = [f"s{speaker}" for speaker, count in enumerate(COUNTS) for _ in range(count)]
    utterances = read_manifest(configure(recipe).data.train)
    return [replace(u, speaker=speaker) for u, speaker in zip(utterances, reversed(speakers), strict=True)]


def verification(recipe, **changes):
    return TrainSet(spoken(recipe), configure(recipe, **SPEAKERS, **changes))


def test_the_classes_are_the_labels_or_the_speakers_by_name(recipe):
    assert TrainSet(spoken(recipe), configure(recipe)).classes == ("spoof", "bonafide")
    trainset = verification(recipe)
    assert trainset.classes == ("s0", "s1", "s2", "s3")
    for batch in trainset.batches(0):
        found = [trainset.classes[target] for target in batch.target]
        assert found == [trainset.utterances[index].speaker for index in batch.index]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"speaker": "-"}, r"train.manifest.tsv: 'bonafide-00': its speaker is not known; fill in the column speaker"),
        ({"speaker": "s1"}, r"train.manifest.tsv: 1 speakers; at least 2 are needed to tell them apart"),
    ],
)
def test_speakers_to_tell_apart_are_needed(recipe, change, expected):
    utterances = [replace(utterance, **change) for utterance in spoken(recipe)]
    with pytest.raises(InputError, match=expected):
        TrainSet(utterances, configure(recipe, **SPEAKERS))


def test_every_speaker_has_as_many_crops_in_as_many_batches(recipe):
    trainset = verification(recipe, data__sampling="speakers", training__batch_size=8)
    assert trainset.batches_per_epoch == verification(recipe, training__batch_size=8).batches_per_epoch == 3
    addresses = [address for batch in trainset.addresses(0) for address in batch]
    assert set(Counter(trainset.utterances[index].speaker for _, index, _ in addresses).values()) == {6}
    (whole,) = verification(recipe, data__sampling="speakers", training__batch_size=24).batches(0)
    (once,) = (batch for batch in trainset.batches(0, done=2))
    own = whole.wave[whole.target == 0]
    assert len(own) == 6
    assert len({wave.numpy().tobytes() for wave in own}) == 6, "each a crop of its own"
    assert torch.equal(once.wave, whole.wave[16:]), "and a resumed epoch has the same"


def test_a_speed_makes_every_speaker_another_one(recipe):
    plain, trainset = verification(recipe), verification(recipe, data__speed_speakers=[0.9, 1.1])
    assert len(trainset.classes) == len(set(trainset.classes)) == 3 * len(plain.classes)
    assert trainset.classes[:4] == plain.classes
    assert len(trainset) == 3 * len(plain)
    for index in range(24):
        target, wave = plain.crops.targets[index], plain.crops[0, index].wave
        assert [trainset.crops.targets[index + 24 * turn] for turn in range(3)] == [target, target + 4, target + 8]
        assert torch.equal(trainset.crops[0, index].wave, wave), "a speaker that is not sped up stays as before"
        for turn, speed in enumerate((0.9, 1.1), start=1):
            example = trainset.crops[0, index + 24 * turn]
            assert example.wave.shape == wave.shape
            assert example.wave.dtype == torch.float32
            pitch = {"bonafide": 0.7, "spoof": 0.2}[plain.utterances[index].label]
            assert peak(example.wave) == pytest.approx(pitch * speed, rel=0.1)


def peak(wave):
    spectrum = torch.fft.rfft(wave - wave.mean(), 16 * len(wave)).abs()
    return float(spectrum.argmax()) * torch.pi / (len(spectrum) - 1)


def test_a_fraction_of_the_data_or_of_the_speakers(recipe, tmp_path):
    everything = read_trainset(configure(recipe))
    half = read_trainset(configure(recipe, data__fraction=0.5))
    assert len(everything) == 24
    assert Counter(utterance.label for utterance in half) == {"bonafide": 6, "spoof": 6}
    assert half == [utterance for utterance in everything if utterance in half]
    with pytest.raises(InputError, match=r"manifest.tsv: 'bonafide-00': its speaker is not known"):
        read_trainset(configure(recipe, data__fraction=0.5, data__fraction_of="speakers"))
    write_manifest(tmp_path / "train.tsv", spoken(recipe))
    changes = {"data__train": str(tmp_path / "train.tsv"), "data__fraction": 0.5, "data__fraction_of": "speakers"}
    some = read_trainset(configure(recipe, **SPEAKERS, **changes))
    assert Counter(map(speaker_of, some)).items() <= Counter(map(speaker_of, spoken(recipe))).items()
    assert len({utterance.speaker for utterance in some}) == 2
    lonely = [replace(u, speaker=f"s{u.label}") for u in spoken(recipe)]
    write_manifest(tmp_path / "train.tsv", lonely)
    with pytest.raises(InputError, match=r"of 0.5 of its speakers: no utterance is labelled '(spoof|bonafide)'"):
        read_trainset(configure(recipe, **changes))


def test_verification_needs_no_spoofs(recipe, tmp_path):
    write_manifest(tmp_path / "train.tsv", [replace(u, label=Label.BONAFIDE) for u in spoken(recipe)])
    assert len(read_set(tmp_path / "train.tsv", "speaker-verification")) == 24
    with pytest.raises(InputError, match="no utterance is labelled 'spoof'"):
        read_set(tmp_path / "train.tsv")


MEMBERS = [np.array([0]), np.arange(1, 4), np.arange(4, 64)]
SPEAKER = [0] + [1] * 3 + [2] * 60


def order_speakers(seed, epoch):
    return order_parts(MEMBERS, [64 * (1 / 3)] * 3, seed, epoch, {})


def test_an_order_of_speakers_is_one_of_seed_and_epoch():
    order = order_speakers(seed=1, epoch=0)
    assert len(order) == len(set(order)) == 64, "as many as there are utterances, and no crop twice"
    assert sorted(Counter(SPEAKER[index] for _, index, _ in order).values()) == [21, 21, 22]
    turns = [turn for _, index, turn in order if index == 0]
    assert sorted(turns) == list(range(len(turns))), "an utterance comes again as another turn"
    again = Counter(index for _, index, _ in order if 1 <= index < 4)
    assert max(again.values()) - min(again.values()) <= 1
    assert all(turn == 0 for _, index, turn in order if index >= 4)
    speakers = [SPEAKER[index] for _, index, _ in order]
    assert all(len(set(speakers[start : start + 16])) == 3 for start in range(0, 64, 16)), "they are mixed"
    first, *others = (order_speakers(*key) for key in ((1, 0), (2, 0), (1, 1)))
    assert first == order_speakers(seed=1, epoch=0)
    assert all([pair[1:] for pair in first] != [pair[1:] for pair in other] for other in others)
    orders = (order_speakers(1, epoch) for epoch in range(20))
    more = {Counter(SPEAKER[index] for _, index, _ in order).most_common(1)[0][0] for order in orders}
    assert more == {0, 1, 2}, "which speaker has one more is random"


def crowd(speakers, clips=10):
    return [
        Utterance(f"{speaker}-{clip}", Path("x.wav"), list(Label)[clip % 2], f"s{speaker}", seconds=1.0)
        for clip in range(clips)
        for speaker in range(speakers)
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "choose",
    [
        lambda everything, *fraction_and_seed: choose_utterances(everything, speaker_of, *fraction_and_seed),
        lambda everything, *fraction_and_seed: choose_speakers(everything, *fraction_and_seed, "train.tsv"),
    ],
)
def test_less_is_a_part_of_more(choose, seed):
    found = [choose(crowd(20), fraction, seed) for fraction in (0.01, 0.1, 0.3, 0.75, 1.0)]
    assert all(set(less) <= set(more) for less, more in pairwise(found))
    assert len(set(map(len, found))) >= 4
    assert found[-1] == crowd(20), "and in its order"


def test_classes_keep_their_share_and_speakers_are_whole():
    for fraction, expected in ((0.01, 1), (0.2, 2), (0.3, 3), (0.31, 4)):
        counts = Counter(map(speaker_of, choose_utterances(crowd(20), speaker_of, fraction, 0)))
        assert (len(counts), set(counts.values())) == (20, {expected})
    assert len(choose_utterances(crowd(1, 100), speaker_of, 0.07, 0)) == 7, "which is a little less in floating point"
    first, other = (choose_speakers(crowd(20), 0.25, seed, "train.tsv") for seed in (0, 1))
    assert list(Counter(map(speaker_of, first)).values()) == [10] * 5
    assert first != other


def test_utterances_of_one_recording_stay_together():
    labels = [(take, label) for take in range(50) for label in Label]
    pairs = [Utterance(f"{take}-{label}", Path("x.wav"), label, recording=f"take {take}") for take, label in labels]
    some = choose_utterances(pairs, lambda utterance: utterance.label, 0.2, 0)
    assert Counter(Counter(utterance.recording for utterance in some).values()) == {2: 10}


def test_the_order_of_speakers_is_that_of_the_first_version():
    """Drawn by `order_speakers` before there was a balance of corpora: a run begun then goes on as it would have."""
    order = order_parts([np.array([0]), np.array([1, 2, 3])], [2.0, 2.0], 7, 3, {})
    assert order == [(3, 0, 1), (3, 0, 0), (3, 3, 0), (3, 1, 0)]


@pytest.mark.parametrize(
    ("balance", "temperature", "expected"),
    [
        (["corpus", "class"], None, [3, 3, 6]),  # the fakes and the speech of `a`, the fakes of `b`
        (["class", "corpus"], None, [3, 3, 6]),  # the fakes of `a`, those of `b`, the speech of `a`
        (["corpus"], None, [6, 6]),
        (["class"], None, [6, 6]),
        (["corpus"], 1, [9, 3]),
        (["class"], 1, [10, 2]),
        (["corpus"], 2, [8, 4]),  # 12 x sqrt(9) / (sqrt(9) + sqrt(3)) = 7.6
    ],
)
def test_an_epoch_is_shared_out_level_by_level(recipe, balance, temperature, expected):
    """Of corpora `a`, with 2 bona fide utterances and 7 fakes, and `b` with 3 fakes alone."""
    utterances = mixed()
    config = configure(recipe, data__balance=balance, data__temperature=temperature, training__batch_size=12)
    (batch,) = TrainSet(utterances, config).addresses(0)
    found = Counter(tuple(of(utterances[index])[level] for level in balance) for _, index, _ in batch)
    assert [count for _, count in sorted(found.items())] == expected


def mixed():
    parts = {("a", Label.BONAFIDE): 2, ("a", Label.SPOOF): 7, ("b", Label.SPOOF): 3}
    return [
        Utterance(f"{corpus}/{index}", Path("x.wav"), label, f"{corpus}/s{index % 2}", corpus=corpus)
        for (corpus, label), count in parts.items()
        for index in range(count)
    ]


def of(utterance):
    return {"corpus": utterance.corpus, "class": ("spoof", "bonafide").index(utterance.label)}


@pytest.mark.parametrize(("balance", "expected"), [([], (10, 2)), (["class"], (6, 6)), (["corpus"], (11, 1))])
def test_scores_are_freed_from_the_priors_of_what_is_drawn(recipe, balance, expected):
    """Of corpora alike, `a` gives 6 x 2 / 9 = 1.3 bona fide crops."""
    assert class_counts(configure(recipe, data__balance=balance), mixed()) == expected


def test_speakers_of_one_name_in_two_corpora_are_two(recipe):
    config = configure(recipe, **SPEAKERS, data__balance=["corpus"], data__sampling="speakers", training__batch_size=12)
    trainset = TrainSet(mixed(), config)
    assert trainset.classes == ("a/s0", "a/s1", "b/s0", "b/s1")
    addresses = [address for batch in trainset.addresses(0) for address in batch]
    assert set(Counter(trainset.utterances[index].speaker for _, index, _ in addresses).values()) == {3}


def test_the_speech_and_fakes_of_a_recording_stay_together_where_both_are_drawn():
    recording = {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 5}
    order = order_parts([np.array([0, 2]), np.array([1, 3, 4, 5])], [3.0, 3.0], 1, 0, recording)
    takes = [(recording[index], turn) for _, index, turn in order]
    assert len(takes) == 6
    assert len([take for take, before in zip(takes, [None, *takes], strict=False) if take != before]) == len(set(takes))


def test_one_corpus_alone_cannot_be_balanced(recipe):
    with pytest.raises(InputError, match=r"data.balance: corpus: .*train.manifest.tsv is of one; give data.train sev"):
        TrainSet(read_manifest(configure(recipe).data.train), configure(recipe, data__balance=["corpus"]))


def test_several_manifests_keep_their_corpus_and_their_names_apart(recipe, tmp_path):
    """Also where one of them has a single class: the other has both."""
    utterances = [replace(u, recording=f"take {index}") for index, u in enumerate(spoken(recipe))]
    spoofs = [utterance for utterance in utterances if utterance.label == Label.SPOOF]
    for name, some in (("one", utterances), ("two", spoofs)):
        write_manifest(tmp_path / f"{name}.tsv", some)
    sets = {name: str(tmp_path / f"{name}.tsv") for name in ("one", "two")}
    config = configure(recipe, data__train=sets)
    found = read_trainset(config)
    assert Counter(utterance.corpus for utterance in found) == {"one": 24, "two": 12}
    assert len({u.utt_id for u in found}) == len({u.recording for u in found}) == 36
    assert found[0].utt_id == "one/bonafide-00"
    assert {u.speaker for u in found if u.corpus == "two"} == {f"two/{u.speaker}" for u in spoofs}
    half = read_trainset(configure(recipe, data__train=sets, data__fraction=0.5))
    assert Counter(utterance.corpus for utterance in half) == {"one": 12, "two": 6}, "of each corpus the same share"
    write_manifest(tmp_path / "joined.tsv", found)
    assert read_manifest(tmp_path / "joined.tsv") == found, "as one manifest with a column for the corpus"
    with pytest.raises(InputError, match=r"two.tsv: no utterance is labelled 'bonafide'"):
        read_devset(configure(recipe, data__dev=sets))
    write_manifest(tmp_path / "two2.tsv", spoofs)
    fakes = configure(recipe, data__train={"two": sets["two"], "more": str(tmp_path / "two2.tsv")})
    with pytest.raises(InputError, match=r"two.tsv, .*two2.tsv: no utterance is labelled 'bonafide'"):
        read_trainset(fakes)
    (tmp_path / "two.tsv").write_text("utt_id\tpath\tlabel\nx\tgone.wav\tspoof\n")
    with pytest.raises(InputError, match=r"two.tsv: 'x': .*gone.wav does not exist"):
        read_trainset(config)
