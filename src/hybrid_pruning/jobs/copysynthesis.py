"""Copy-synthesis: take human speech apart and put it together again with a vocoder, as spoofing systems do.

Every attack is a pure function from a wave, float32 [samples] at 16 kHz, to a wave of the same length; its random
numbers are seeded by the wave itself. `reencode` is the last step of both classes, human and fake.
"""

import functools
import importlib
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hybrid_pruning.data.augment.effects import fit
from hybrid_pruning.jobs.packages import SAMPLE_RATE, Wave

FFT, HOP, MELS = 1024, 256, 80
ITERATIONS, MOMENTUM = 32, 0.99
ORDER, LPC_FRAME, LPC_HOP, LPC_SPREAD = 18, 512, 128, 128
LOWEST_PITCH, HIGHEST_PITCH, VOICED = 70, 400, 0.45
LEVEL, FLOOR = 0.05, 10 ** (-62 / 20)

Spectrum = npt.NDArray[np.complex64]
Matrix = npt.NDArray[np.float32]


def world(wave: Wave) -> Wave:
    """Analyse pitch, spectral envelope and aperiodicity and synthesise from them.

    Source: Morise, Yokomori, Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system for real-time
    applications", IEICE Trans. Inf. & Syst. E99-D(7), 2016.
    """
    vocoder = importlib.import_module("pyworld")  # of the extra `quickstart`
    signal = wave.astype(np.float64)
    rough, times = vocoder.dio(signal, SAMPLE_RATE)
    pitch = vocoder.stonemask(signal, rough, times, SAMPLE_RATE)
    envelope = vocoder.cheaptrick(signal, pitch, times, SAMPLE_RATE)
    aperiodicity = vocoder.d4c(signal, pitch, times, SAMPLE_RATE)
    return fit(vocoder.synthesize(pitch, envelope, aperiodicity, SAMPLE_RATE), len(wave)).astype(np.float32)


def griffin_lim(wave: Wave) -> Wave:
    """Reduce to an 80-band mel spectrogram and find a wave that has it, by iterated phase estimation.

    Source: Griffin, Lim, "Signal estimation from modified short-time Fourier transform", IEEE Trans. ASSP 32(2), 1984;
    with the momentum of Perraudin, Balazs, Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013.
    """
    to_mel, from_mel = _mel_filters()
    magnitude = np.maximum(np.abs(_stft(wave)) @ to_mel @ from_mel, 0)
    phase = np.exp(2j * np.pi * _noise_source(wave).random(magnitude.shape)).astype(np.complex64)
    previous = np.zeros_like(phase)
    for _ in range(ITERATIONS):
        rebuilt = _stft(_istft(magnitude * phase, len(wave)))
        ahead = rebuilt + MOMENTUM * (rebuilt - previous)
        phase, previous = ahead / np.maximum(np.abs(ahead), 1e-9), rebuilt
    return _istft(magnitude * phase, len(wave))


def linear_prediction(wave: Wave) -> Wave:
    """Keep 18 linear prediction coefficients, the pitch and the gain of each frame; excite by pulses or by noise.

    Source: Atal, Hanauer, "Speech analysis and synthesis by linear prediction of the speech wave", JASA 50(2B), 1971;
    pulses spread out by an all-pass, as in Tremain, "The government standard linear predictive coding algorithm:
    LPC-10", Speech Technology 1(2), 1982, without which its peaks alone would give the attack away.
    Deviation: frames are filtered in the frequency domain and overlap-added, so that all of them are one array.
    """
    frames = _frames(wave, LPC_FRAME, LPC_HOP) * _window(LPC_FRAME)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * LPC_FRAME)) ** 2)[:, :LPC_FRAME].astype(np.float64)
    coefficients, gain = _predict(correlation)
    excitation = _excitation(_pitch(correlation), len(wave), _noise_source(wave))
    driven = np.fft.rfft(_frames(excitation, LPC_FRAME, LPC_HOP) * _window(LPC_FRAME), 2 * LPC_FRAME)
    all_pass = np.exp(-0.5j * np.pi * LPC_SPREAD * np.linspace(0, 1, LPC_FRAME + 1) ** 2)  # a delay, by frequency
    shape = all_pass / np.fft.rfft(coefficients, 2 * LPC_FRAME)
    filtered = np.fft.irfft(driven * gain[:, None] * shape)[:, :LPC_FRAME]
    return _overlap_add((filtered * _window(LPC_FRAME)).astype(np.float32), LPC_HOP, len(wave))


ATTACKS: dict[str, Callable[[Wave], Wave]] = {
    "world": world,
    "griffin-lim": griffin_lim,
    "linear-prediction": linear_prediction,
}


def reencode(wave: Wave, seed: int) -> npt.NDArray[np.int16]:
    """Give human and synthetic waves the same band, level and noise floor, so that they differ in the speech alone.

    The band is cut to 0.1-6.8 kHz (many of the recordings went through codecs of 7 kHz), the root mean square set to
    -26 dBFS, the polarity drawn by lot (vocoders' pulses all point one way), and white noise of -62 dBFS laid over it,
    above the band too: digital silence exists in neither class. `seed` is another for each file.
    """
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    passing = np.clip((frequency - 70) / 30, 0, 1) * np.clip((6800 - frequency) / 200, 0, 1)
    banded = np.fft.irfft(spectrum * (0.5 - 0.5 * np.cos(np.pi * passing)), len(wave))
    source = np.random.default_rng(seed)
    levelled = banded * (source.choice((-LEVEL, LEVEL)) / max(float(np.sqrt(np.mean(banded**2))), 1e-9))
    noisy = levelled + FLOOR * source.standard_normal(len(wave))
    return np.round(np.clip(noisy, -1, 1) * 32767).astype(np.int16)


def _noise_source(wave: Wave) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(np.ascontiguousarray(wave).tobytes()))


@functools.cache
def _window(size: int) -> Matrix:
    return np.hanning(size + 1)[:-1].astype(np.float32)


def _frames(wave: Wave, size: int, hop: int) -> Matrix:
    """Cut into overlapping frames [T, size], the first centred on sample 0."""
    padded = np.pad(wave, (size // 2, size))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[: len(wave) + 1 : hop]


def _overlap_add(frames: Matrix, hop: int, length: int) -> Wave:
    """Undo `_frames` for frames windowed twice by `_window`; its squares add up to 3/8 of the overlap."""
    count, size = frames.shape
    strips = frames.reshape(count, size // hop, hop)
    total = np.zeros((count + size // hop, hop), dtype=np.float32)
    for index in range(size // hop):
        total[index : index + count] += strips[:, index]
    return fit(total.reshape(-1)[size // 2 :] / (0.375 * size / hop), length).astype(np.float32)


def _stft(wave: Wave) -> Spectrum:
    return np.fft.rfft(_frames(wave, FFT, HOP) * _window(FFT), axis=1).astype(np.complex64, copy=False)


def _istft(spectrum: Spectrum, length: int) -> Wave:
    frames = np.fft.irfft(spectrum, FFT, axis=1).astype(np.float32, copy=False)
    return _overlap_add(frames * _window(FFT), HOP, length)


@functools.cache
def _mel_filters() -> tuple[Matrix, Matrix]:
    """Triangular mel filters [513, 80] from 0 to 8 kHz, and their pseudo-inverse [80, 513]."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), MELS + 2) / 2595) - 1)
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(np.minimum(rising, falling), 0)
    filters /= np.maximum(filters.sum(axis=0), 1e-9)
    return filters.astype(np.float32), np.linalg.pinv(filters).astype(np.float32)


def _predict(correlation: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Solve the normal equations of all frames at once: polynomials [T, ORDER + 1] and residual gains [T]."""
    lags = correlation[:, : ORDER + 1] * np.exp(-0.5 * (2 * np.pi * 40 * np.arange(ORDER + 1) / SAMPLE_RATE) ** 2)
    lags[:, 0] = lags[:, 0] * 1.0001 + 1e-7
    toeplitz = lags[:, np.abs(np.subtract.outer(np.arange(ORDER), np.arange(ORDER)))]
    weights = np.linalg.solve(toeplitz, lags[:, 1:, None])[..., 0]
    residual = lags[:, 0] - np.sum(weights * lags[:, 1:], axis=1)
    gain = np.sqrt(np.maximum(residual, 0) / np.sum(_window(LPC_FRAME).astype(np.float64) ** 2))
    return np.concatenate([np.ones((len(weights), 1)), -weights], axis=1), gain


def _pitch(correlation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pitch in Hz [T] by the highest peak of the normalised autocorrelation; 0 where unvoiced."""
    own = np.fft.irfft(np.abs(np.fft.rfft(_window(LPC_FRAME), 2 * LPC_FRAME)) ** 2)[:LPC_FRAME]
    shortest, longest = SAMPLE_RATE // HIGHEST_PITCH, SAMPLE_RATE // LOWEST_PITCH
    span = slice(shortest, longest + 1)
    normal = correlation[:, span] / np.maximum(correlation[:, :1], 1e-7) * (own[0] / own[span])
    best = normal.argmax(axis=1)
    voiced = normal[np.arange(len(best)), best] > VOICED
    return np.where(voiced, SAMPLE_RATE / (best + shortest), 0.0)


def _excitation(pitch: npt.NDArray[np.float64], length: int, source: np.random.Generator) -> Wave:
    """Unit-power pulses at the pitch where voiced and noise where not, float32 [length]."""
    track = np.repeat(pitch, LPC_HOP)[:length]
    voiced = track > 0
    turns = np.floor(np.cumsum(track / SAMPLE_RATE))
    pulses = np.diff(turns, prepend=0.0) * np.sqrt(SAMPLE_RATE / np.where(voiced, track, 1.0))
    return np.where(voiced, pulses, source.standard_normal(length)).astype(np.float32)
