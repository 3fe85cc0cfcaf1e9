"""The same batches for any number of decoding threads, and at every call."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import read_audio
from hybrid_pruning.data.batches import ATTEMPTS, Batch, Crops, Example, collate, load_batches
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

CROP = 1000


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Five clips: shorter than a crop, as long as one, and longer."""
    found = []
    for index, samples in enumerate((300, CROP, 1500, 4000, 2500)):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, noise(samples, seed=index), SAMPLE_RATE_HZ, subtype="FLOAT")
        found.append(Utterance(str(index), path, Label.SPOOF))
    return found


def crops(utterances: list[Utterance], seed: int = 0) -> Crops:
    return Crops(utterances, [index % 2 for index in range(len(utterances))], CROP, seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_a_function_of_seed_epoch_and_index(utterances: list[Utterance], workers: int):
    addresses = [[(0, 4), (0, 3)], [(1, 3), (0, 0)], [(0, 3)]]
    first, second, third = load_batches(crops(utterances), addresses, workers)
    assert torch.equal(first.wave[1], third.wave[0]), "whatever was read before"
    assert not torch.equal(first.wave[1], second.wave[0]), "another epoch, another place"
    assert not torch.equal(first.wave[1], crops(utterances, seed=1)[0, 3].wave), "another seed, another place"
    alone = torch.stack([crops(utterances)[address].wave for address in addresses[0]])
    assert torch.equal(first.wave, alone), "in any process"
    assert first.target.tolist() == [0, 1]
    assert first.index.tolist() == [4, 3]
    assert first.lengths is None


def test_a_crop_is_a_piece_of_its_utterance(utterances: list[Utterance]):
    whole = torch.from_numpy(read_audio(utterances[3].path))
    pieces = whole.unfold(0, CROP, 1)
    starts = {int((pieces == crops(utterances)[epoch, 3].wave).all(1).nonzero().item()) for epoch in range(20)}
    assert len(starts) > 15
    assert max(starts) - min(starts) > 1500


def test_short_clips_are_repeated(utterances: list[Utterance]):
    example, whole = crops(utterances)[0, 0], torch.from_numpy(read_audio(utterances[0].path))
    assert isinstance(example, Example)
    assert torch.equal(example.wave, whole.repeat(4)[:CROP])
    assert example.repeated == CROP - 300


def test_the_crop_of_an_unreadable_file_is_one_of_another_of_its_class(utterances: list[Utterance]):
    utterances[4].path.write_text("no audio")
    examples = [crops(utterances)[epoch, 4] for epoch in range(20)]
    assert all(isinstance(example, Example) for example in examples)
    assert {example.index for example in examples} == {0, 2}, "either of the class's others"
    assert {example.target for example in examples} == {0}
    assert all("4.wav: cannot be decoded" in message for example in examples for message in example.skipped)
    assert all(len(example.skipped) == 1 for example in examples)
    whole = torch.from_numpy(read_audio(utterances[2].path))
    one = next(example for example in examples if example.index == 2)
    assert (whole.unfold(0, CROP, 1) == one.wave).all(1).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_substitute_is_a_function_of_seed_epoch_and_index(utterances: list[Utterance], workers: int):
    utterances[4].path.write_text("no audio")
    addresses = [[(epoch, 4), (epoch, 1)] for epoch in range(6)]
    found = list(load_batches(crops(utterances), addresses, workers))
    again = list(load_batches(crops(utterances), addresses[3:], 0))  # as a resumed run, with no process beside
    assert all(torch.equal(a.wave, b.wave) and a.skipped == b.skipped for a, b in zip(found[3:], again, strict=True))
    assert all(len(batch.skipped) == 1 for batch in found)
    alone = [crops(utterances)[address[0]] for address in addresses]
    assert [batch.index[0] for batch in found] == [example.index for example in alone]
    others = [crops(utterances, seed=1)[epoch, 4].index for epoch in range(6)]
    assert others != [example.index for example in alone]


def test_a_class_of_which_nothing_can_be_read_stops(utterances: list[Utterance]):
    for index in (1, 3):
        utterances[index].path.write_text("no audio")
    with pytest.raises(InputError, match=r"[13]\.wav: cannot be decoded"):
        list(load_batches(crops(utterances), [[(0, 1)]], 0))
    with pytest.raises(InputError, match=r"1\.wav: cannot be decoded"):  # nothing can stand in for the only one
        list(load_batches(Crops(utterances[1:2], [0], CROP, 0), [[(0, 0)]], 1))


def test_a_few_attempts_are_made(utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch):
    tried = []

    def fail(path: Path) -> None:
        tried.append(path)
        raise InputError(f"{path}: no")

    monkeypatch.setattr("hybrid_pruning.data.batches.AudioFile", fail)
    with pytest.raises(InputError, match="no"):
        crops(utterances)[0, 0]
    assert len(tried) == ATTEMPTS
    assert {path.name for path in tried} == {"0.wav", "2.wav", "4.wav"}, "not the same again and again"


def test_another_duration_than_the_manifests_is_a_fault(utterances: list[Utterance]):
    utterances[3] = replace(utterances[3], seconds=0.25)  # as it is
    utterances[4] = replace(utterances[4], seconds=4000 / SAMPLE_RATE_HZ + 0.2)
    fine, wrong = (crops(utterances)[0, index] for index in (3, 4))
    assert not fine.skipped
    assert "4.wav: lasts 0.156 s, its manifest says 0.450" in wrong.skipped[0]


def test_padding_is_zeros_or_repetitions_and_counted(utterances: list[Utterance]):
    cropped = collate([crops(utterances)[0, index] for index in (0, 1, 3)])
    assert cropped.padding == pytest.approx(700 / 3000)
    uneven = collate([Example(torch.ones(400), 0, 0, repeated=100), Example(torch.ones(4000), 0, 1)])
    assert uneven.padding == pytest.approx((3600 + 100) / 8000)
    assert collate([crops(utterances)[0, 3]]).padding == 0
    batch = collate([Example(torch.ones(2), 1, 7), Example(torch.ones(4), 0, 3)])
    assert batch.wave.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.lengths is not None
    assert (batch.lengths.tolist(), batch.target.tolist(), batch.index.tolist()) == ([2, 4], [1, 0], [7, 3])


@pytest.mark.parametrize("lengths", [None, torch.arange(5)])
@pytest.mark.parametrize(("parts", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (5, [1] * 5), (9, [1] * 5)])
def test_split_keeps_every_row_once(lengths: torch.Tensor | None, parts: int, sizes: list[int]):
    batch = Batch(torch.randn(5, 8), lengths, torch.arange(5) % 2, torch.arange(5), 0.25, ("a.wav: bad", "b.wav: bad"))
    found = batch.split(parts)
    assert [message for part in found for message in part.skipped] == list(batch.skipped)
    assert {part.padding for part in found} == {0.25}
    assert [len(part.wave) for part in found] == sizes
    for name in ("wave", "target", "index", "lengths"):
        columns, whole = [getattr(part, name) for part in found], getattr(batch, name)
        assert columns == [None] * len(found) if whole is None else torch.equal(torch.cat(columns), whole)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.wave, batch.wave)
    assert (moved.padding, moved.skipped) == (batch.padding, batch.skipped)
