"""A file that its own header says should be longer is found before anything of it is decoded."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio.containers import Frame, find_fault

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("NIST", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def fault(path: Path, data: bytes) -> str | None:
    path.write_bytes(data)
    with path.open("rb") as file:
        return find_fault(file, len(data))


def mp3(path: Path, **options: object) -> bytes:
    """Return a second of loud and soft noise; its first frame announces the length."""
    wave = noise(SAMPLE_RATE_HZ) * np.linspace(0, 2, SAMPLE_RATE_HZ)
    soundfile.write(path, wave, SAMPLE_RATE_HZ, format="MP3", **options)
    return path.read_bytes()


def without_announcement(data: bytes) -> bytes:
    first = Frame.parse(data[:4])
    assert first is not None
    assert Frame.parse(data[first.size : first.size + 4]) is not None, "frames follow each other"
    return data[first.size :]


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_a_cut_is_found(tmp_path: Path, kind: str, subtype: str, endian: str):
    big = endian == "BIG" and (kind, subtype) == ("WAV", "PCM_16")
    soundfile.write(tmp_path / "a", noise(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, subtype, "BIG" if big else None, kind)
    data = (tmp_path / "a").read_bytes()
    assert data[:4] == b"RIFX" or not big
    assert fault(tmp_path / "b", data) is None
    assert fault(tmp_path / "b", data + bytes(1000)) is None or kind == "OGG", "what follows is not looked at"
    for size in (len(data) - 100, len(data) * 9 // 10, len(data) // 2):
        found = fault(tmp_path / "b", data[:size])
        assert found is not None, size
        assert found.startswith("is cut short")


@pytest.mark.parametrize("kind", ["WAV", "OGG", "MP3", "CAF", "W64", "NIST"])
def test_what_is_left_of_a_header_is_no_crash(tmp_path: Path, kind: str):
    soundfile.write(tmp_path / "a", noise(2000), SAMPLE_RATE_HZ, format=kind)
    data = (tmp_path / "a").read_bytes()
    for size in range(0, 80, 3):
        fault(tmp_path / "b", data[:size])
    for seed in range(60):  # nor is a header of random bytes
        rng = np.random.default_rng(seed)
        fault(tmp_path / "b", data[:4] + rng.bytes(40) + data[44:200])


def test_an_ogg_must_end_with_its_end_page(tmp_path: Path):
    soundfile.write(tmp_path / "a", noise(3 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, format="OGG")
    data = (tmp_path / "a").read_bytes()
    pages = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    assert len(pages) > 4
    assert "not marked as the end" in str(fault(tmp_path / "b", data[: pages[-1]]))
    assert "incomplete" in str(fault(tmp_path / "b", data[: pages[-1] + 20]))
    assert "no Ogg page" in str(fault(tmp_path / "b", data[: pages[-1]] + bytes(70_000)))


def test_mp3s_announce_their_length_or_are_followed_to_their_end(tmp_path: Path):
    data = mp3(tmp_path / "a", bitrate_mode="CONSTANT", compression_level=0.5)
    bare = without_announcement(data)
    for whole in (data, bare, bare + b"TAG" + bytes(125), b"ID3\4\0\0\0\0\1\0" + bytes(128) + data):
        assert fault(tmp_path / "b", whole) is None
    for whole in (data, bare, b"ID3\4\0\0\0\0\1\0" + bytes(128) + bare):
        assert "is cut short" in str(fault(tmp_path / "b", whole[:-20]))
    assert "is cut short" in str(fault(tmp_path / "b", b"ID3\4\0\0\0\0\7\0" + bytes(100))), "its tag is longer"
    fields = bytes(6) + len(data).to_bytes(4, "big")
    other = data[:36] + b"VBRI" + fields + data[50:]
    assert fault(tmp_path / "b", other) is None
    assert "is cut short" in str(fault(tmp_path / "b", other[:-20]))


def test_an_mp3_of_varying_rate_must_announce_its_length(tmp_path: Path):
    data = mp3(tmp_path / "a", bitrate_mode="VARIABLE", compression_level=0.5)
    assert fault(tmp_path / "b", data) is None
    assert "does not announce its length" in str(fault(tmp_path / "b", without_announcement(data)))
