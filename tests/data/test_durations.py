"""Durations: read once, remembered as long as a file stays as it is, and never trusted when the cache is damaged."""

import os
import re
from pathlib import Path

import pytest
import soundfile

from corpus import noise
from hybrid_pruning.data import checks as durations
from hybrid_pruning.data.checks import CACHE, add_durations, measure_durations
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

SAMPLES = {"a.wav": 8_000, "b.flac": 16_000, "c.wav": 24_000}
SECONDS = [0.5, 1.0, 1.5]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest without durations, of files half a second, one, and one and a half seconds long."""
    for name, samples in SAMPLES.items():
        soundfile.write(tmp_path / name, noise(samples), 16_000)
    utterances = [Utterance(name, tmp_path / name, Label.SPOOF, speaker="s 1", attack="A01") for name in SAMPLES]
    write_manifest(tmp_path / "m.tsv", utterances)
    return tmp_path / "m.tsv"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read."""
    names: list[str] = []
    read = durations.audio_samples
    monkeypatch.setattr(durations, "audio_samples", lambda path: (names.append(path.name), read(path))[1])
    return names


def seconds(manifest: Path) -> list[float]:
    return [utterance.seconds for utterance in read_manifest(manifest)]


def test_durations_are_filled_in_and_nothing_else_changes(manifest: Path):
    before = manifest.read_text()
    assert add_durations(manifest, workers=2) == []
    assert seconds(manifest) == SECONDS
    assert re.sub(r"\d\.\d{3}$", "-", manifest.read_text(), flags=re.MULTILINE) == before


def test_durations_are_those_at_16_khz_whatever_the_rate(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", noise(11_025, channels=2), 22_050)
    paths = ["a.wav", str(tmp_path / "a.wav")]
    assert measure_durations(paths, tmp_path) == (dict.fromkeys(paths, 0.5), {})
    (tmp_path / "m.tsv").write_text("utt_id\tpath\tlabel\tlicence\na\ta.wav\tspoof\tCC\n")
    add_durations(tmp_path / "m.tsv")  # which lacks the column
    assert (tmp_path / "m.tsv").read_text() == "utt_id\tpath\tlabel\tlicence\tseconds\na\ta.wav\tspoof\tCC\t0.500\n"


def test_what_is_known_is_not_read_again(manifest: Path, opened: list[str]):
    add_durations(manifest)
    assert sorted(opened) == list(SAMPLES)
    first, other = manifest.read_text(), manifest.with_name("other.tsv")
    opened.clear()
    write_manifest(manifest, read_manifest(manifest))
    soundfile.write(manifest.parent / "d.wav", noise(2_000), 16_000)
    write_manifest(other, [Utterance(name, manifest.parent / name, Label.SPOOF) for name in ("a.wav", "d.wav")])
    for path in (manifest, other, manifest):
        add_durations(path)
    assert opened == ["d.wav"], "manifests of one folder share a cache"
    assert manifest.read_text() == first


def test_a_changed_file_is_read_again(manifest: Path, opened: list[str]):
    add_durations(manifest)
    opened.clear()
    soundfile.write(manifest.parent / "a.wav", noise(4_000), 16_000)  # another size
    os.utime(manifest.parent / "b.flac", ns=(0, (manifest.parent / "b.flac").stat().st_mtime_ns + 1))  # another time
    add_durations(manifest)
    assert sorted(opened) == ["a.wav", "b.flac"]
    assert seconds(manifest) == [0.25, 1.0, 1.5]
    opened.clear()
    add_durations(manifest)
    assert opened == [], "what was read anew is remembered anew"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"\xff\xfe\x00garbage",
        lambda data: data.replace(b"\t0.500", b"\tnan"),
        lambda data: data.replace(b"\t0.500", b"\t-3"),
        lambda data: data.replace(b"\t", b" "),
        lambda data: b"a.wav\n\n\t\t\t\n" + data,
    ],
    ids=["binary", "nan", "negative", "no tabs", "odd lines"],
)
def test_a_damaged_cache_is_as_good_as_none(manifest: Path, damage):
    add_durations(manifest)
    cache = manifest.parent / CACHE
    cache.write_bytes(damage(cache.read_bytes()))
    add_durations(manifest)
    assert seconds(manifest) == SECONDS


def test_a_cache_that_cannot_be_written(manifest: Path):
    (manifest.parent / CACHE).mkdir()
    with pytest.raises(InputError, match=f"{CACHE}: is a folder"):
        add_durations(manifest)


def test_a_cache_cut_off_anywhere_gives_no_wrong_duration(manifest: Path):
    add_durations(manifest)
    whole = (manifest.parent / CACHE).read_text()
    for end in range(0, len(whole), 2):
        (manifest.parent / CACHE).write_text(whole[:end])
        assert list(measure_durations(list(SAMPLES), manifest.parent, workers=1)[0].values()) == SECONDS


def break_files(folder: Path) -> None:
    (folder / "a.wav").write_bytes(b"RIFF, but not really")
    soundfile.write(folder / "c.wav", noise(0), 16_000)


def test_what_is_no_audio_is_an_error_that_costs_no_second_reading(manifest: Path, opened: list[str]):
    break_files(manifest.parent)
    before = manifest.read_text()
    expected = r"m.tsv: 2 of 3 audio files cannot be used, first a.wav, c.wav .cannot be decoded .*; replace"
    for read in (list(SAMPLES), ["a.wav", "c.wav"]):
        opened.clear()
        with pytest.raises(InputError, match=expected):
            add_durations(manifest)
        assert sorted(opened) == read
    assert manifest.read_text() == before


def test_what_is_no_audio_can_be_left_out(manifest: Path):
    break_files(manifest.parent)
    (warning,) = add_durations(manifest, drop_unreadable=True)
    assert "first a.wav, c.wav (cannot be decoded (it is text" in warning
    assert warning.endswith("; left out")
    assert [utterance.utt_id for utterance in read_manifest(manifest)] == ["b.flac"]
    (manifest.parent / "b.flac").unlink()
    with pytest.raises(InputError, match="1 of 1"):
        add_durations(manifest, drop_unreadable=True)


def test_an_interrupted_reading_keeps_what_it_has(manifest: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]):
    watched, before = durations.audio_samples, manifest.read_text()

    def interrupted(path: Path) -> int:
        if path.name == "c.wav":
            raise KeyboardInterrupt
        return watched(path)

    monkeypatch.setattr(durations, "BATCH", 1)
    monkeypatch.setattr(durations, "audio_samples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_durations(manifest, workers=1)
    assert manifest.read_text() == before
    opened.clear()
    monkeypatch.setattr(durations, "audio_samples", watched)
    add_durations(manifest)
    assert opened == ["c.wav"]
    assert seconds(manifest) == SECONDS
