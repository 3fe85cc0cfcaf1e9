"""Speed changes pitch and time by its factor, volume the level by its gain; nothing else changes."""

import numpy as np
import pytest

from corpus import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.transform import Speed, Volume
from sounds import Wave, power_db, rng, tone, vowel


def pitch_hz(wave: Wave) -> float:
    """The frequency of a tone, from its phase's advance."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 16 * len(wave)))
    return float(spectrum.argmax() * SAMPLE_RATE_HZ / (16 * len(wave)))


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.97, 1.0, 1.1, 2.0])
def test_pitch_is_multiplied(factor: float):
    faster = Speed((factor,))(tone(1000), rng())
    assert faster.dtype == np.float32
    assert len(faster) == SAMPLE_RATE_HZ
    cut = faster[: round(SAMPLE_RATE_HZ / max(factor, 1)) - 100]  # before it is repeated
    assert pitch_hz(cut) == pytest.approx(1000 * factor, abs=0.5)


def test_slower_is_the_beginning_and_faster_is_repeated():
    beats = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    beats[1000::4000] = 0.5
    slower = Speed((0.8,))(beats, rng())
    assert np.flatnonzero(slower > 0.3).tolist() == [1250, 6250, 11250]
    faster = Speed((1.25,))(beats, rng())
    assert np.flatnonzero(faster > 0.3).tolist() == [800, 4000, 7200, 10400, 13600]


def test_every_factor_is_drawn():
    speed, source, wave = Speed((0.9, 1.0, 1.1)), rng(), tone(1000)
    found = {round(pitch_hz(speed(wave, source)[:14_000]), -1) for _ in range(30)}
    assert found == {900, 1000, 1100}


@pytest.mark.parametrize("samples", [1, 7, 100, 48_001])
def test_any_length_stays(samples: int):
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert len(Speed((factor,))(vowel(samples) if samples > 9 else np.ones(samples, np.float32), rng())) == samples


def test_gains_are_those_of_the_range():
    volume, source, wave = Volume((-18.0, 6.0)), rng(), vowel()
    gains = [power_db(volume(wave, source)) - power_db(wave) for _ in range(100)]
    assert -18.01 < min(gains) < -16
    assert 4 < max(gains) < 6.01
    louder = Volume((6.0, 6.0))(wave, source)
    np.testing.assert_allclose(louder, wave * 10 ** (6 / 20), rtol=1e-6)
