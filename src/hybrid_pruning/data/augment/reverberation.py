"""Reverberation: convolution with the impulse response of a room.

Source: Ko, Peddinti, Povey, Seltzer, Khudanpur, "A study on data augmentation of reverberant speech for robust speech
recognition", ICASSP 2017. Deviations from the public recipe, which cuts the convolution at the response's first sample
and scales the result to a peak of 1: here the direct sound stays where it was, and the energy what it was.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import fftconvolve

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.recordings import AudioFolder
from hybrid_pruning.data.augment.transform import Wave, mean_power
from hybrid_pruning.errors import InputError

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
    """Convolve [S] with an impulse response [R] whose highest peak is the direct sound, to [S] of the same energy."""
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
