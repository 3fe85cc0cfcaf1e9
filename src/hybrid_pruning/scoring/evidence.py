"""The evidence for a verdict: the active seconds of a waveform, and the reasons to leave it undecided.

A verdict is left undecided where the audio holds no speech-like energy, where less than a second of it is active, or
where a calibrated LLR leaves the less likely class more than one chance in four. The signal-to-noise ratio is not
estimated: without a reference it takes assumptions on speech and noise that a synthetic voice need not meet. The range
of scores that the calibration was fitted on is not stored in a model, so an LLR beyond it cannot be told.
"""

import math

import numpy as np
import numpy.typing as npt

from hybrid_pruning.audio import FLOOR_DBFS, FRAME, NO_SPEECH, SAMPLE_RATE_HZ, Wave

LEAST_ACTIVE_SECONDS = 1.0
ACTIVE_RANGE_DB = 30.0
"""A frame is active down to so far below the loudest twentieth of all frames, and above the floor."""
LEAST_PROBABILITY = 0.75
MARGIN = math.log(LEAST_PROBABILITY / (1 - LEAST_PROBABILITY))
"""Distance of an LLR from the threshold at which the likelier class has this probability."""
WEAK = f"neither answer has a probability of {LEAST_PROBABILITY:.0%} at this prior"

Levels = npt.NDArray[np.float64]


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


def find_doubt(llr: float, threshold: float, active: float, silent: bool, calibrated: bool) -> str | None:
    """Return the reason in words to leave a verdict undecided, None where there is none.

    The threshold is the log odds of the prior; of an LLR that is not calibrated the size says nothing.
    """
    if silent:
        return NO_SPEECH
    if active < LEAST_ACTIVE_SECONDS:
        return f"holds {active:.1f} s of active sound; {LEAST_ACTIVE_SECONDS:g} s are needed"
    if calibrated and abs(llr - threshold) < MARGIN:
        return WEAK
    return None


def spoof_probability(llr: float, prior: float) -> float:
    """Return the probability of a spoof, given a calibrated LLR and the prior probability of one, above 0 below 1."""
    return float(1 / (1 + np.exp(np.clip(llr - to_threshold(prior), -700, 700))))


def to_threshold(prior: float) -> float:
    """Return the LLR from which bona fide is the likelier class at a prior probability of a spoof."""
    return math.log(prior / (1 - prior))
