"""Sounds to augment, and measures of them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve, lfilter

from corpus import SAMPLE_RATE_HZ
from hybrid_pruning.audio import read_audio

SECOND = SAMPLE_RATE_HZ
CLIP = Path(__file__).parents[3] / "shared" / "corpora" / "flac" / "bfc3724d51b5.flac"

Wave = np.ndarray[Any, np.dtype[np.float32]]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def vowel(samples: int = SECOND, pitch_hz: float = 120, seed: int = 0) -> Wave:
    """Return a gliding vowel with a little breath in it, at a peak of one half, in the band of every speech codec."""
    time = np.arange(samples) / SAMPLE_RATE_HZ
    cycles = np.floor(np.cumsum(pitch_hz * (1 + 0.2 * np.sin(2 * np.pi * 1.5 * time)) / SAMPLE_RATE_HZ))
    wave = np.diff(cycles, prepend=0) + 0.01 * rng(seed).standard_normal(samples)
    for formant_hz in (500, 1500, 2500):
        turn = 2 * np.pi * formant_hz / SAMPLE_RATE_HZ
        wave = lfilter([1], [1, -2 * 0.97 * np.cos(turn), 0.97**2], wave)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def tone(hertz: float, samples: int = SECOND, peak: float = 0.5) -> Wave:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(samples) / SAMPLE_RATE_HZ)).astype(np.float32)


def real_speech() -> Wave:
    if not CLIP.exists():
        pytest.skip(f"{CLIP} is not there; it belongs to the development machine")
    return read_audio(CLIP, 0, 2 * SECOND)


def write_sounds(folder: Path, waves: Sequence[Wave], rate: int = SAMPLE_RATE_HZ) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, wave in enumerate(waves):
        soundfile.write(folder / f"{index:02d}.wav", wave, rate, subtype="FLOAT")
    return folder


def encode(wave: Wave, container: str, codec: str, rate: int = SECOND, file: Any = None, **options: str) -> bytes:
    """Return a wave [S] or [S, 2] as FFmpeg writes it, of 64 kbit/s where the codec has a choice."""
    file, layout = file or io.BytesIO(), "mono" if wave.ndim == 1 else "stereo"
    with av.logging.Capture(local=True), av.open(file, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout, bit_rate=64_000, options={"strict": "-2"})
        if codec == "libopencore_amrnb":
            stream.bit_rate = 12_200
        planes = np.ascontiguousarray(np.atleast_2d(wave.astype(np.float32).T))
        frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        for piece in (*av.AudioResampler(stream.format, layout, rate).resample(frame), None):
            out.mux(stream.encode(piece))
    return file.getvalue() if isinstance(file, io.BytesIO) else b""


def power_db(wave: Wave) -> float:
    return float(10 * np.log10(np.mean(wave.astype(np.float64) ** 2)))


def snr_db(wave: Wave, noisy: Wave) -> float:
    return power_db(wave) - power_db(noisy.astype(np.float64) - wave)


def level_db(wave: Wave, hertz: float) -> float:
    """Return the amplitude of a tone within a wave, in dB below 1."""
    turn = np.exp(-2j * np.pi * hertz * np.arange(len(wave)) / SAMPLE_RATE_HZ)
    return float(20 * np.log10(2 * np.abs(np.mean(wave * turn * np.hanning(len(wave)) * 2)) + 1e-12))


def band_db(wave: Wave, low_hz: float, high_hz: float) -> float:
    """Return the power of a wave within a band, in dB of all of its power."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ)
    return float(10 * np.log10(power[(hertz >= low_hz) & (hertz < high_hz)].sum() / power.sum() + 1e-20))


def lag(reference: Wave, wave: Wave) -> int:
    """Return by how many samples a wave comes late, where it correlates best with its reference."""
    correlation = fftconvolve(wave, reference[::-1])
    return int(correlation.argmax()) - (len(reference) - 1)
