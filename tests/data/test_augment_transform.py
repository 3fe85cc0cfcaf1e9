"""Speed changes pitch and time by its factor, volume the level by its gain; nothing else changes."""

import numpy as np
import pytest

from corpus import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.effects import Speed, Volume, at_snr, fit, limit
from sounds import Wave, power_db, rng, tone, vowel


def pitch_hz(wave: Wave) -> float:
    """The frequency of a tone, from its phase's advance."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 16 * len(wave)))
    return float(spectrum.argmax() * SAMPLE_RATE_HZ / (16 * len(wave)))


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.97, 1.0, 1.1, 2.0])
def test_pitch_is_multiplied(factor: float):
    faster = Speed((factor,))(tone(1000), rng())
    assert (faster.dtype, len(faster)) == (np.float32, SAMPLE_RATE_HZ)
    cut = faster[: round(SAMPLE_RATE_HZ / max(factor, 1)) - 100]  # before it is repeated
    assert pitch_hz(cut) == pytest.approx(1000 * factor, abs=0.5)
    for samples in (1, 7, 100, 48_001):
        wave = vowel(samples) if samples > 9 else np.ones(samples, np.float32)
        assert len(Speed((factor,))(wave, rng())) == samples


def test_slower_is_the_beginning_and_faster_is_repeated():
    beats = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    beats[1000::4000] = 0.5
    assert np.flatnonzero(Speed((0.8,))(beats, rng()) > 0.3).tolist() == [1250, 6250, 11250]
    assert np.flatnonzero(Speed((1.25,))(beats, rng()) > 0.3).tolist() == [800, 4000, 7200, 10400, 13600]

    speed, source, wave = Speed((0.9, 1.0, 1.1)), rng(), tone(1000)
    assert {round(pitch_hz(speed(wave, source)[:14_000]), -1) for _ in range(30)} == {900, 1000, 1100}


def test_gains_are_those_of_the_range():
    volume, source, wave = Volume((-18.0, 6.0)), rng(), vowel()
    gains = [power_db(volume(wave, source)) - power_db(wave) for _ in range(100)]
    assert -18.01 < min(gains) < -16
    assert 4 < max(gains) < 6.01
    np.testing.assert_allclose(Volume((6.0, 6.0))(wave, source), wave * 10 ** (6 / 20), rtol=1e-6)


def test_levels():
    noise, wave = rng().standard_normal(1000), tone(300, 1000)
    assert np.std(wave) / np.sqrt(np.mean(at_snr(noise, wave, 20.0) ** 2)) == pytest.approx(10, rel=1e-3)
    assert not at_snr(np.zeros(1000), wave, 10.0).any()
    assert np.array_equal(limit(np.zeros(0, dtype=np.float32)), np.zeros(0))
    assert [len(fit(wave, 10)), len(fit(wave, 2000)), fit(wave, 2000)[1000:].any()] == [10, 2000, False]
