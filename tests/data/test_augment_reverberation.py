"""Reverberation is convolution; the direct sound stays in place and the energy is kept."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import convolve

from corpus import SAMPLE_RATE_HZ
from hybrid_pruning.data.augment.effects import LONGEST_SECONDS, Reverberation, list_folder, read_response, reverberate
from hybrid_pruning.errors import InputError
from sounds import Wave, lag, power_db, rng, tone, vowel, write_sounds

DIRECT = 137


def room(seed: int = 0, samples: int = 3000) -> Wave:
    """An impulse response with something before its direct sound, as measured ones have."""
    response = 0.2 * rng(seed).standard_normal(samples) * np.exp(-np.arange(samples) / 800)
    response[:DIRECT] *= 0.05
    response[DIRECT] = 2.0
    return response.astype(np.float32)


def test_it_is_scipys_direct_convolution():
    wave, response = vowel(4000), room()
    whole = convolve(wave.astype(np.float64), response.astype(np.float64), method="direct")
    expected = whole[DIRECT : DIRECT + len(wave)]
    expected *= np.sqrt(np.mean(wave**2) / np.mean(expected**2))
    np.testing.assert_allclose(reverberate(wave, response), expected, atol=2e-6)
    assert not reverberate(np.zeros(4000, dtype=np.float32), room()).any()


@pytest.mark.parametrize("seed", range(5))
def test_direct_sound_and_energy_stay(seed: int):
    wave = vowel(seed=seed)
    wet = reverberate(wave, room(seed))
    assert lag(wave, wet) == 0
    assert power_db(wet) == pytest.approx(power_db(wave), abs=1e-3)
    assert not np.allclose(wet, wave, atol=0.01)


@pytest.mark.parametrize("factor", [1.0, -0.3])
def test_a_room_without_walls_changes_nothing_but_the_sign(factor: float):
    response = np.zeros(500, dtype=np.float32)
    response[77] = factor
    np.testing.assert_allclose(reverberate(vowel(), response), np.sign(factor) * vowel(), atol=1e-6)


def test_responses_are_drawn_from_the_folder(tmp_path: Path):
    rooms = [room(seed) for seed in range(3)]
    reverberation = Reverberation(list_folder(write_sounds(tmp_path, rooms), "key"))
    wave, source = vowel(3000), rng()
    expected = [reverberate(wave, response) for response in rooms]
    found = [reverberation(wave, source) for _ in range(30)]
    seen = {index for wet in found for index, other in enumerate(expected) if np.array_equal(wet, other)}
    assert seen == {0, 1, 2}
    assert all(any(np.array_equal(wet, other) for other in expected) for wet in found)


def test_the_first_channel_is_taken_and_other_sample_rates_keep_the_direct_sound(tmp_path: Path):
    soundfile.write(tmp_path / "two.wav", np.stack([room(0), room(1)], axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_response(tmp_path / "two.wav"), room(0))
    response = np.zeros(4800, dtype=np.float32)
    response[1500] = 1
    soundfile.write(tmp_path / "a.wav", response, 48_000, subtype="FLOAT")
    found = read_response(tmp_path / "a.wav")
    assert (len(found), int(found.argmax())) == (1600, 500)
    np.testing.assert_allclose(reverberate(tone(500), found), tone(500), atol=5e-3)


def test_what_is_kept_in_memory_is_bounded(tmp_path: Path):
    soundfile.write(tmp_path / "long.wav", np.ones(10 * 8000), 8000)
    assert len(read_response(tmp_path / "long.wav")) == LONGEST_SECONDS * SAMPLE_RATE_HZ
    kept = read_response.cache_info().maxsize
    assert kept is not None
    assert kept * LONGEST_SECONDS * SAMPLE_RATE_HZ * 4 < 30e6


@pytest.mark.parametrize("content", [b"no audio", b""])
def test_a_broken_response_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "broken.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.wav: cannot be decoded .*reverberation\.folder") as found:
        read_response(tmp_path / "broken.wav")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_response_must_respond(tmp_path: Path, value: float):
    soundfile.write(tmp_path / "a.wav", np.full(100, value), SAMPLE_RATE_HZ, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: is no impulse response"):
        read_response(tmp_path / "a.wav")
