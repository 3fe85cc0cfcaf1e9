"""Transforms of a wave, seedable and without delay, and the levels that all kinds of augmentation keep."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

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
