"""The same batches whoever decodes them and however often one asks."""

from pathlib import Path

import pytest
import soundfile
import torch

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import read_audio
from hybrid_pruning.batches import Batch, Crops, Wholes, collate, load_batches
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import Label, Utterance

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
    assert not torch.equal(first.wave[1], crops(utterances, seed=1)[0, 3][0]), "another seed, another place"
    alone = torch.stack([crops(utterances)[address][0] for address in addresses[0]])
    assert torch.equal(first.wave, alone), "in any process"
    assert first.target.tolist() == [0, 1]
    assert first.index.tolist() == [4, 3]
    assert first.lengths is None


def test_a_crop_is_a_piece_of_its_utterance(utterances: list[Utterance]):
    whole = torch.from_numpy(read_audio(utterances[3].path))
    pieces = whole.unfold(0, CROP, 1)
    starts = {int((pieces == crops(utterances)[epoch, 3][0]).all(1).nonzero().item()) for epoch in range(20)}
    assert len(starts) > 15
    assert max(starts) - min(starts) > 1500


def test_short_clips_are_repeated(utterances: list[Utterance]):
    wave, whole = crops(utterances)[0, 0][0], torch.from_numpy(read_audio(utterances[0].path))
    assert torch.equal(wave, whole.repeat(4)[:CROP])
    repeated = Wholes(utterances, minimum=500)[0]
    assert not isinstance(repeated, InputError)
    assert torch.equal(repeated[0], whole.repeat(2)[:500])


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_cross_from_worker_processes(utterances: list[Utterance], tmp_path: Path, workers: int):
    (tmp_path / "3.wav").write_text("no audio")
    for dataset, addresses in ((crops(utterances), [[(0, 1)], [(0, 2), (0, 3)]]), (Wholes(utterances, 1), [[0], [3]])):
        batches = load_batches(dataset, addresses, workers)
        next(batches)
        with pytest.raises(InputError, match=r"3\.wav: cannot be decoded") as caught:
            next(batches)
        assert "\n" not in str(caught.value)


def test_unequal_lengths_are_padded_with_zeros():
    batch = collate([(torch.ones(2), 1, 7), (torch.ones(4), 0, 3)])
    assert isinstance(batch, Batch)
    assert batch.wave.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.lengths is not None
    assert (batch.lengths.tolist(), batch.target.tolist(), batch.index.tolist()) == ([2, 4], [1, 0], [7, 3])


@pytest.mark.parametrize("lengths", [None, torch.arange(5)])
@pytest.mark.parametrize(("parts", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (5, [1] * 5), (9, [1] * 5)])
def test_split_keeps_every_row_once(lengths: torch.Tensor | None, parts: int, sizes: list[int]):
    batch = Batch(torch.randn(5, 8), lengths, torch.arange(5) % 2, torch.arange(5))
    found = batch.split(parts)
    assert [len(part.wave) for part in found] == sizes
    for name in ("wave", "target", "index", "lengths"):
        columns = [getattr(part, name) for part in found]
        if name == "lengths" and lengths is None:
            assert columns == [None] * len(found)
        else:
            assert torch.equal(torch.cat(columns), getattr(batch, name))
    assert all(torch.equal(part.to(torch.device("cpu")).wave, part.wave) for part in found)
