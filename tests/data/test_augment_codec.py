"""Codecs do to a wave what their standards say, where it was; a missing tool is one line before training."""

from typing import get_args

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ
from hybrid_pruning.config import CodecConfig, CodecName
from hybrid_pruning.data.augment.codec import CODECS, NARROW_HZ, Codec, Ffmpeg, Sndfile, _measure_delays
from hybrid_pruning.errors import InputError
from sounds import band_db, lag, real_speech, rng, tone, vowel

MILLISECOND = SAMPLE_RATE_HZ // 1000
IN_MEMORY = [name for name, (_, coders) in CODECS.items() if isinstance(coders[0], Sndfile)]
NARROW = ["opus-nb", "mulaw", "alaw", "narrowband", "speex-nb", "amr-nb"]
FAITHFUL = ("opus", "mp3", "m4a", "g722", "mulaw", "alaw", "narrowband")  # to the waveform, not only to how it sounds


def build(name):
    try:
        return Codec((name,))
    except InputError as error:
        pytest.skip(str(error))


def test_the_recipe_has_them_all():
    assert set(CODECS) == set(get_args(CodecName))
    own = {"opus", "opus-nb", *IN_MEMORY}
    assert set(CodecConfig().codecs) == own, "the default needs nothing but libsndfile and PyAV's wheel"


@pytest.mark.parametrize("name", CODECS)
def test_length_and_place_stay(name):
    codec, wave = build(name), vowel(2 * SAMPLE_RATE_HZ)
    for setting in {0, len(codec.delays[name]) - 1}:
        coded = codec.recode(wave, name, setting)
        assert (coded.dtype, len(coded)) == (np.float32, len(wave))
        assert abs(lag(wave, coded)) <= 2 * MILLISECOND
        assert not np.array_equal(coded, wave)
        end = slice(-2000, None)
        assert np.std(coded[end]) > 0.3 * np.std(wave[end]), "the end is not cut off by the delay"


@pytest.mark.parametrize("name", CODECS)
def test_real_speech_stays_in_place(name):
    speech, codec = real_speech(), build(name)
    for setting in (0, len(codec.delays[name]) - 1):
        assert abs(lag(speech, codec.recode(speech, name, setting))) <= 3 * MILLISECOND


@pytest.mark.parametrize("name", NARROW)
def test_narrow_band_has_nothing_above_4_khz(name):
    wave = (0.1 * rng().standard_normal(SAMPLE_RATE_HZ)).astype(np.float32)
    coded = build(name).recode(wave, name, -1)
    assert band_db(wave, 4100, 8001) > -4
    assert band_db(coded, 4100, 8001) < -60
    assert band_db(coded, 300, 3300) > -2


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_settings_go_from_worst_to_best(name):
    codec, wave = build(name), vowel(2 * SAMPLE_RATE_HZ)
    errors = [np.std(codec.recode(wave, name, setting) - wave) for setting in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.5 * errors[-1]


@pytest.mark.parametrize("name", FAITHFUL)
def test_the_level_stays(name):
    wave = tone(600, 2 * SAMPLE_RATE_HZ)
    assert np.std(build(name).recode(wave, name, -1)) == pytest.approx(np.std(wave), rel=0.05)


SEGMENT, STEP = np.divmod(np.arange(128), 16)  # ITU-T G.711: 8 segments of 16 steps, each twice as wide (table 2a)
MULAW = (((2 * STEP + 33) << SEGMENT) - 33) * 4 / 32768
ALAW = np.where(SEGMENT == 0, 2 * STEP + 1, (2 * STEP + 33) << np.maximum(SEGMENT - 1, 0)) * 8 / 32768
"""Table 1a: the two lowest segments have equal steps."""


@pytest.mark.parametrize(("name", "levels", "bits"), [("mulaw", MULAW, 14), ("alaw", ALAW, 13)])
def test_g711_has_its_255_values_and_is_half_a_step_off_at_most(name, levels, bits):
    _, (coder,) = CODECS[name]
    wave, values = np.linspace(-0.97, 0.97, 20_001, dtype=np.float32), np.concatenate([-levels, levels])
    coded = coder(wave, NARROW_HZ)
    assert np.abs(coded[:, None] - values).min(1).max() < 1e-6
    assert len(np.unique(coded)) > 230
    levels = np.unique(values)
    steps = np.diff(levels, prepend=levels[0], append=levels[-1])
    place = np.abs(coded[:, None] - levels).argmin(1)
    half_a_step = np.maximum(steps[place], steps[place + 1]) / 2
    assert (np.abs(coded - wave) <= half_a_step + 2.0 ** (1 - bits)).all(), "the input is rounded to so many bits first"
    speech = 0.1 * tone(300)
    ratio = 20 * np.log10(np.std(speech) / np.std(coder(speech, NARROW_HZ) - speech))
    assert 34 < ratio < 40, "as good for soft speech as for loud"


@pytest.mark.parametrize(
    ("name", "delays"),  # MP3 has no room for the tag that tells the delay at low bit rates
    [("opus", {0, 2}), ("mp3", {0, 1105}), ("m4a", {1024}), ("g722", {22}), ("speex", {222}), ("amr-nb", {79})],
)
def test_delays_are_those_of_the_standards(name, delays):
    assert set(build(name).delays[name]) == delays


@pytest.mark.parametrize("name", [*IN_MEMORY, "m4a", "amr-nb"])
def test_the_same_every_time_and_no_trouble_with_extremes(name):
    codec, wave = build(name), vowel()
    assert np.array_equal(codec(wave, rng(5)), codec(wave, rng(5)))
    silence = codec(np.zeros(4000, dtype=np.float32), rng())
    assert np.abs(silence).max() < 1e-3
    assert len(codec(np.ones(1, dtype=np.float32), rng())) == 1
    loud = codec(4 * wave, rng())
    assert np.isfinite(loud).all()
    assert np.corrcoef(loud, wave)[0, 1] > 0.5, "scaled down, not clipped"


def test_codecs_and_settings_are_drawn():
    codec, wave, source = Codec(("mulaw", "alaw", "mp3")), vowel(4000), rng()
    settings = [(name, setting) for name in codec.names for setting in range(len(CODECS[name][1]))]
    expected = {codec.recode(wave, *setting).tobytes() for setting in settings}
    assert {codec(wave, source).tobytes() for _ in range(80)} == expected


def test_an_encoder_is_missing(monkeypatch):
    _measure_delays.cache_clear()
    monkeypatch.setitem(CODECS, "m4a", (SAMPLE_RATE_HZ, (Ffmpeg("no_such_encoder", "adts"),)))
    with pytest.raises(InputError, match=r"codecs: 'm4a' needs the encoder no_such_encoder, .*; leave it"):
        Codec(("mulaw", "m4a"))
    _measure_delays.cache_clear()


def test_libsndfile_is_too_old(monkeypatch):
    _measure_delays.cache_clear()
    monkeypatch.setattr(soundfile, "available_subtypes", {"MP3": {}}.get)
    with pytest.raises(InputError, match=r"'mp3' is not in libsndfile .*pip install --upgrade soundfile"):
        Codec(("mp3",))
