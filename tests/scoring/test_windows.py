"""The rule for long audio, and reading it window by window with no batch lost to a bad file."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import hybrid_pruning.scoring.windows
from corpus import SAMPLE_RATE_HZ, noise
from hybrid_pruning.audio import AudioFile, ffmpeg, read_audio
from hybrid_pruning.scoring.windows import Window, WindowBatch, cut, load_windows, measure_lengths
from sounds import encode

NAN = float("nan")
WINDOW = 2000


def write(path: Path, samples: int, rate: int = SAMPLE_RATE_HZ) -> Path:
    soundfile.write(path, noise(samples, seed=samples), rate)
    return path


def test_windows_are_equal_cover_everything_and_are_at_least_half():
    assert [cut(samples, 1000) for samples in (0, 1, 1000)] == [[(0, 0)], [(0, 1)], [(0, 1000)]]
    assert cut(1001, 1000) == [(0, 501), (500, 501)]
    assert cut(2000, 1000) == [(0, 1000), (1000, 1000)]
    assert cut(2001, 1000) == [(0, 667), (667, 667), (1334, 667)]
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
        assert (steps >= length - 2).all(), "and next to nothing is there twice"


def windows_of(path: Path, samples: int, window: int = WINDOW, index: int = 0, seconds: float = NAN) -> list[Window]:
    return [Window(index, path, *place, samples, seconds) for place in cut(samples, window)]


def load(*batches: list[Window], window: int = WINDOW, minimum: int = 1, workers: int = 0) -> list[WindowBatch]:
    return list(load_windows(batches, window, minimum, workers))


def assert_slices(found: list[WindowBatch], whole: np.ndarray) -> None:
    rows = [row for batch in found for row in batch.wave]
    for row, (start, samples) in zip(rows, cut(len(whole), WINDOW), strict=True):
        np.testing.assert_array_equal(row, whole[start : start + samples])


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_are_slices_of_the_file(tmp_path: Path, workers: int):
    path = write(tmp_path / "long.flac", 7001)
    windows = windows_of(path, 7001, index=5)
    found = load(windows[:3], windows[3:], workers=workers)
    assert_slices(found, read_audio(path))
    assert all(set(batch.index) == {5} for batch in found)
    assert [batch.failed for batch in found] == [{}, {}]


def test_no_more_is_read_than_a_window_and_a_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked, opened = list[int | None](), list[str]()
    read, choose = AudioFile.read, AudioFile.__init__
    monkeypatch.setattr(AudioFile, "read", lambda file, *place: asked.append(place[1]) or read(file, *place))
    monkeypatch.setattr(AudioFile, "__init__", lambda file, path: opened.append(path.name) or choose(file, path))
    long, short = write(tmp_path / "long.wav", 50_000), write(tmp_path / "short.wav", 900)
    windows, wrong = windows_of(long, 50_000), Window(2, long, 0, 900, 900)
    load(windows[:20], windows[20:], [*windows_of(short, 900, index=1), wrong])
    assert max(samples or 10**9 for samples in asked) <= WINDOW + SAMPLE_RATE_HZ // 100 + 1
    assert opened == ["long.wav", "short.wav", "long.wav"]


def test_files_that_only_ffmpeg_reads_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "long.m4a"
    path.write_bytes(encode(noise(90_000), "ipod", "aac", 22_050))
    whole, starts, start = read_audio(path), list[None](), ffmpeg.FfmpegStream._start
    monkeypatch.setattr(ffmpeg.FfmpegStream, "_start", lambda *stream: starts.append(None) or start(*stream))
    windows = windows_of(path, len(whole))
    assert_slices(load(windows[:20], windows[20:]), whole)
    assert len(starts) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_affects_no_other(tmp_path: Path, workers: int):
    good = [write(tmp_path / f"{index}.wav", 500) for index in range(2)]
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    windows = [Window(index, path, 0, 500, 500) for index, path in enumerate([good[0], bad, good[1], bad])]
    mixed, alone = load(windows[:3], windows[3:], workers=workers)
    assert (mixed.index, list(mixed.failed)) == ((0, 2), [1])
    assert "bad.wav: cannot be decoded" in mixed.failed[1]
    assert (len(alone.wave), list(alone.failed)) == (0, [3])


@pytest.mark.parametrize(
    ("there", "expected", "message"),
    [
        (3 * WINDOW, 500, "lasts 0.4 s, but 0.0 s were expected; correct the manifest's seconds"),  # and is not read
        (2 * WINDOW - 400, 4000, "ends before its header says"),  # its good window is of no use
    ],
)
def test_a_file_of_another_length_is_refused(tmp_path: Path, there: int, expected: int, message: str):
    (found,) = load(windows_of(write(tmp_path / "a.wav", there), expected))
    assert not len(found.wave)
    assert f"a.wav: {message}" in found.failed[0]


@pytest.mark.parametrize(("seconds", "fits"), [(1.0, True), (NAN, True), (1.19, True), (1.3, False), (0.7, False)])
@pytest.mark.parametrize("window", [10_000, 16_000])
def test_durations_must_be_the_manifests(tmp_path: Path, seconds: float, fits: bool, window: int):
    path = write(tmp_path / "a.wav", 16_000)
    (found,) = load(windows_of(path, 16_000, window, seconds=seconds), window=16_000)
    assert (len(found.wave) > 0) == fits
    assert fits or "a.wav: lasts 1.000 s, its manifest says" in found.failed[0]


def test_short_clips_are_repeated(tmp_path: Path):
    path = write(tmp_path / "short.wav", 100)
    (found,) = load(windows_of(path, 100), minimum=250)
    np.testing.assert_array_equal(found.wave[0], np.resize(read_audio(path), 250))


def test_headers_are_read_where_the_duration_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    window, opened = 5 * SAMPLE_RATE_HZ, list[str]()
    lengths = {"b": 1234, "d": 64_160, "e": 1_600_123}
    header = lambda path: opened.append(path.name) or lengths.get(path.name, 0)  # noqa: E731
    monkeypatch.setattr(hybrid_pruning.scoring.windows, "audio_samples", header)
    paths = [Path(name) for name in "abcdef"]
    samples, failed = measure_lengths(paths, [1.0, NAN, 3.99, 4.01, 100.0, 100.0], window)
    np.testing.assert_array_equal(samples, [16_000, 1234, 63_840, 64_160, 1_600_123, NAN])
    assert sorted(opened) == ["b", "d", "e", "f"], "a duration near the window, or above, is not taken on trust"
    assert list(failed) == [5], "and compared with the file's"
    assert measure_lengths(paths, None, window)[0].tolist() == [0, 1234, 0, 64_160, 1_600_123, 0]


def test_files_that_cannot_be_opened_are_reported_by_place(tmp_path: Path):
    paths = [write(tmp_path / "a.wav", 700), tmp_path / "b.wav", write(tmp_path / "c.wav", 900, rate=8000)]
    samples, failed = measure_lengths(paths, None, WINDOW)
    np.testing.assert_array_equal(samples, [700, NAN, 1800])
    assert list(failed) == [1]
    assert "b.wav: no such file" in failed[1]
