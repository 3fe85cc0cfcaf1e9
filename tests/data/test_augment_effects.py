"""Speed, volume, added noise, rooms and RawBoost: levels, ratios and places stay as asked, whatever the folder."""

import numpy as np
import pytest
import soundfile
from scipy.signal import convolve, firwin

from corpus import SAMPLE_RATE_HZ, noise, touch
from hybrid_pruning.config import RawBoostConfig
from hybrid_pruning.data.augment import effects
from hybrid_pruning.data.augment.effects import (
    LONGEST_SECONDS,
    Noise,
    Reverberation,
    Speed,
    Volume,
    at_snr,
    fit,
    limit,
    list_folder,
    read_response,
    reverberate,
)
from hybrid_pruning.data.augment.rawboost import (
    RawBoost,
    add_convolutive_noise,
    add_impulsive_noise,
    add_stationary_noise,
    design_notch,
    draw_notches,
)
from hybrid_pruning.errors import InputError
from sounds import lag, level_db, power_db, rng, snr_db, tone, vowel, write_sounds


def pitch_hz(wave):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 16 * len(wave)))
    return float(spectrum.argmax() * SAMPLE_RATE_HZ / (16 * len(wave)))


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.97, 1.0, 1.1, 2.0])
def test_pitch_is_multiplied(factor):
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


NAMES = ("b/2.wav", "b/10.WAV", "a.flac", "Z.ogg", "b.wav")


def write(root, names):
    for index, name in enumerate(names):
        soundfile.write(touch(root, name) / name, noise(400 + index), SAMPLE_RATE_HZ)
    return root


def folder(path, *waves, rate=SAMPLE_RATE_HZ):
    return list_folder(write_sounds(path, list(waves), rate), "key")


def test_the_order_is_that_of_the_names(tmp_path):
    first, second = write(tmp_path / "1", NAMES), write(tmp_path / "2", NAMES[::-1])
    listed = list_folder(first, "key")
    assert listed.names == ("Z.ogg", "a.flac", "b.wav", "b/10.WAV", "b/2.wav") == list_folder(second, "key").names
    assert [len(listed), listed.path(1)] == [5, first / "a.flac"]
    assert listed.samples.tolist()[1:] == [402, 404, 401, 400]
    assert listed.samples[0] in {403, 512}, "FFmpeg gives out a Vorbis block that ends within a file whole"


def test_files_without_audio_are_left_out_with_a_warning(tmp_path, capsys):
    write(tmp_path, NAMES)
    (tmp_path / "README").write_text("not a recording")
    list_folder(tmp_path, "augment.noise.folder")
    assert capsys.readouterr().out == ""
    (tmp_path / "broken.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", noise(0), SAMPLE_RATE_HZ)
    assert len(list_folder(tmp_path, "augment.noise.folder")) == 5
    said = " ".join(capsys.readouterr().out.split())
    assert said == "augment.noise.folder: 2 of 7 files left out, no audio, e.g. broken.wav"


@pytest.mark.parametrize("name", ["missing", "file.wav", "empty"])
def test_a_folder_without_recordings_is_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "broken.wav").write_text("no audio")
    (tmp_path / "file.wav").touch()
    expected = rf"^augment.music.folder: .*{name} (is not a folder|holds no recording)[^\n]*$"
    with pytest.raises(InputError, match=expected):
        list_folder(tmp_path / name, "augment.music.folder")


def test_a_piece_is_a_piece_from_anywhere(tmp_path, monkeypatch):
    whole = np.arange(5000, dtype=np.float32) / 5000
    listed, asked, source, read = folder(tmp_path, whole), [], rng(), effects.read_audio
    monkeypatch.setattr(effects, "read_audio", lambda *given: asked.append(given) or read(*given))
    pieces = [listed.piece(0, 1000, source) for _ in range(50)]
    starts = [round(piece[0] * 5000) for piece in pieces]
    assert all(np.array_equal(piece, whole[start:][:1000]) for piece, start in zip(pieces, starts, strict=True))
    assert min(starts) < 400
    assert max(starts) > 3600
    assert {samples for _, _, samples in asked} == {1000}, "no more is read than is needed"
    short = noise(300)
    assert np.array_equal(folder(tmp_path / "short", short).piece(0, 1000, rng()), np.tile(short, 4)[:1000])


@pytest.mark.parametrize("rate", [16_000, 8_000, 44_100])
@pytest.mark.parametrize(("samples", "asked"), [(500, -5.0), (16_000, 12.5), (40_000, 0.0), (40_000, 40.0)])
def test_the_ratio_is_the_one_asked_for(tmp_path, rate, samples, asked):
    wave = vowel()
    noisy = Noise(folder(tmp_path, 0.01 * rng(1).standard_normal(samples), rate=rate), (asked, asked))(wave, rng())
    assert (noisy.dtype, len(noisy)) == (np.float32, len(wave))
    assert snr_db(wave, noisy) == pytest.approx(asked, abs=0.02)


def test_the_ratio_is_drawn_from_its_range(tmp_path):
    added, wave, source = Noise(folder(tmp_path, vowel(seed=1), vowel(seed=2)), (5.0, 15.0)), vowel(), rng()
    found = [snr_db(wave, added(wave, source)) for _ in range(60)]
    assert 4.98 < min(found) < 6.5
    assert 13.5 < max(found) < 15.02


def test_every_voice_of_babble_has_a_ratio_of_its_own(tmp_path):
    pitches = [300 * (index + 1) for index in range(10)]
    talkers = folder(tmp_path, *(tone(pitch, 20_000, peak=0.01) for pitch in pitches))
    wave, source, counts = vowel(), rng(), set()
    for _ in range(25):
        added = Noise(talkers, (13.0, 20.0), (3, 8))(wave, source) - wave
        # a tone at -x dB of the wave's power has a peak 3 dB above that
        levels = np.array([power_db(wave) + 3.01 - level_db(added, pitch) for pitch in pitches])
        heard = levels[levels < 40]
        counts.add(len(heard))
        assert (heard > 12.9).all(), "no recording twice"
        assert (heard < 20.1).all()
        assert np.ptp(heard) > 0.1
    assert counts == {3, 4, 5, 6, 7, 8}


def test_more_talkers_than_recordings(tmp_path):
    noisy = Noise(folder(tmp_path, vowel(seed=1), vowel(seed=2)), (10.0, 10.0), (5, 5))(vowel(), rng())
    assert 10 - 20 * np.log10(5) < snr_db(vowel(), noisy) < 10


def test_the_wave_given_keeps_its_level_and_silence_has_no_ratio(tmp_path):
    wave = tone(500)
    noisy = Noise(folder(tmp_path, tone(3000)), (0.0, 0.0))(wave, rng())
    assert np.array_equal(wave, tone(500))
    assert level_db(noisy, 500) == pytest.approx(level_db(wave, 500), abs=0.01)
    silence = np.zeros(8000, dtype=np.float32)
    assert not Noise(folder(tmp_path / "noise", vowel()), (0.0, 15.0))(silence, rng()).any()
    assert np.array_equal(Noise(folder(tmp_path / "silent", silence), (0.0, 15.0))(vowel(), rng()), vowel())


DIRECT = 137


def room(seed=0, samples=3000):
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
def test_direct_sound_and_energy_stay(seed):
    wave = vowel(seed=seed)
    wet = reverberate(wave, room(seed))
    assert lag(wave, wet) == 0
    assert power_db(wet) == pytest.approx(power_db(wave), abs=1e-3)
    assert not np.allclose(wet, wave, atol=0.01)


@pytest.mark.parametrize("factor", [1.0, -0.3])
def test_a_room_without_walls_changes_nothing_but_the_sign(factor):
    response = np.zeros(500, dtype=np.float32)
    response[77] = factor
    np.testing.assert_allclose(reverberate(vowel(), response), np.sign(factor) * vowel(), atol=1e-6)


def test_responses_are_drawn_from_the_folder(tmp_path):
    rooms = [room(seed) for seed in range(3)]
    reverberation = Reverberation(list_folder(write_sounds(tmp_path, rooms), "key"))
    wave, source = vowel(3000), rng()
    expected = [reverberate(wave, response) for response in rooms]
    found = [reverberation(wave, source) for _ in range(30)]
    seen = {index for wet in found for index, other in enumerate(expected) if np.array_equal(wet, other)}
    assert seen == {0, 1, 2}
    assert all(any(np.array_equal(wet, other) for other in expected) for wet in found)


def test_the_first_channel_is_taken_and_other_sample_rates_keep_the_direct_sound(tmp_path):
    soundfile.write(tmp_path / "two.wav", np.stack([room(0), room(1)], axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_response(tmp_path / "two.wav"), room(0))
    response = np.zeros(4800, dtype=np.float32)
    response[1500] = 1
    soundfile.write(tmp_path / "a.wav", response, 48_000, subtype="FLOAT")
    found = read_response(tmp_path / "a.wav")
    assert (len(found), int(found.argmax())) == (1600, 500)
    np.testing.assert_allclose(reverberate(tone(500), found), tone(500), atol=5e-3)


def test_memory_is_bounded(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.ones(10 * 8000), 8000)
    assert len(read_response(tmp_path / "long.wav")) == LONGEST_SECONDS * SAMPLE_RATE_HZ
    kept = read_response.cache_info().maxsize
    assert kept * LONGEST_SECONDS * SAMPLE_RATE_HZ * 4 < 30e6


@pytest.mark.parametrize("content", [b"no audio", b""])
def test_a_broken_response_is_one_line(tmp_path, content):
    (tmp_path / "broken.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.wav: cannot be decoded .*reverberation\.folder") as found:
        read_response(tmp_path / "broken.wav")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_response_must_respond(tmp_path, value):
    soundfile.write(tmp_path / "a.wav", np.full(100, value), SAMPLE_RATE_HZ, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: is no impulse response"):
        read_response(tmp_path / "a.wav")


config = RawBoostConfig
HARMLESS = {"notches": 1, "centre_hz": (7950, 7950), "width_hz": (50, 50), "taps": (11, 11)}
AT_3_KHZ = {"notches": 1, "centre_hz": (3000, 3000), "width_hz": (800, 800), "taps": (101, 101)}


def gain_db(taps, hertz):
    turn = np.exp(-2j * np.pi * hertz / SAMPLE_RATE_HZ * np.arange(len(taps)))
    return float(20 * np.log10(np.abs(np.sum(taps * turn)) + 1e-12))


@pytest.mark.parametrize(("low", "high"), [(1000, 2000), (3400, 4600), (6000, 7000)])
def test_a_notch_is_scipys_windowed_one(low, high):
    ours, theirs = design_notch(low, high, 101), firwin(101, (low, high), window="hamming", fs=SAMPLE_RATE_HZ)
    np.testing.assert_allclose(ours / ours.sum(), theirs, atol=1e-9)
    assert gain_db(ours, (low + high) / 2) < -40
    assert gain_db(ours, low - 500) == pytest.approx(0, abs=0.1)
    assert gain_db(ours, high + 500) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("low", "high", "cut", "kept"), [(-300, 1000, 0, 2000), (7000, 8400, 8000, 6000)])
def test_notches_at_the_edges_of_the_band(low, high, cut, kept):
    taps = design_notch(low, high, 101)
    assert gain_db(taps, cut) < -40
    assert gain_db(taps, kept) > -0.1


@pytest.mark.parametrize("seed", range(20))
def test_cascades_are_symmetric_with_a_largest_gain_of_one(seed):
    taps = draw_notches(config(), rng(seed))
    assert len(taps) % 2 == 1
    assert 5 * 10 < len(taps) <= 5 * 100 + 1
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-12)
    assert max(gain_db(taps, hertz) for hertz in range(0, 8001, 10)) == pytest.approx(0, abs=0.02)


def test_a_drawn_notch_changes_its_band_alone():
    taps = draw_notches(config(**AT_3_KHZ), rng())
    assert gain_db(taps, 3000) < -25
    assert gain_db(taps, 3800) > -0.3
    assert gain_db(taps, 2200) > -0.3
    wave = tone(1000) + tone(3000, peak=0.2)
    filtered = add_convolutive_noise(wave, config(order=1, **AT_3_KHZ), rng())
    middle = slice(200, -200)
    assert level_db(filtered[middle], 3000) - level_db(wave[middle], 3000) < -25
    np.testing.assert_allclose(filtered[middle], tone(1000)[middle], atol=0.02)


@pytest.mark.parametrize("loss", [5.0, 20.0])
def test_the_square_is_weaker_by_its_loss(loss):
    settings = config(order=2, nonlinear_loss_db=(loss, loss), **HARMLESS)
    distorted = add_convolutive_noise(tone(1000, peak=0.5), settings, rng())[200:-200]
    # the square of a tone of peak a is a tone of twice its frequency and peak a^2 / 2
    assert level_db(distorted, 2000) == pytest.approx(20 * np.log10(0.125) - loss, abs=0.2)
    assert level_db(distorted, 1000) == pytest.approx(20 * np.log10(0.5), abs=0.2)
    assert level_db(distorted, 3000) < -80


def test_the_order_is_the_highest_power():
    settings = config(order=5, nonlinear_loss_db=(5, 5), **HARMLESS)
    distorted = add_convolutive_noise(tone(1000, peak=1.0), settings, rng())[200:-200]
    assert level_db(distorted, 5000) > -40
    assert level_db(distorted, 6000) < -80
    linear = add_convolutive_noise(tone(1000), config(order=1, **HARMLESS), rng())[200:-200]
    assert level_db(linear, 2000) < -80


@pytest.mark.parametrize("seed", range(5))
def test_convolutive_noise_has_no_mean_and_no_delay(seed):
    wave = vowel(seed=seed)
    distorted = add_convolutive_noise(wave, config(), rng(seed))
    assert abs(distorted.mean()) < 1e-6
    assert abs(lag(wave, distorted)) <= 2


def test_impulses_hit_few_samples_in_proportion_to_themselves():
    wave, source, fractions = vowel(), rng(), []
    for _ in range(100):
        hit = add_impulsive_noise(wave, config(impulses=0.1, impulse_gain=2.0), source)
        changed = hit != wave
        fractions.append(changed.mean())
        ratio = np.abs(hit - wave)[changed] / np.abs(wave)[changed]
        assert ratio.max(initial=0) <= 2.0 + 1e-3
    assert 0.08 < max(fractions) <= 0.1
    assert min(fractions) < 0.02
    # the mean of |u1 u2| for two uniform numbers within -1 and 1 is 1/4
    assert ratio.mean() == pytest.approx(2.0 / 4, abs=0.1)


@pytest.mark.parametrize("asked", [10.0, 40.0])
def test_stationary_noise_has_its_ratio_and_its_notch(asked):
    wave = vowel(4 * SAMPLE_RATE_HZ)
    noisy = add_stationary_noise(wave, config(snr_db=(asked, asked), **AT_3_KHZ | {"width_hz": (1000, 1000)}), rng())
    assert snr_db(wave, noisy) == pytest.approx(asked, abs=0.02)
    power = np.abs(np.fft.rfft(noisy.astype(np.float64) - wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ)
    notch, rest = power[(hertz > 2900) & (hertz < 3100)].mean(), power[hertz > 4500].mean()
    assert 10 * np.log10(notch / rest) < -25


def side_by_side(wave, settings, source):
    filtered = limit(add_convolutive_noise(wave, settings, source))
    return limit(filtered + limit(add_impulsive_noise(wave, settings, source)))


LNL, ISD, SSI = add_convolutive_noise, add_impulsive_noise, add_stationary_noise
BY_NUMBER = {
    **{1: (LNL,), 2: (ISD,), 3: (SSI,), 4: (LNL, ISD, SSI), 5: (LNL, ISD), 6: (LNL, SSI), 7: (ISD, SSI)},
    8: (side_by_side,),
}


@pytest.mark.parametrize("number", BY_NUMBER)
def test_algorithms_are_numbered_as_in_the_public_code(number):
    settings, wave, source = config(algorithm=number), vowel() * 2, rng(3)  # so that full scale is reached
    found, expected = RawBoost(settings)(wave, rng(3)), wave
    for step in BY_NUMBER[number]:
        expected = limit(step(expected, settings, source))
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, RawBoost(settings)(wave, rng(4)))
    assert np.abs(found).max() <= 1
    assert np.array_equal(wave, vowel() * 2), "the wave given is left alone"

    for samples in (1, 30, 8000):
        assert not RawBoost(settings)(np.zeros(samples, dtype=np.float32), rng()).any()
        short = RawBoost(settings)(tone(700, samples), rng())
        assert len(short) == samples
        assert np.isfinite(short).all()
