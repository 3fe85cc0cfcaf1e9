"""Noise stands where it was asked to: by its power, its voices, and nothing but the generator."""

from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning.data.augment.recordings import Noise, list_folder
from sounds import level_db, power_db, rng, snr_db, tone, vowel, write_sounds

RATES = (16_000, 8_000, 44_100)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [500, 16_000, 40_000])
@pytest.mark.parametrize("asked", [-5.0, 0.0, 12.5, 40.0])
def test_the_ratio_is_the_one_asked_for(tmp_path: Path, rate: int, samples: int, asked: float):
    recordings = list_folder(write_sounds(tmp_path, [0.01 * rng(1).standard_normal(samples)], rate), "key")
    wave = vowel()
    noisy = Noise(recordings, (asked, asked))(wave, rng())
    assert noisy.dtype == np.float32
    assert len(noisy) == len(wave)
    assert snr_db(wave, noisy) == pytest.approx(asked, abs=0.02)


def test_the_ratio_is_drawn_from_its_range(tmp_path: Path):
    noise = Noise(list_folder(write_sounds(tmp_path, [vowel(seed=1), vowel(seed=2)]), "key"), (5.0, 15.0))
    wave, source = vowel(), rng()
    found = [snr_db(wave, noise(wave, source)) for _ in range(60)]
    assert 4.98 < min(found) < 6.5
    assert 13.5 < max(found) < 15.02


def test_every_voice_of_babble_has_a_ratio_of_its_own(tmp_path: Path):
    pitches = [300 * (index + 1) for index in range(10)]
    voices = list_folder(write_sounds(tmp_path, [tone(pitch, 20_000, peak=0.01) for pitch in pitches]), "key")
    wave, source, counts = vowel(), rng(), set()
    for _ in range(60):
        added = Noise(voices, (13.0, 20.0), (3, 8))(wave, source) - wave
        # a tone at -x dB of the wave's power has a peak 3 dB above that
        levels = np.array([power_db(wave) + 3.01 - level_db(added, pitch) for pitch in pitches])
        heard = levels[levels < 40]
        counts.add(len(heard))
        assert (heard > 12.9).all(), "no recording twice"
        assert (heard < 20.1).all()
        assert np.ptp(heard) > 0.1
    assert counts == {3, 4, 5, 6, 7, 8}


def test_more_voices_than_recordings(tmp_path: Path):
    voices = list_folder(write_sounds(tmp_path, [vowel(seed=1), vowel(seed=2)]), "key")
    wave = vowel()
    noisy = Noise(voices, (10.0, 10.0), (5, 5))(wave, rng())
    assert 10 - 20 * np.log10(5) < snr_db(wave, noisy) < 10


def test_the_wave_given_is_left_alone_and_keeps_its_level(tmp_path: Path):
    noise = Noise(list_folder(write_sounds(tmp_path, [tone(3000)]), "key"), (0.0, 0.0))
    wave = tone(500)
    noisy = noise(wave, rng())
    assert np.array_equal(wave, tone(500))
    assert level_db(noisy, 500) == pytest.approx(level_db(wave, 500), abs=0.01)


def test_silence_has_no_ratio(tmp_path: Path):
    silence = np.zeros(8000, dtype=np.float32)
    recordings = list_folder(write_sounds(tmp_path / "noise", [vowel()]), "key")
    assert not Noise(recordings, (0.0, 15.0))(silence, rng()).any()
    silent = list_folder(write_sounds(tmp_path / "silent", [silence]), "key")
    assert np.array_equal(Noise(silent, (0.0, 15.0))(vowel(), rng()), vowel())
