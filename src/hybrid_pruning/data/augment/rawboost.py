"""RawBoost: distortions of telephony from signal processing alone, without recordings.

Source: Tak, Kamble, Patino, Todisco, Evans, "RawBoost: A Raw Data Boosting and Augmentation Method applied to Automatic
Speaker Verification Anti-Spoofing", ICASSP 2022, arXiv 2111.04433; values and the numbering of the algorithms are
those of its public code. Deviations: filters are centred exactly (there one sample late), and a notch that reaches
beyond 0 Hz or 8 kHz ends there.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.signal import oaconvolve

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.config import RawBoostConfig
from hybrid_pruning.data.augment.effects import Wave, amplitude, at_snr, limit

Filter = npt.NDArray[np.float64]
Step = Callable[[Wave, RawBoostConfig, np.random.Generator], Wave]

RESPONSE_POINTS = 4096
TINY = 1e-12


class RawBoost:
    """Distorts by one of the paper's algorithms."""

    def __init__(self, config: RawBoostConfig) -> None:
        self.config = config

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return the wave [S] distorted."""
        for step in ALGORITHMS[self.config.algorithm]:
            wave = limit(step(wave, self.config, rng))
        return wave


def add_convolutive_noise(wave: Wave, config: RawBoostConfig, rng: np.random.Generator) -> Wave:
    """LnL: filter the wave and its powers, each with notches of its own, and add them up; the powers are weaker."""
    total, powered = np.zeros(len(wave), dtype=np.float32), np.ones_like(wave)
    for power in range(1, config.order + 1):
        powered = powered * wave
        gain_db = rng.uniform(*config.gain_db) - (rng.uniform(*config.nonlinear_loss_db) if power > 1 else 0.0)
        total += filter_in_place(powered, draw_notches(config, rng) * amplitude(gain_db))
    return total - total.mean()  # even powers bring a mean


def add_impulsive_noise(wave: Wave, config: RawBoostConfig, rng: np.random.Generator) -> Wave:
    """ISD: hit some samples, drawn by lot, with noise in proportion to themselves."""
    count = int(len(wave) * rng.uniform(0, config.impulses))
    places = rng.choice(len(wave), count, replace=False)
    strength = rng.uniform(-1, 1, count) * rng.uniform(-1, 1, count)
    hit = wave.copy()
    hit[places] += (config.impulse_gain * strength * wave[places]).astype(np.float32)
    return hit


def add_stationary_noise(wave: Wave, config: RawBoostConfig, rng: np.random.Generator) -> Wave:
    """SSI: add white noise coloured by notches, at a signal-to-noise ratio drawn by lot."""
    noise = filter_in_place(rng.standard_normal(len(wave), dtype=np.float32), draw_notches(config, rng))
    return wave + at_snr(noise, wave, rng.uniform(*config.snr_db))


def add_both(wave: Wave, config: RawBoostConfig, rng: np.random.Generator) -> Wave:
    """LnL and ISD side by side: both distort the wave itself, and their results are added up."""
    return limit(add_convolutive_noise(wave, config, rng)) + limit(add_impulsive_noise(wave, config, rng))


ALGORITHMS: dict[int, tuple[Step, ...]] = {
    1: (add_convolutive_noise,),
    2: (add_impulsive_noise,),
    3: (add_stationary_noise,),
    4: (add_convolutive_noise, add_impulsive_noise, add_stationary_noise),
    5: (add_convolutive_noise, add_impulsive_noise),
    6: (add_convolutive_noise, add_stationary_noise),
    7: (add_impulsive_noise, add_stationary_noise),
    8: (add_both,),
}


def draw_notches(config: RawBoostConfig, rng: np.random.Generator) -> Filter:
    """Return a cascade of notches drawn by lot: [N] symmetric, N odd, with a largest gain of 1."""
    cascade = np.ones(1)
    for _ in range(config.notches):
        centre, width = rng.uniform(*config.centre_hz), rng.uniform(*config.width_hz)
        taps = int(rng.integers(config.taps[0], config.taps[1] + 1)) | 1
        cascade = np.convolve(cascade, design_notch(centre - width / 2, centre + width / 2, taps))
    response = np.abs(np.fft.rfft(cascade, max(RESPONSE_POINTS, len(cascade))))
    return cascade / max(float(response.max()), TINY)


def filter_in_place(wave: Wave, taps: Filter) -> Wave:
    """Return a wave [S] filtered by a symmetric filter [N], N odd, without delay."""
    # cut rather than mode="same", which would give the filter's length where that is the longer one
    return oaconvolve(wave, taps.astype(np.float32))[len(taps) // 2 :][: len(wave)]


def design_notch(low_hz: float, high_hz: float, taps: int) -> Filter:
    """Return a linear-phase filter [taps] that takes out a band: the ideal one under a Hamming window."""
    edges = np.clip([[low_hz], [high_hz]], 0, SAMPLE_RATE_HZ / 2) / (SAMPLE_RATE_HZ / 2)
    place = np.arange(taps) - taps // 2
    below_low, below_high = edges * np.sinc(edges * place)  # ideal low passes
    return np.asarray(np.hamming(taps) * ((place == 0) + below_low - below_high))
