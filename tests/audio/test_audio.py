"""Files of any kind become the same waveform, whole or in part."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import AudioFile, audio_samples, check_seconds, libsndfile, read_audio
from hybrid_pruning.errors import InputError


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray[Any, Any]:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


TOLERANCES = {  # by subtype, 1e-4 for all others
    **dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_III", "IMA_ADPCM"), 5e-2),
    **{"PCM_U8": 1e-2, "ALAW": 2e-2, "ULAW": 2e-2, "GSM610": 1e-1},
}
FORMATS = {
    "WAV": "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ALAW ULAW IMA_ADPCM GSM610",
    "WAVEX": "PCM_16 FLOAT",
    **dict.fromkeys(("RF64", "W64", "AIFF", "AU", "NIST"), "PCM_16"),
    **{"FLAC": "PCM_24", "CAF": "ALAC_16", "OGG": "VORBIS OPUS", "MP3": "MPEG_LAYER_III"},
}


@pytest.mark.parametrize(
    ("kind", "subtype"), [(kind, subtype) for kind, subtypes in FORMATS.items() for subtype in subtypes.split()]
)
def test_every_format_becomes_the_same_waveform(tmp_path: Path, kind: str, subtype: str):
    path = tmp_path / "named.wrongly"  # the content counts, not the name
    soundfile.write(path, tone(0.5, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, format=kind, subtype=subtype)
    found, expected = read_audio(path), tone(0.5, SAMPLE_RATE_HZ)[:, 0]
    assert found.dtype == np.float32
    assert len(found) == audio_samples(path)
    assert 0 <= len(found) - len(expected) < 1100, "ADPCM fills its last block"
    inner = slice(400, len(expected) - 400)  # lossy codecs blur the ends
    assert np.abs(found[: len(expected)] - expected)[inner].max() < TOLERANCES.get(subtype, 1e-4)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_every_rate_becomes_16_khz(tmp_path: Path, rate: int, channels: int):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5, rate, channels), rate)
    found, expected = read_audio(path), tone(0.5, SAMPLE_RATE_HZ)[:, 0]
    assert abs(len(found) - len(expected)) <= 1
    assert len(found) == audio_samples(path)
    assert np.abs(found[:7999] - expected[:7999])[400:-400].max() < 1e-3


@pytest.mark.parametrize("frames", [3, 9, 15, 21, 333, 96_003])
def test_half_a_sample_is_rounded_as_the_resampler_does(tmp_path: Path, frames: int):
    soundfile.write(tmp_path / "a.wav", noise(frames), 96_000)
    assert audio_samples(tmp_path / "a.wav") == len(read_audio(tmp_path / "a.wav")) == (frames + 3) // 6


def stereo(seconds: float = 6) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return channels, and the mono waveform to expect."""
    mono, other = tone(seconds, SAMPLE_RATE_HZ)[:, 0] + noise(round(seconds * SAMPLE_RATE_HZ)), noise(96_000, seed=9)
    late = np.where(np.arange(96_000) < 50_000, 1, -1)  # the plug is pulled half out
    return {
        "in phase": (np.stack([mono, 0.5 * mono], 1), 0.75 * mono),
        "one silent": (np.stack([0 * mono, mono], 1), mono / 2),
        "unrelated": (np.stack([other, noise(96_000)], 1), (other + noise(96_000)) / 2),
        "inverted": (np.stack([mono, -mono], 1), mono),
        "inverted and softer": (np.stack([-0.8 * mono, mono], 1), mono),
        "inverted on an offset": (np.stack([mono + 0.2, 0.2 - mono], 1), mono + 0.2),
        "inverted from somewhere on": (np.stack([mono, 0.9 * late * mono], 1), mono),
        "six, in pairs": (np.stack([mono, -mono, mono, -mono, mono / 2, -mono / 2], 1), mono),
    }


@pytest.mark.parametrize("kind", stereo())
def test_channels_do_not_cancel_out_and_a_part_is_still_the_slice(tmp_path: Path, kind: str):
    channels, expected = stereo()[kind]
    soundfile.write(tmp_path / "a.wav", channels / 2, SAMPLE_RATE_HZ, subtype="FLOAT")
    whole = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(whole, expected / 2, atol=1e-7)
    for start in (0, 30_000, 70_000):  # before and behind where it inverts
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", start, 5000), whole[start:][:5000])


def test_unusual_waves_are_no_fault(tmp_path: Path):
    clipped = np.clip(20 * tone(0.1, SAMPLE_RATE_HZ)[:, 0], -1, 1)
    for wave in (np.zeros(800), np.full(800, 0.25), clipped, noise(160), np.array([0.5])):
        soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE_HZ, subtype="FLOAT")
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), wave.astype(np.float32))


PARTS = [  # a part of them is the slice of the whole, exactly where nothing is resampled
    *(("WAV", subtype) for subtype in ("PCM_16", "ULAW", "GSM610", "MS_ADPCM")),
    *(("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
]
RATES = {
    "OPUS": (8_000, 12_000, 16_000, 24_000, 48_000),
    "MPEG_LAYER_III": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "PCM_16": (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000),
}


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, data: st.DataObject):
    kind, subtype = data.draw(st.sampled_from(PARTS))
    rate = data.draw(st.sampled_from(RATES[subtype]) if subtype in RATES else st.integers(8_000, 65_535))
    frames = data.draw(st.integers(rate // 4, rate + rate // 4))
    path = tmp_path / "a"
    soundfile.write(path, noise(frames, seed=frames), rate, format=kind, subtype=subtype)
    whole = read_audio(path)
    assert len(whole) == audio_samples(path)
    start = data.draw(st.integers(0, len(whole) - 1))
    samples = data.draw(st.none() | st.integers(1, len(whole)))
    part, expected = read_audio(path, start, samples), whole[start:][:samples]
    assert len(part) == len(expected)
    assert np.abs(part - expected).max() <= (1e-6 if rate != SAMPLE_RATE_HZ else 0)


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 44_100])
def test_the_last_page_of_a_vorbis_file_is_where_it_should_be(tmp_path: Path, rate: int):
    soundfile.write(tmp_path / "a.ogg", noise(13 * rate + 77), rate)
    whole = read_audio(tmp_path / "a.ogg")
    for start in range(len(whole) - 20_000, len(whole), 5555):
        np.testing.assert_allclose(read_audio(tmp_path / "a.ogg", start, 500), whole[start:][:500], atol=1e-6)


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 44_100])
def test_a_part_of_two_hours_is_decoded_alone(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch):
    decoded, read = list[int](), libsndfile._SoundFile.read
    monkeypatch.setattr(libsndfile._SoundFile, "read", lambda file, n, **how: decoded.append(n) or read(file, n, **how))
    mark = np.round(0.3 * 32767 * noise(rate)).astype("<i2")
    size, place = 2 * 3600 * rate * 2, 5000 * rate * 2  # bytes
    with (tmp_path / "long.wav").open("wb") as file:  # all but the mark takes no room on the disk
        file.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate,
                               2, 16, b"data", size))  # fmt: skip
        file.seek(44 + place)
        file.write(mark.tobytes())
        file.truncate(44 + size)
    with AudioFile(tmp_path / "long.wav") as audio:
        assert audio.samples == 2 * 3600 * SAMPLE_RATE_HZ
        part = audio.read(5000 * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
    soundfile.write(tmp_path / "short.wav", mark, rate, subtype="PCM_16")
    short = read_audio(tmp_path / "short.wav")
    np.testing.assert_allclose(part[600:-600], short[600:-600], atol=1e-6)
    assert sum(decoded) < 3 * rate


def test_a_flac_cut_between_two_frames_is_cut(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", noise(30_000), SAMPLE_RATE_HZ)
    data = (tmp_path / "a.flac").read_bytes()
    cuts = [place for place in range(100, len(data)) if data[place : place + 2] == b"\xff\xf8"]
    assert len(cuts) >= 5
    for place in cuts:
        (tmp_path / "b.flac").write_bytes(data[:place])
        with pytest.raises(InputError, match=r"b.flac: (is cut short or damaged: .* 30000 samples|cannot be decoded)"):
            read_audio(tmp_path / "b.flac")
        with pytest.raises(InputError, match=r"b.flac: (is cut short|cannot be decoded)"):
            read_audio(tmp_path / "b.flac", 29_000, 500)


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 44_100])
@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_states_no_length_and_is_whole(tmp_path: Path, size: int, rate: int):
    soundfile.write(tmp_path / "a.wav", noise(3000), rate)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    assert data[36:40] == b"data"
    whole = read_audio(tmp_path / "a.wav")
    data[4:8] = data[40:44] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), whole)
    assert audio_samples(tmp_path / "a.wav") == len(whole)


def test_seconds_are_compared_with_those_of_the_file():
    for seconds in (3.0, float("nan"), 3.19, 2.81):
        check_seconds("a.wav", 3 * SAMPLE_RATE_HZ, seconds)
    check_seconds("a.wav", 3600 * SAMPLE_RATE_HZ, 3630)  # 1% of an hour
    for seconds in (3.21, 1.5):
        with pytest.raises(InputError, match=r"a.wav: lasts 3.000 s, .* says"):
            check_seconds("a.wav", 3 * SAMPLE_RATE_HZ, seconds)
