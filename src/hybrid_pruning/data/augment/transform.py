"""Transforms of a wave, seedable and without delay: speed, volume, and the levels that all kinds of them keep."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from hybrid_pruning.audio import SAMPLE_RATE_HZ

Wave = npt.NDArray[np.float32]


class Transform(Protocol):
    """One kind of augmentation.

    All that is random in it comes from `rng`, and never depends on the wave's values: examples that are given the same
    generator, as clips of one recording are, get the same treatment. The wave given is left as it was.
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
    """Return the noise [S] scaled so that mean_power(wave) / mean_power(noise) is the ratio asked for.

    In a silent wave no noise has that ratio but silence; silent noise stays silent.
    """
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
