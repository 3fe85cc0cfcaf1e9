"""The rule for long audio, and reading it window by window with no batch lost to a bad file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hybrid_pruning.scoring.windows
from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import AudioFile, ffmpeg, read_audio
from hybrid_pruning.scoring.windows import Window, cut, load_windows, measure_lengths
from sounds import encode

NAN = float("nan")
WINDOW = 2000


def write(path: Path, samples: int, rate: int = SAMPLE_RATE_HZ) -> Path:
    soundfile.write(path, noise(samples, seed=samples), rate)
    return path


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (0, [(0, 0)]),
        (1, [(0, 1)]),
        (1000, [(0, 1000)]),
        (1001, [(0, 501), (500, 501)]),
        (2000, [(0, 1000), (1000, 1000)]),
        (2001, [(0, 667), (667, 667), (1334, 667)]),
    ],
)
def test_the_rule(samples: int, expected: list[tuple[int, int]]):
    assert cut(samples, 1000) == expected


def test_windows_are_equal_cover_everything_and_are_at_least_half():
    for samples in range(1, 40_000, 29):
        windows = cut(samples, 997)
        starts, (length, *others) = [start for start, _ in windows], [size for _, size in windows]
        assert set(others) <= {length}
        assert length <= 997
        assert len(windows) == 1 or length >= 997 / 2
        assert starts[0] == 0
        assert starts[-1] + length == samples
        steps = np.diff(starts)
        assert (steps <= length).all(), "nothing is left out"
        assert (steps >= length - 2).all(), "and next to nothing is heard twice"


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_are_slices_of_the_file(tmp_path: Path, workers: int):
    path = write(tmp_path / "long.flac", 7001)
    windows = [Window(5, path, start, size, 7001) for start, size in cut(7001, WINDOW)]
    loaded = list(load_windows([windows[:3], windows[3:]], WINDOW, 1, workers))
    rows = [row for batch in loaded for row in batch.wave]
    whole = read_audio(path)
    for row, window in zip(rows, windows, strict=True):
        np.testing.assert_array_equal(row, whole[window.start : window.start + window.samples])
    assert all(set(batch.index) == {5} for batch in loaded)
    assert [batch.failed for batch in loaded] == [{}, {}]


def test_no_more_is_read_than_a_window_and_a_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int | None] = []
    opened: list[str] = []
    read, choose = AudioFile.read, AudioFile.__init__
    monkeypatch.setattr(AudioFile, "read", lambda file, *place: asked.append(place[1]) or read(file, *place))
    monkeypatch.setattr(AudioFile, "__init__", lambda file, path: opened.append(path.name) or choose(file, path))
    long, short = write(tmp_path / "long.wav", 50_000), write(tmp_path / "short.wav", 900)
    windows = [Window(0, long, start, size, 50_000) for start, size in cut(50_000, WINDOW)]
    wrong = Window(2, long, 0, 900, 900)
    list(load_windows([windows[:20], windows[20:], [Window(1, short, 0, 900, 900), wrong]], WINDOW, 1, 0))
    assert max(samples or 10**9 for samples in asked) <= WINDOW + SAMPLE_RATE_HZ // 100 + 1
    assert opened == ["long.wav", "short.wav", "long.wav"]


def test_what_only_ffmpeg_reads_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "long.m4a"
    path.write_bytes(encode(noise(90_000), "ipod", "aac", 22_050))
    whole = read_audio(path)
    starts: list[None] = []
    start = ffmpeg.FfmpegStream._start
    monkeypatch.setattr(ffmpeg.FfmpegStream, "_start", lambda *stream: starts.append(None) or start(*stream))
    windows = [Window(0, path, *place, len(whole)) for place in cut(len(whole), WINDOW)]
    loaded = list(load_windows([windows[:20], windows[20:]], WINDOW, 1, 0))
    rows = [row for batch in loaded for row in batch.wave]
    for row, window in zip(rows, windows, strict=True):
        np.testing.assert_array_equal(row, whole[window.start : window.start + window.samples])
    assert len(starts) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_costs_no_other(tmp_path: Path, workers: int):
    good = [write(tmp_path / f"{index}.wav", 500) for index in range(2)]
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    windows = [Window(index, path, 0, 500, 500) for index, path in enumerate([good[0], bad, good[1], bad])]
    mixed, alone = load_windows([windows[:3], windows[3:]], WINDOW, 1, workers)
    assert (mixed.index, list(mixed.failed)) == ((0, 2), [1])
    assert "bad.wav: cannot be decoded" in mixed.failed[1]
    assert (len(alone.wave), list(alone.failed)) == (0, [3])


def test_a_file_that_is_longer_than_was_said_is_refused_and_not_read(tmp_path: Path):
    path = write(tmp_path / "long.wav", 3 * WINDOW)
    (loaded,) = load_windows([[Window(0, path, 0, 500, 500)]], WINDOW, 1, 0)
    assert not len(loaded.wave)
    assert "long.wav: lasts 0.4 s, but 0.0 s were expected; correct the manifest's seconds" in loaded.failed[0]


def test_files_are_held_to_their_manifests_durations(tmp_path: Path):
    path = write(tmp_path / "a.wav", 16_000)
    window = 10_000
    for seconds, fits in ((1.0, True), (NAN, True), (1.19, True), (1.3, False), (0.7, False)):
        for windows in (cut(16_000, window), cut(16_000, 16_000)):
            pieces = [Window(0, path, *place, 16_000, seconds) for place in windows]
            (loaded,) = load_windows([pieces], 16_000, 1, 0)
            assert (len(loaded.wave) > 0) == fits, seconds
            assert fits or "a.wav: lasts 1.000 s, its manifest says" in loaded.failed[0]


def test_a_file_that_got_shorter_is_refused(tmp_path: Path):
    path = write(tmp_path / "cut.wav", 2 * WINDOW - 400)
    (loaded,) = load_windows([[Window(0, path, start, size, 4000) for start, size in cut(4000, WINDOW)]], WINDOW, 1, 0)
    assert not len(loaded.wave), "its good window is of no use"
    assert "cut.wav: ends before its header says" in loaded.failed[0]


def test_short_clips_are_repeated(tmp_path: Path):
    path = write(tmp_path / "short.wav", 100)
    (loaded,) = load_windows([[Window(0, path, 0, 100, 100)]], WINDOW, 250, 0)
    np.testing.assert_array_equal(loaded.wave[0], np.resize(read_audio(path), 250))


def test_only_what_is_not_known_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    window = 5 * SAMPLE_RATE_HZ
    opened: list[str] = []

    def header(path: Path) -> int:
        opened.append(path.name)
        return {"b": 1234, "d": 64_160, "e": 1_600_123}.get(path.name, 0)

    monkeypatch.setattr(hybrid_pruning.scoring.windows, "audio_samples", header)
    paths = [Path(name) for name in "abcdef"]
    seconds: Sequence[float] = [1.0, NAN, 3.99, 4.01, 100.0, 100.0]
    samples, failed = measure_lengths(paths, seconds, window)
    np.testing.assert_array_equal(samples, [16_000, 1234, 63_840, 64_160, 1_600_123, NAN])
    assert sorted(opened) == ["b", "d", "e", "f"], "a duration near the window, or above, is not taken on trust"
    assert list(failed) == [5], "and compared with what is found"
    assert measure_lengths(paths, None, window)[0].tolist() == [0, 1234, 0, 64_160, 1_600_123, 0]


def test_what_cannot_be_opened_is_reported_by_its_place(tmp_path: Path):
    paths = [write(tmp_path / "a.wav", 700), tmp_path / "b.wav", write(tmp_path / "c.wav", 900, rate=8000)]
    samples, failed = measure_lengths(paths, None, WINDOW)
    np.testing.assert_array_equal(samples, [700, NAN, 1800])
    assert list(failed) == [1]
    assert "b.wav: no such file" in failed[1]
