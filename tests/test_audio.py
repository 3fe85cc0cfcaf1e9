"""Files of any kind become the same waveform; what is broken is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import audio_samples, read_audio
from hybrid_pruning.errors import InputError


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
