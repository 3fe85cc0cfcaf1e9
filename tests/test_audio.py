"""Files of any kind become the same waveform, whole or in part."""

import contextlib
import shutil
import struct
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import AudioFile, audio_samples, check_seconds, ffmpeg, libsndfile, read_audio
from hybrid_pruning.errors import InputError

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray[Any, Any]:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def encode(source: Path, path: Path, *options: str) -> Path:
    """Encode a file as ffmpeg does."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(source), *options, str(path.absolute())]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a wandering tone in noise, as a WAV."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    time = np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    wave = 0.3 * np.sin(2 * np.pi * (200 + 100 * time) * time) + noise(len(time), seed=1) / 2
    soundfile.write(path, wave, SAMPLE_RATE_HZ)
    return path


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-4),
        ("WAV", "PCM_32", 1e-4),
        ("WAV", "FLOAT", 1e-4),
        ("WAV", "DOUBLE", 1e-4),
        ("WAV", "ALAW", 2e-2),
        ("WAV", "ULAW", 2e-2),
        ("WAV", "IMA_ADPCM", 5e-2),
        ("WAV", "GSM610", 1e-1),
        ("WAVEX", "PCM_16", 1e-4),
        ("WAVEX", "FLOAT", 1e-4),
        ("RF64", "PCM_16", 1e-4),
        ("W64", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
        ("AU", "PCM_16", 1e-4),
        ("CAF", "ALAC_16", 1e-4),
        ("NIST", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 5e-2),
        ("OGG", "OPUS", 5e-2),
        ("MP3", "MPEG_LAYER_III", 5e-2),
    ],
)
def test_every_format_becomes_the_same_waveform(tmp_path: Path, kind: str, subtype: str, tolerance: float):
    path = tmp_path / "named.wrongly"  # what it is, not what it is called
    soundfile.write(path, tone(0.5, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, format=kind, subtype=subtype)
    found, expected = read_audio(path), tone(0.5, SAMPLE_RATE_HZ)[:, 0]
    assert found.dtype == np.float32
    assert len(found) == audio_samples(path)
    assert 0 <= len(found) - len(expected) < 1100, "ADPCM fills its last block"
    inner = slice(400, len(expected) - 400)  # lossy codecs blur the ends
    assert np.abs(found[: len(expected)] - expected)[inner].max() < tolerance


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


def test_channels_are_averaged(tmp_path: Path):
    stereo = noise(500, channels=2)
    soundfile.write(tmp_path / "a.wav", stereo, SAMPLE_RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), stereo.mean(1), atol=1e-7)


@pytest.mark.parametrize("name", ["silence", "constant", "clipped", "ten milliseconds", "one sample"])
def test_what_is_unusual_is_no_fault(tmp_path: Path, name: str):
    waves = {
        "silence": np.zeros(800),
        "constant": np.full(800, 0.25),
        "clipped": np.clip(20 * tone(0.1, SAMPLE_RATE_HZ)[:, 0], -1, 1),
        "ten milliseconds": noise(160),
        "one sample": np.array([0.5]),
    }
    soundfile.write(tmp_path / "a.wav", waves[name], SAMPLE_RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), waves[name].astype(np.float32))


PARTS = {  # format, subtype -> largest difference between a part and the slice of the whole, nothing resampled
    ("WAV", "PCM_16"): 0.0,
    ("WAV", "ULAW"): 0.0,
    ("WAV", "GSM610"): 0.0,
    ("WAV", "MS_ADPCM"): 0.0,
    ("FLAC", "PCM_16"): 0.0,
    ("OGG", "VORBIS"): 0.0,
    ("OGG", "OPUS"): 5e-3,
    ("MP3", "MPEG_LAYER_III"): 5e-7,
}
RATES = {
    "OPUS": (8_000, 12_000, 16_000, 24_000, 48_000),
    "MPEG_LAYER_III": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "PCM_16": (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000),
}


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, data: st.DataObject):
    kind, subtype = data.draw(st.sampled_from(sorted(PARTS)))
    rate = data.draw(st.sampled_from(RATES[subtype]) if subtype in RATES else st.integers(8_000, 65_535))
    frames = data.draw(st.integers(rate // 4, 3 * rate))
    path = tmp_path / "a"
    soundfile.write(path, noise(frames, seed=frames), rate, format=kind, subtype=subtype)
    whole = read_audio(path)
    assert len(whole) == audio_samples(path)
    start = data.draw(st.integers(0, len(whole) - 1))
    samples = data.draw(st.none() | st.integers(1, len(whole)))
    part, expected = read_audio(path, start, samples), whole[start:][:samples]
    assert len(part) == len(expected)
    assert np.abs(part - expected).max() <= PARTS[kind, subtype] + (1e-6 if rate != SAMPLE_RATE_HZ else 0)


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 44_100])
def test_the_last_page_of_a_vorbis_file_is_where_it_should_be(tmp_path: Path, rate: int):
    soundfile.write(tmp_path / "a.ogg", noise(13 * rate + 77), rate)
    whole = read_audio(tmp_path / "a.ogg")
    for start in range(len(whole) - 20_000, len(whole), 1111):
        np.testing.assert_allclose(read_audio(tmp_path / "a.ogg", start, 500), whole[start:][:500], atol=1e-6)


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 44_100])
def test_a_part_of_two_hours_is_decoded_alone(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch):
    decoded = []
    read = libsndfile._SoundFile.read

    def count(self: Any, frames: int, **options: Any) -> Any:
        decoded.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(libsndfile._SoundFile, "read", count)
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


def test_parts_of_an_mp3_are_decoded_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    wave = 0.3 * np.sin(0.05 * np.arange(96_000)) + noise(96_000) / 2
    soundfile.write(tmp_path / "a.mp3", wave, SAMPLE_RATE_HZ)
    for start in range(0, 90_000, 3000):
        read_audio(tmp_path / "a.mp3", start, 2000)
    assert capfd.readouterr() == ("", "")


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


def test_an_ogg_that_lost_a_page_is_damaged(tmp_path: Path):
    soundfile.write(tmp_path / "a.ogg", noise(6 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    data = (tmp_path / "a.ogg").read_bytes()
    pages = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    (tmp_path / "a.ogg").write_bytes(data[: pages[3]] + data[pages[4] :])
    with pytest.raises(InputError, match=r"a.ogg: is cut short or damaged: its header promises 96000 samples"):
        read_audio(tmp_path / "a.ogg")


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.m4a", ("-b:a", "64k"), 0.1),
        ("alac.m4a", ("-c:a", "alac"), 1e-4),
        ("a.aac", ("-b:a", "64k"), None),  # padded in front, and says nowhere by how much
        ("a.webm", ("-c:a", "libopus", "-b:a", "64k"), None),
        ("a.wma", ("-c:a", "wmav2"), None),
        ("stereo.m4a", ("-c:a", "alac", "-ac", "2", "-ar", "44100"), None),
        ("-i.m4a", ("-c:a", "alac"), 1e-4),
        ("http:x.m4a", ("-c:a", "alac", "-f", "ipod"), 1e-4),
        ("%d 'a\" $(b).m4a", ("-c:a", "alac", "-f", "ipod"), 1e-4),
    ],
)
def test_the_rest_goes_through_ffmpeg(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: tuple[str, ...], tolerance: float
):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    shutil.move(encode(speech, tmp_path / f"encoded{path.suffix}", *options), path)
    found, expected = read_audio(path), read_audio(speech)
    assert abs(len(found) - len(expected)) < 0.2 * SAMPLE_RATE_HZ
    if tolerance is not None:
        assert np.abs(found[: len(expected)] - expected)[2000:-2000].max() < tolerance
    with AudioFile(path) as audio:
        assert audio.samples == len(found)
        np.testing.assert_array_equal(audio.read(20_000, 5000), found[20_000:25_000])
    np.testing.assert_array_equal(read_audio(path, 20_000, 5000), found[20_000:25_000])


@needs_ffmpeg
def test_what_is_too_long_to_keep_is_decoded_again(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hybrid_pruning.audio.reading.REMEMBERED", SAMPLE_RATE_HZ)
    path = encode(speech, tmp_path / "a.m4a")
    whole = read_audio(path)
    with AudioFile(path) as audio:
        assert audio.samples == len(whole)
        np.testing.assert_array_equal(audio.read(20_000, 5000), whole[20_000:25_000])
        np.testing.assert_array_equal(audio.read(1000, 500), whole[1000:1500])


@needs_ffmpeg
def test_amr_telephone_speech(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (100, 31), dtype=np.uint8)  # of 20 ms at 12.2 kbit/s
    body = b"".join(b"\x3c" + frame.tobytes() for frame in frames)
    (tmp_path / "a.amr").write_bytes(b"#!AMR\n" + body)
    assert len(read_audio(tmp_path / "a.amr")) == 2 * SAMPLE_RATE_HZ


@needs_ffmpeg
@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile speech.wav\n", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nspeech.wav\n"],
    ids=["concat", "m3u"],
)
def test_a_playlist_that_calls_itself_audio_opens_nothing(speech: Path, text: str):
    path = speech.with_name("playlist.m4a")
    path.write_text(text)
    with pytest.raises(InputError, match=r"playlist.m4a: cannot be decoded .it is text, .*; check"):
        read_audio(path)
    with pytest.raises(InputError, match=r"playlist.m4a: cannot be decoded .*whitelist"):
        ffmpeg.Stream(path)


def test_without_ffmpeg_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ffmpeg, "find_programs", lambda: ())
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(64))
    with pytest.raises(InputError, match=r"a.m4a: cannot be decoded .*m4a, aac and amr, needs .*apt install ffmpeg"):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 44_100])
@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_does_not_know_its_length_and_is_whole(tmp_path: Path, size: int, rate: int):
    soundfile.write(tmp_path / "a.wav", noise(3000), rate)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    assert data[36:40] == b"data"
    whole = read_audio(tmp_path / "a.wav")
    data[4:8] = data[40:44] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), whole)
    assert audio_samples(tmp_path / "a.wav") == len(whole)


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["wav", "-rf64 always -f wav", "flac", "ogg", "opus", "mp3", "au", "aiff", "w64"])
def test_what_ffmpeg_writes_to_a_pipe_is_whole(speech: Path, tmp_path: Path, kind: str):
    options = kind.split() if " " in kind else ["-f", kind]
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", str(speech), *options, "pipe:1"]
    (tmp_path / "a").write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    whole = read_audio(tmp_path / "a")
    assert abs(len(whole) - 3 * SAMPLE_RATE_HZ) < 0.1 * SAMPLE_RATE_HZ
    with AudioFile(tmp_path / "a") as audio:
        assert abs(audio.samples - len(whole)) < 0.1 * SAMPLE_RATE_HZ
        np.testing.assert_allclose(audio.read(30_000, 500), whole[30_000:30_500], atol=5e-3)


@pytest.mark.parametrize(
    ("seconds", "fine"), [(3.0, True), (float("nan"), True), (3.19, True), (2.81, True), (3.21, False), (1.5, False)]
)
def test_seconds_are_compared_with_what_is_there(seconds: float, fine: bool):
    with contextlib.nullcontext() if fine else pytest.raises(InputError, match=r"a.wav: lasts 3.000 s, .* says"):
        check_seconds("a.wav", 3 * SAMPLE_RATE_HZ, seconds)
    check_seconds("a.wav", 3600 * SAMPLE_RATE_HZ, 3630)  # 1% of an hour


def test_the_package_comes_after_the_path(monkeypatch: pytest.MonkeyPatch):
    def no_program() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    package = ModuleType("imageio_ffmpeg")
    package.__spec__ = ModuleSpec("imageio_ffmpeg", None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)
    monkeypatch.setattr(shutil, "which", {"ffmpeg": "/usr/bin/ffmpeg"}.get)
    monkeypatch.setattr(package, "get_ffmpeg_exe", lambda: "/package/ffmpeg", raising=False)
    assert ffmpeg.find_programs.__wrapped__() == ("/usr/bin/ffmpeg", "/package/ffmpeg")
    monkeypatch.setattr(package, "get_ffmpeg_exe", no_program)
    assert ffmpeg.find_programs.__wrapped__() == ("/usr/bin/ffmpeg",)
