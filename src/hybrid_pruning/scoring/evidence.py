"""The evidence for a verdict: the active seconds of a waveform, the range of its levels, and reasons to stay undecided.

A verdict is left undecided where the audio holds no speech-like energy, where less than a second of it is active, where
its loud and its quiet parts are as good as equally loud, as in noise, where a calibrated LLR lies outside of those that
the calibration was fitted on, or where it leaves the less likely class more than one chance in four.

Of n scores that a calibration was fitted on and one more, all exchangeable, the one more is the least or the largest
with a probability of 2 / (n + 1): so rarely is a recording like theirs outside. Source: Vovk et al., "Algorithmic
Learning in a Random World", 2005, section 2.2.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from hybrid_pruning.audio import FLOOR_DBFS, FRAME, NO_SPEECH, SAMPLE_RATE_HZ, Wave
from hybrid_pruning.models.calibration import Calibration

LEAST_ACTIVE_SECONDS = 1.0
ACTIVE_RANGE_DB = 30.0
"""A frame is active down to so far below the loudest twentieth of all frames, and above the floor."""
LEAST_RANGE_DB = 10.0
"""Between a tenth of all frames and the loudest twentieth: 14 to 70 in speech, 4 to 10 in speech as loud as a noise."""
LEAST_PROBABILITY = 0.75
MARGIN = math.log(LEAST_PROBABILITY / (1 - LEAST_PROBABILITY))
"""Distance of an LLR from the threshold at which the likelier class has this probability."""
WEAK = f"neither answer has a probability of {LEAST_PROBABILITY:.0%} at this prior"

Levels = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Heard:
    """The sound of a recording: its active seconds, the range of its levels in dB, whether all is below the floor."""

    active: float
    range_db: float
    silent: bool

    @classmethod
    def of(cls, wave: Wave, silent: bool) -> Self:
        """Return that of a wave [S]."""
        levels = frame_levels(wave)
        return cls(active_seconds(levels), range_of(levels), silent)


def frame_levels(wave: Wave) -> Levels:
    """Return [F] the levels in dBFS of the 20 ms frames of a wave [S], less their means."""
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    return 20 * np.log10(np.maximum(frames.std(axis=1, dtype=np.float64), 1e-10))


def active_seconds(levels: Levels, loudest: float | None = None) -> float:
    """Return the duration of the active frames, given their levels [F] and the loudest level of the recording."""
    if not len(levels):
        return 0.0
    loudest = float(np.percentile(levels, 95)) if loudest is None else loudest
    return float((levels > max(FLOOR_DBFS, loudest - ACTIVE_RANGE_DB)).sum()) * FRAME / SAMPLE_RATE_HZ


def range_of(levels: Levels) -> float:
    """Return the range in dB of the levels [F], from the tenth percentile to the ninety-fifth."""
    return float(np.subtract(*np.percentile(levels, (95, 10)))) if len(levels) else 0.0


def find_gap(llr: float, heard: Heard, calibration: Calibration | None) -> str | None:
    """Return the reason in words why an LLR says nothing at any prior, None where there is none."""
    if heard.silent:
        return NO_SPEECH
    if heard.active < LEAST_ACTIVE_SECONDS:
        return f"holds {heard.active:.1f} s of active sound; {LEAST_ACTIVE_SECONDS:g} s are needed"
    if heard.range_db < LEAST_RANGE_DB:
        return f"is too noisy: its levels differ by {heard.range_db:.1f} dB, those of speech by {LEAST_RANGE_DB:g}"
    seen = None if calibration is None else calibration.seen
    if seen is not None and not seen[0] <= llr <= seen[1]:
        return unlike(seen)
    return None


def unlike(seen: tuple[float, float]) -> str:
    """Return the reason to doubt an LLR outside of those from the least to the largest that a calibration saw."""
    return f"is like no recording of the calibration, whose LLRs went from {seen[0]:.1f} to {seen[1]:.1f}"


def is_weak(llr: float, threshold: float, calibrated: bool) -> bool:
    """Return whether a calibrated LLR is too close to the threshold, the log odds of the prior."""
    return calibrated and abs(llr - threshold) < MARGIN


def spoof_probability(llr: float, prior: float) -> float:
    """Return the probability of a spoof, given a calibrated LLR and the prior probability of one, above 0 below 1."""
    return float(1 / (1 + np.exp(np.clip(llr - to_threshold(prior), -700, 700))))


def to_threshold(prior: float) -> float:
    """Return the LLR from which bona fide is the likelier class at a prior probability of a spoof."""
    return math.log(prior / (1 - prior))
