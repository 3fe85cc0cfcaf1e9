"""Speed, volume, noise, reverberation: seedable and without delay; the levels that all augmentation keeps."""

import functools
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from scipy.signal import fftconvolve

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ, audio_samples, read_audio
from hybrid_pruning.console import progress_bar, say
from hybrid_pruning.data.manifest import hidden_line, list_recordings
from hybrid_pruning.errors import InputError

Wave = npt.NDArray[np.float32]


class Transform(Protocol):
    """One kind of augmentation; the wave given is left as it was.

    Its random choices come from `rng` and never depend on the wave: clips of one recording get the same treatment.
    """

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] float32 at 16 kHz augmented: the same length, finite, in place (no delay)."""
        ...


def limit(wave: Wave) -> Wave:
    """Return the wave, scaled down as a whole to a peak of 1 where it exceeds full scale: nothing is clipped."""
    peak = float(np.abs(wave).max(initial=0.0))
    return wave / np.float32(peak) if peak > 1 else wave


def fit(wave: Wave, samples: int) -> Wave:
    """Return the wave cut to [samples], or with silence behind it."""
    return np.pad(wave[:samples], (0, max(samples - len(wave), 0)))


def mean_power(wave: npt.NDArray[np.floating]) -> float:
    """Return the mean square over all samples, silence included."""
    return float(np.mean(np.square(wave, dtype=np.float64)))


def amplitude(decibels: float) -> float:
    """Return the factor that a level in dB means for samples."""
    return float(10 ** (decibels / 20))


def at_snr(noise: npt.NDArray[np.floating], wave: Wave, snr_db: float) -> Wave:
    """Return the noise [S] scaled so that mean_power(wave) / mean_power(noise) is the ratio; silence stays silent."""
    power = mean_power(noise)
    gain = np.sqrt(mean_power(wave) / power) / amplitude(snr_db) if power > 0 else 0.0
    return (noise * gain).astype(np.float32)


@dataclass(frozen=True)
class Speed:
    """Plays faster and higher, or slower and lower, by one of the factors.

    Source: Ko, Peddinti, Povey, Khudanpur, "Audio augmentation for speech recognition", Interspeech 2015.
    """

    factors: tuple[float, ...]

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] at another speed: its beginning where slower, repeated at the end where faster."""
        factor = self.factors[int(rng.integers(len(self.factors)))]
        needed = np.resize(wave, math.ceil(len(wave) * factor))
        return fit(change_speed(needed, factor), len(wave))


def change_speed(wave: Wave, factor: float) -> Wave:
    """Return a wave [S] played `factor` times as fast, and that much higher: [S / factor], as `sox speed` does."""
    return soxr.resample(wave, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Volume:
    """Plays louder or softer, by a gain within a range."""

    gain_db: tuple[float, float]

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] at another volume; `Augmentation` holds it within full scale."""
        return wave * np.float32(amplitude(rng.uniform(*self.gain_db)))


@dataclass(frozen=True, eq=False)
class AudioFolder:
    """Every recording below a folder: their paths, sorted, and lengths [N] in samples at 16 kHz."""

    folder: Path
    names: tuple[str, ...]
    samples: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Return where a recording lies."""
        return self.folder / self.names[index]

    def piece(self, index: int, samples: int, rng: np.random.Generator) -> Wave:
        """Return [samples] of a recording from a place drawn by lot; what is too short is repeated from its start."""
        start = int(rng.integers(max(int(self.samples[index]) - samples, 0) + 1))
        return np.resize(read_audio(self.path(index), start, samples), samples)


def list_folder(folder: Path, key: str) -> AudioFolder:
    """List the recordings below a folder by their headers; those that cannot be read are left out, with one line."""
    if not folder.is_dir():
        raise InputError(f"{key}: {folder} is not a folder; name one with recordings in it")
    hidden: list[str] = []
    found = sorted(list_recordings(folder, hidden))
    lengths: dict[str, int] = {}
    with progress_bar() as bar:
        for name in bar.track(found, description=f"listing {key}"):
            with suppress(InputError):
                if samples := audio_samples(folder / name):
                    lengths[name] = samples
    if not lengths:
        raise InputError(f"{key}: {folder} holds no recording that can be read")
    if hidden and processes.is_main():
        say(f"{key}: {hidden_line(hidden)[0]}")
    left_out = [name for name in found if name not in lengths]
    if left_out and processes.is_main():
        say(f"{key}: {len(left_out)} of {len(found)} files left out, no audio, e.g. {left_out[0]}")
    return AudioFolder(folder, tuple(lengths), np.array(list(lengths.values()), dtype=np.int64))


@dataclass(frozen=True)
class Noise:
    """Adds recordings, none twice at a time while there are enough; the wave keeps its own level.

    Source: Snyder, Chen, Povey, "MUSAN: A Music, Speech, and Noise Corpus", arXiv 1510.08484. The recipe's ranges are
    those of common VoxCeleb recipes (e.g. TaoRuijie/ECAPA-TDNN); Kaldi's draws from values within them (noise 0, 5, 10,
    15; music 5, 8, 10, 15; 3 to 7 voices at 13, 15, 17, 20 dB).
    """

    recordings: AudioFolder
    snr_db: tuple[float, float]  # range of each recording's signal-to-noise ratio, of mean powers over the example
    voices: tuple[int, int] = (1, 1)  # range of the number that is added at a time

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] with the recordings added."""
        count = int(rng.integers(self.voices[0], self.voices[1] + 1))
        total = wave.copy()
        for index in rng.choice(len(self.recordings), count, replace=count > len(self.recordings)):
            piece = self.recordings.piece(int(index), len(wave), rng)
            total += at_snr(piece, wave, rng.uniform(*self.snr_db))
        return total


LONGEST_SECONDS = 5
KEPT_RESPONSES = 64  # per process: with the longest ones 20 MB


@dataclass(frozen=True)
class Reverberation:
    """Puts the wave into a room: one of the impulse responses is drawn."""

    responses: AudioFolder

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] as heard in the room."""
        return reverberate(wave, read_response(self.responses.path(int(rng.integers(len(self.responses))))))


def reverberate(wave: Wave, response: Wave) -> Wave:
    """Convolve [S] with an impulse response [R] whose highest peak is the direct sound, to [S] of the same energy.

    Source: Ko, Peddinti, Povey, Seltzer, Khudanpur, "A study on data augmentation of reverberant speech for robust
    speech recognition", ICASSP 2017. Deviations from the public recipe, which cuts the convolution at the response's
    first sample and scales the result to a peak of 1: the direct sound stays where it was, and the energy what it was.
    """
    direct = int(np.abs(response).argmax())
    wet = fftconvolve(wave, response)[direct : direct + len(wave)]
    power = mean_power(wet)
    gain = np.sqrt(mean_power(wave) / power) if power > 0 else 0.0
    return (wet * gain).astype(np.float32)


@functools.lru_cache(maxsize=KEPT_RESPONSES)
def read_response(path: Path) -> Wave:
    """Decode an impulse response to 16 kHz, [R], 5 s at most; of several channels the first: no room has their mean."""
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            channels = file.read(LONGEST_SECONDS * rate, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: cannot be decoded ({error}); remove it from augment.reverberation.folder") from error
    response = np.ascontiguousarray(channels[:, 0])
    if rate != SAMPLE_RATE_HZ:
        response = soxr.resample(response, rate, SAMPLE_RATE_HZ)
    if not np.isfinite(response).all() or not response.any():
        raise InputError(f"{path}: is no impulse response (silent or not finite); remove it from the folder")
    return response
