"""A file of any container is read whole or refused: joined and chained, tagged and streamed, cut short and damaged."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import AudioFile, audio_samples, read_audio
from hybrid_pruning.errors import InputError
from sounds import Wave, encode, tone

FORMATS = {  # container, codec, rate, and whether the header, or the layout, shows every cut
    "a.m4a": ("ipod", "aac", 44_100, True),
    "alac.m4a": ("ipod", "alac", 16_000, True),
    "fragments.mp4": ("mp4", "aac", 16_000, False),
    "a.3gp": ("3gp", "libopencore_amrnb", 8_000, True),
    "a.amr": ("amr", "libopencore_amrnb", 8_000, False),
    "a.aac": ("adts", "aac", 16_000, False),
    "a.webm": ("webm", "libopus", 48_000, True),
    "a.mka": ("matroska", "aac", 16_000, True),
    "a.wma": ("asf", "wmav2", 16_000, True),
    "a.ogg": ("ogg", "vorbis", 22_050, True),
    "a.opus": ("ogg", "libopus", 16_000, True),
    "flac.oga": ("ogg", "flac", 16_000, True),
    "a.mp3": ("mp3", "libmp3lame", 24_000, True),
    "a.mp2": ("mp2", "mp2", 16_000, True),
    "mp3.wav": ("wav", "libmp3lame", 16_000, True),
    "a.wv": ("wv", "wavpack", 16_000, True),
    "a.ac3": ("ac3", "ac3", 32_000, False),
    "a.avi": ("avi", "libmp3lame", 16_000, False),
}


def speech(rate: int, seconds: float = 1.0, channels: int = 1, seed: int = 0) -> Wave:
    wave = tone(300, round(seconds * rate), 0.3) + noise(round(seconds * rate), seed=seed) / 5
    return wave if channels == 1 else np.repeat(wave[:, None], channels, 1)


def content(name: str) -> bytes:
    container, codec, rate, _ = FORMATS[name]
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"PyAV {av.__version__} has no encoder {codec} to make {name} with")
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"} if container == "mp4" else {}
    return encode(speech(rate, channels=2 if codec == "vorbis" else 1), container, codec, rate, **options)


def read(folder: Path, data: bytes, *part: int) -> tuple[Wave, int, Wave]:
    """Return the whole of a file with some content, its length, and a part of it."""
    (folder / "a").write_bytes(data)
    return read_audio(folder / "a"), audio_samples(folder / "a"), read_audio(folder / "a", *part)


def attempt(path: Path) -> Wave | str:
    """Return a file's audio, or the one line of the error."""
    try:
        return read_audio(path)
    except InputError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FORMATS)
def test_whole_in_part_and_never_cut_or_damaged(tmp_path: Path, name: str):
    path, data = tmp_path / "named.wrongly", content(name)
    path.write_bytes(data)
    whole = read_audio(path)
    assert 0.95 * SAMPLE_RATE_HZ < len(whole) < 1.12 * SAMPLE_RATE_HZ
    assert audio_samples(path) == len(whole)
    with AudioFile(path) as audio:  # on, and back
        for start in (9000, 3001, 9000):
            np.testing.assert_array_equal(audio.read(start, 2000), whole[start:][:2000])
    np.testing.assert_array_equal(read_audio(path, 5000, 2000), whole[5000:7000])
    refused = 0
    sizes = range(len(data) // 3, len(data) - 150, len(data) // 29)
    for size in sizes:
        path.write_bytes(data[:size])
        found = attempt(path)
        refused += isinstance(found, str)
        assert isinstance(found, str) or len(found) < len(whole) or name == "a.avi", "whose index alone is lost"
    assert refused == len(sizes) if FORMATS[name][3] else refused > len(sizes) // 2
    middle = len(data) // 2
    for hole in (b"\x55" * 400, bytes(len(data) - middle)):
        if name in {"a.amr", "a.3gp", "a.avi"}:  # any bytes are speech to AMR; AVI goes on behind the hole
            continue
        path.write_bytes(data[:middle] + hole + data[middle + len(hole) :])
        with pytest.raises(InputError, match=r"named.wrongly: (cannot be decoded|is cut short|is damaged)"):
            read_audio(path)


def id3(content: bytes) -> bytes:
    size = len(content)
    return b"ID3\3\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + content


def ape() -> bytes:
    """Return an APE tag: header, an item, and the header again."""
    head = b"APETAGEX" + struct.pack("<IIII", 2000, 96, 1, 0xA0000000) + bytes(8)
    return head + b"item" * 16 + head[:20] + struct.pack("<I", 0x80000000) + bytes(8)


def mp3(rate: int = 24_000, channels: int = 1, mode: str = "CONSTANT", seed: int = 0) -> bytes:
    """Return a second of MP3 as libsndfile writes it, with an encoder's frame in front that states its length."""
    buffer, wave = io.BytesIO(), speech(rate, channels=channels, seed=seed)
    soundfile.write(buffer, wave, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return buffer.getvalue()


def bare(data: bytes) -> bytes:
    """Return an MP3 without that frame: nothing states its length."""
    return data[data.index(data[:2], 4) :]


COVER, V1 = np.random.default_rng(0).bytes(40_000), b"TAG" + bytes(125)
JOINED: dict[str, tuple[Callable[[], bytes], float]] = {  # and their seconds
    "a large tag": (lambda: id3(COVER * 60) + mp3(), 1),
    "two tags": (lambda: id3(COVER) + id3(b"\0" * 9) + mp3(), 1),
    "a tag that is no UTF-8": (lambda: id3(b"TIT2\0\0\0\5\0\0\0\xff\xfe\xe9\xd8" + bytes(50)) + bare(mp3()), 1),
    "tags of all kinds": (lambda: id3(COVER) + mp3() + ape() + V1, 1),
    "a tag at the end": (lambda: mp3() + id3(COVER), 1),
    "varying bit rate, bare": (lambda: bare(mp3(mode="VARIABLE")), 1),
    "a stream that began before": (lambda: bare(bare(bare(mp3(mode="VARIABLE")))), 1),
    "three joined": (lambda: mp3() + mp3(seed=1) + mp3(seed=2), 3),
    "joined, bare": (lambda: bare(mp3()) + bare(mp3(mode="VARIABLE")), 2),
    "joined with tags": (lambda: id3(COVER) + mp3() + V1 + id3(COVER) + mp3() + ape() + id3(COVER) + mp3() + V1, 3),
    "joined of other rates and channels": (lambda: mp3() + mp3(16_000, 2) + mp3(44_100), 3),
}


CUT_MP3S: list[Callable[[], bytes]] = [
    lambda: mp3()[:-30],
    lambda: bare(mp3())[:-30],
    lambda: mp3()[:-900],
    lambda: mp3() + mp3()[:-30],
    lambda: mp3()[:-100] + mp3(),
    lambda: id3(COVER) + mp3()[:-400] + id3(COVER) + mp3(),
    lambda: id3(COVER)[:-9000],
    lambda: id3(COVER),
]


def pages(data: bytes) -> list[bytes]:
    places = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    return [data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)]


def without_end(data: bytes) -> bytes:
    """Return an Ogg whose last page is not marked as the end, its checksum right."""
    *front, last = pages(data)
    page, value = bytearray(last), 0
    page[5] &= ~4
    page[22:26] = bytes(4)
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", value)
    return b"".join(front) + bytes(page)


def ogg(codec: str = "vorbis", rate: int = 16_000, channels: int = 2, seconds: float = 1.0) -> bytes:
    return encode(speech(rate, seconds, channels), "ogg", codec, rate)


CHAINED: dict[str, tuple[Callable[[], bytes], float]] = {
    "Vorbis": (lambda: ogg() + ogg(seconds=2), 3),
    "one serial number": (lambda: 2 * ogg(), 2),
    "Opus": (lambda: ogg("libopus") + ogg("libopus"), 2),
    "other rate": (lambda: ogg(rate=16_000) + ogg(rate=44_100), 2),
    "other channels": (lambda: ogg("libopus", channels=1) + ogg("libopus"), 2),
    "FLAC": (lambda: ogg("flac") + ogg("flac"), 2),
    "no end": (lambda: without_end(ogg("libopus")), 1),
    "chained without ends": (lambda: without_end(ogg("libopus")) + without_end(ogg("libopus")), 2),
    "a tag behind": (lambda: ogg() + V1, 1),
    "a broadcast from its middle on": (lambda: b"".join(p for i, p in enumerate(pages(ogg(seconds=6))) if i != 2), 5),
}


CUT_OGGS: list[Callable[[], bytes]] = [
    lambda: b"".join(page for index, page in enumerate(pages(ogg(seconds=6))) if index != 4),
    lambda: without_end(ogg(seconds=6))[:-100],
    lambda: (data := ogg(seconds=6)) + data[: len(data) // 2],
    lambda: ogg(seconds=6) + b"Ogg",
    lambda: without_end(ogg(seconds=6)) + bytes(9000),
    lambda: (data := ogg(seconds=6))[:5000] + b"\x55" + data[5001:],
]


@pytest.mark.parametrize(("make", "seconds"), (JOINED | CHAINED).values(), ids=(JOINED | CHAINED).keys())
def test_mp3s_and_oggs_of_every_form_are_whole(tmp_path: Path, make: Callable[[], bytes], seconds: float):
    whole, length, part = read(tmp_path, make(), 9000, 9000)
    over = len(whole) / SAMPLE_RATE_HZ - seconds  # each part of an MP3 has the encoder's padding
    assert -0.05 < over < 0.1 * seconds if (make, seconds) in JOINED.values() else abs(over) <= 0.08 * seconds
    assert length == len(whole)
    np.testing.assert_array_equal(part, whole[9000:18_000])


@pytest.mark.parametrize("make", [*CUT_MP3S, *CUT_OGGS])
def test_mp3s_and_oggs_that_are_not_whole_are_refused(tmp_path: Path, make: Callable[[], bytes]):
    with pytest.raises(InputError, match=r"a: (is cut short|cannot be decoded|is damaged)"):
        read(tmp_path, make())


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *((kind, "PCM_16") for kind in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "RIFX")),
        *(("WAV", "MS_ADPCM"), ("WAVEX", "FLOAT"), ("CAF", "ALAC_16")),
    ],
)
def test_a_cut_is_found_by_the_header(tmp_path: Path, kind: str, subtype: str):
    form = {"format": "WAV", "endian": "BIG"} if kind == "RIFX" else {"format": kind}
    soundfile.write(tmp_path / "a", noise(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, subtype, **form)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data + (bytes(1000) if kind not in {"FLAC", "NIST"} else b""))
    assert len(read_audio(tmp_path / "a")) == pytest.approx(SAMPLE_RATE_HZ, abs=600), (
        "bytes behind the audio do not count"
    )
    for size in (len(data) - 100, len(data) * 9 // 10, len(data) // 2):
        (tmp_path / "a").write_bytes(data[:size])
        with pytest.raises(InputError, match=r"a: (is cut short|cannot be decoded)"):
            read_audio(tmp_path / "a")


class Pipe:
    """A file without a position to return to."""

    data = b""

    def write(self, data: bytes) -> int:
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        *(("wav", "pcm_s16le", {}), ("wav", "pcm_s16le", {"rf64": "always"}), ("wav", "libmp3lame", {})),
        *(("w64", "pcm_s16le", {}), ("au", "pcm_s16be", {}), ("flac", "flac", {}), ("mp3", "libmp3lame", {})),
        *(("webm", "libopus", {}), ("asf", "wmav2", {})),
    ],
)
def test_a_stream_through_a_pipe_is_whole(tmp_path: Path, container: str, codec: str, options: dict[str, str]):
    pipe = Pipe()
    encode(speech(16_000), container, codec, file=pipe, **options)
    whole, length, part = read(tmp_path, pipe.data, 9000, 500)
    assert len(whole) / SAMPLE_RATE_HZ == pytest.approx(1, abs=0.15)
    assert length == len(whole)
    np.testing.assert_array_equal(part, whole[9000:9500])


@pytest.mark.parametrize("kind", ["WAV", "OGG", "MP3", "CAF", "W64", "NIST", "FLAC", "AIFF", "m4a", "webm"])
def test_a_damaged_header_is_one_line(tmp_path: Path, kind: str):
    path = tmp_path / "a"
    if kind.islower():
        path.write_bytes(content(f"a.{kind}"))
    else:
        soundfile.write(path, noise(2000), SAMPLE_RATE_HZ, format=kind)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for size in range(1, 80, 9):
        path.write_bytes(data[:size])
        with pytest.raises(InputError):
            read_audio(path)
    for _ in range(15):
        path.write_bytes(data[:4] + rng.bytes(40) + data[44:])
        attempt(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile speech.wav\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nspeech.wav\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'></MPD>",
    ],
    ids=["concat", "m3u", "sdp", "dash"],
)
@pytest.mark.parametrize("behind", [b"", b"\xff\xfb"])
def test_a_playlist_that_calls_itself_audio_opens_nothing(tmp_path: Path, text: str, behind: bytes):
    soundfile.write(tmp_path / "speech.wav", noise(4000), SAMPLE_RATE_HZ)
    (tmp_path / "playlist.m4a").write_bytes(text.encode() + behind)
    with pytest.raises(InputError, match=r"playlist.m4a: cannot be decoded .*(it is text, |whitelist|Invalid|m3u8)"):
        read_audio(tmp_path / "playlist.m4a")


def test_a_file_too_long_to_keep_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hybrid_pruning.audio.REMEMBERED", SAMPLE_RATE_HZ // 2)
    (tmp_path / "a").write_bytes(content("a.m4a"))
    whole = read_audio(tmp_path / "a")
    with AudioFile(tmp_path / "a") as audio:
        assert audio.samples == len(whole)
        np.testing.assert_array_equal(audio.read(9000, 5000), whole[9000:14_000])
        np.testing.assert_array_equal(audio.read(1000, 500), whole[1000:1500])


def test_a_film_without_sound_holds_no_audio(tmp_path: Path):
    with av.open(str(tmp_path / "silent.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        out.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"silent.mp4: holds no audio; remove it"):
        read_audio(tmp_path / "silent.mp4")
