"""The playback of a recording: speed and volume."""

import math
from dataclasses import dataclass

import numpy as np
import soxr

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.transform import Wave, amplitude, fit


@dataclass(frozen=True)
class Speed:
    """Plays faster and higher, or slower and lower.

    Source: Ko, Peddinti, Povey, Khudanpur, "Audio augmentation for speech recognition", Interspeech 2015.

    Args:
        factors: one is drawn; above 1 is faster.
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
    """Plays louder or softer.

    Args:
        gain_db: range of the gain.
    """

    gain_db: tuple[float, float]

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] at another volume; `Augmentation` holds it within full scale."""
        return wave * np.float32(amplitude(rng.uniform(*self.gain_db)))
