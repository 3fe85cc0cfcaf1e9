"""Files of any kind become the same batches, whoever decodes them and however often one asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import Batch, Crops, Wholes, audio_samples, collate, load_batches, read_audio
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import Label, Utterance

CROP = 1000


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray[Any, Any]:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "tolerance"),
    [
        ("a.wav", 16_000, 1, 1e-4),
        ("a.wav", 16_000, 2, 1e-4),
        ("a.flac", 16_000, 1, 1e-4),
        ("a.wav", 8_000, 1, 2e-2),
        ("a.flac", 44_100, 2, 2e-2),
        ("a.wav", 48_000, 1, 2e-2),
        ("a.ogg", 16_000, 1, 5e-2),
        ("a.ogg", 48_000, 2, 5e-2),
    ],
)
def test_every_file_becomes_mono_at_16_khz(tmp_path: Path, name: str, rate: int, channels: int, tolerance: float):
    path = tmp_path / name
    soundfile.write(path, tone(0.5, rate, channels), rate)
    found, expected = read_audio(path), tone(0.5, SAMPLE_RATE_HZ)[:, 0]
    assert found.dtype == np.float32
    assert len(found) == len(expected) == audio_samples(path)
    inner = slice(400, -400)  # resampling and lossy codecs blur the ends
    assert np.abs(found - expected)[inner].max() < tolerance


def test_channels_are_averaged(tmp_path: Path):
    stereo = noise(500, channels=2)
    soundfile.write(tmp_path / "a.wav", stereo, SAMPLE_RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), stereo.mean(1), atol=1e-7)


@pytest.mark.parametrize(("start", "samples"), [(0, 700), (1234, 700), (5900, 700), (1234, None)])
@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16_000), ("a.flac", 16_000), ("a.ogg", 16_000), ("a.wav", 8_000)])
def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, name: str, rate: int, start: int, samples: int | None):
    soundfile.write(tmp_path / name, noise(6000 * rate // SAMPLE_RATE_HZ), rate)
    part, whole = read_audio(tmp_path / name, start, samples), read_audio(tmp_path / name)
    np.testing.assert_allclose(part, whole[start:][:samples], atol=1e-6)


def write_no_file(path: Path) -> None:
    assert not path.exists()


def write_text(path: Path) -> None:
    path.write_text("no audio")


def write_nothing(path: Path) -> None:
    path.touch()


def write_no_samples(path: Path) -> None:
    soundfile.write(path, noise(0), SAMPLE_RATE_HZ)


def write_infinity(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.inf, 0.0]), SAMPLE_RATE_HZ, subtype="FLOAT")


def write_truncated_flac(path: Path) -> None:
    soundfile.write(path, noise(16_000), SAMPLE_RATE_HZ, format="FLAC")
    path.write_bytes(path.read_bytes()[:8_000])


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing.wav": (write_no_file, "no such file; check"),
    "text.wav": (write_text, "cannot be decoded"),
    "text.raw": (write_text, "cannot be decoded"),
    "empty.flac": (write_nothing, "cannot be decoded"),
    "folder.wav": (Path.mkdir, "cannot be decoded"),
    "silent.wav": (write_no_samples, "holds no audio"),
    "infinite.wav": (write_infinity, "not finite"),
    "truncated.flac": (write_truncated_flac, "cannot be decoded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line(tmp_path: Path, name: str):
    write, expected = BROKEN[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: .*{expected}") as caught:
        read_audio(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.wav", "text.wav", "text.raw"])
def test_a_header_that_cannot_be_read(tmp_path: Path, name: str):
    BROKEN[name][0](tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: .*{BROKEN[name][1]}"):
        audio_samples(tmp_path / name)


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
