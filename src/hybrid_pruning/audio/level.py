"""Whether a waveform can hold speech at all: silence, an offset and dither noise get a score as anything does."""

import numpy as np

from hybrid_pruning.audio.reading import SAMPLE_RATE_HZ, Wave

FRAME = SAMPLE_RATE_HZ // 50
FLOOR_DBFS = -70.0
"""The level of active speech is above it; the noise of 16 bits, at -90 to -96, is below."""
LEAST_FRAMES = 5
"""Frames that must be above it: a click is no speech."""
NO_SPEECH = f"holds no speech-like energy, nothing above {FLOOR_DBFS:g} dBFS"


def may_hold_speech(wave: Wave) -> bool:
    """Whether the root mean square of 100 ms of a wave, in frames of 20 ms less their means, is above the floor.

    Args:
        wave: [S] at 16 kHz; of a shorter one, all frames must be above it.
    """
    size = min(FRAME, len(wave))
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    loud = frames.std(axis=1, dtype=np.float64) > 10 ** (FLOOR_DBFS / 20)
    return bool(loud.sum() >= min(LEAST_FRAMES, len(frames)))
