"""A stream is judged as the file it makes up so far; alarms, doubts and memory keep to what is stated."""

import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise, swell, tiny_detector
from exports import CALIBRATION
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.calibration import Calibration, Fit
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.scoring.engine import Engine
from hybrid_pruning.scoring.scores import score_paths
from hybrid_pruning.scoring.streams import Stream, StreamVerdict, from_bytes, stream
from world import run_main

WINDOW, HOP = 1.0, 0.25


def sound(samples: int) -> np.ndarray:
    pitch = np.linspace(0.05, 1.5, samples)  # so that windows differ
    return (swell(np.arange(samples)) * (0.3 * np.sin(np.cumsum(pitch)) + noise(samples))).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    model = tiny_detector(tmp_path_factory.mktemp("stream"), num_hidden_layers=1)
    model.calibration = CALIBRATION
    return model


def score_file(model: SpeechModel, folder: Path, wave: np.ndarray, rate: int = SAMPLE_RATE_HZ) -> float:
    soundfile.write(folder / "so-far.wav", wave, rate, subtype="FLOAT")
    return float(score_paths(model, [folder / "so-far.wav"], workers=0, window_seconds=WINDOW)[0])


def feed(listener: Stream, wave: np.ndarray, block: int) -> list[StreamVerdict]:
    found = [one for first in range(0, len(wave), block) for one in listener.feed(wave[first : first + block])]
    assert len(listener._last) <= listener.window
    assert len(listener._rest) < listener.hop
    return found


@pytest.mark.parametrize("block", [1_000, 100_000])
def test_a_stream_is_the_file_so_far_at_every_multiple_of_the_window(model: SpeechModel, tmp_path: Path, block: int):
    wave = sound(52_000)
    listener = stream(model, window_seconds=WINDOW, hop_seconds=HOP)
    found = [*feed(listener, wave, block), listener.finish()]
    assert [one.seconds for one in found if one] == [*np.arange(1, 14) * HOP, 3.25]
    for index in (0, 1, 2, 3, 7, 11):  # each hop of the first window, then its multiples
        so_far = wave[: (index + 1) * 4000]
        assert found[index].llr == pytest.approx(score_file(model, tmp_path, so_far), abs=1e-5)
    assert found[8].llr == found[9].llr == found[7].llr  # in between it stays
    assert len({one.llr for one in found if one}) == 6
    assert found[9].window_llr == pytest.approx(score_file(model, tmp_path, wave[24_000:40_000]), abs=1e-5)


@pytest.mark.parametrize("samples", [100, 3_999, 15_000])
def test_a_stream_within_one_window_is_the_file(model: SpeechModel, tmp_path: Path, samples: int):
    listener = stream(model, window_seconds=WINDOW, hop_seconds=HOP)
    listener.feed(sound(samples))
    end = listener.finish()
    assert end is not None
    assert end.llr == pytest.approx(score_file(model, tmp_path, sound(samples)), abs=1e-5)
    assert end.seconds == samples / SAMPLE_RATE_HZ


def test_a_stream_at_another_rate_is_resampled_as_a_file_is(model: SpeechModel, tmp_path: Path):
    wave = sound(8_000)
    listener = stream(model, rate=8_000, window_seconds=WINDOW, hop_seconds=HOP)
    listener.feed((wave * 32767).astype(np.int16)[:5_000])
    listener.feed((wave * 32767).astype(np.int16)[5_000:])
    end = listener.finish()
    assert end is not None
    assert end.seconds == 1.0
    assert end.llr == pytest.approx(score_file(model, tmp_path, wave, 8_000), abs=1e-3)


def listen(llrs: list[float], **options: Any) -> list[StreamVerdict]:
    """Return the verdicts of a model whose LLR is the mean of the samples times 10."""
    model = SimpleNamespace(
        task="anti-spoofing",
        minimum_samples=10,
        device_type="cpu",
        calibration=Calibration((Fit(1.0, 0.0, 0.5, "s", "k", "", 1, 1, seen=(-50.0, 7.0)),)),
        classify_arrays=lambda x: 10 * x[:, 0],
    )
    engine = Engine(model, window_seconds=1.0)  # type: ignore[arg-type]
    listener = Stream(engine, hop_seconds=1.0, embed=lambda wave: wave.mean(keepdims=True), **options)
    hum = 0.01 * np.sin(np.arange(16_000)) * swell(np.arange(16_000))
    return [one for llr in llrs for one in listener.feed(hum - hum.mean() + llr / 10)]


def test_an_alarm_is_as_rare_as_stated():
    """Calibrated windows: LLRs of bona fide speech are normal, of mean v / 2 and variance v."""
    limit = math.log(3600)
    assert [one.alarm for one in listen([3, -limit + 0.1, -limit - 0.1, 3])] == [False, False, True, False]
    assert [one.alarm for one in listen([-5.9, -6.0], false_alarms=9.0)] == [False, True]
    rng, hours = np.random.default_rng(0), 200
    for variance in (4, 16, 36):
        llrs = rng.normal(variance / 2, variance**0.5, 3600 * hours)
        assert (llrs <= -limit).sum() / hours <= 1.0


def test_too_early_is_undecided():
    found = listen([0.0, 5.0, 5.0])
    assert [one.undecided is None for one in found] == [False, True, True]
    assert "neither answer" in (found[0].undecided or "")
    assert [one.thin for one in found] == [None, None, None]
    assert "whose LLRs went from -50.0 to 7.0" in (listen([8.0])[0].thin or "")
    quiet = listen([1e-9 for _ in range(2)])
    assert all(one.undecided for one in quiet)
    model = SimpleNamespace(
        task="anti-spoofing", minimum_samples=1, device_type="cpu", calibration=None, classify_arrays=lambda x: x[:, 0]
    )
    listener = Stream(Engine(model, window_seconds=1.0), hop_seconds=0.5, embed=lambda wave: wave[:1] + 9)  # type: ignore[arg-type]
    silence = listener.feed(np.zeros(8_000))
    assert "no speech-like energy" in (silence[0].undecided or "")
    assert silence[0].window_llr is None
    found = listener.feed(sound(24_000))
    assert [one.undecided for one in found] == ["holds 0.5 s of active sound; 1 s are needed", None, None]
    assert found[0].alarm is None  # not calibrated: no rate could be stated


@pytest.mark.parametrize(
    ("make", "line"),
    [
        ({"rate": 100}, "rate 100 Hz; expected 4000 to 400000"),
        ({"hop_seconds": 0.3}, "a verdict every 0.3 s: expected a whole part of the windows of 1 s"),
        ({"false_alarms": 0.0}, "0 false alarms an hour; expected more than 0"),
    ],
)
def test_mistakes(model: SpeechModel, make: dict[str, Any], line: str):
    with pytest.raises(InputError, match=line):
        stream(model, **{"window_seconds": WINDOW, "hop_seconds": HOP, **make})


@pytest.mark.parametrize("wave", [np.array([np.nan]), np.array([1e6]), np.zeros((2, 2)), np.array(["a"])], ids=str)
def test_bad_samples(model: SpeechModel, wave: np.ndarray):
    with pytest.raises(InputError, match=r"samples|stream"):
        stream(model, window_seconds=WINDOW, hop_seconds=HOP).feed(wave)
    with pytest.raises(InputError, match="3 bytes are no whole number of samples"):
        from_bytes(b"abc", "s16")


def test_the_command_line_listens(
    model: SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model.save_pretrained(tmp_path / "model")
    wave = sound(36_000)
    expected = stream(model, window_seconds=WINDOW, hop_seconds=0.5).feed((wave * 32767).astype(np.int16))
    line = ["detect", "--stream", "-", "--model", "model", "--json", "--window-seconds", "1", "--hop-seconds", "0.5"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((wave * 32767).astype("<i2").tobytes())))
    assert run_main(line, tmp_path) == 0
    records = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert records[:-1] == [one.record() for one in expected]
    assert records[-1]["seconds"] == 2.25

    class Source:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.place = 0

        def __enter__(self) -> "Source":
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def read(self, size: int) -> tuple[np.ndarray, bool]:
            if self.place >= len(wave):
                raise KeyboardInterrupt
            self.place += size
            return wave[self.place - size : self.place, None], False

    device = SimpleNamespace(InputStream=Source, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    line[1:3] = ["--microphone"]
    assert run_main([word for word in line if word != "--json"], tmp_path) == 0
    rows = [text.split("\t") for text in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["0.50", "1.00", "1.50", "2.00", "2.25"]
    assert [row[1] for row in rows[:1]] == ["undecided"]
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert run_main(line, tmp_path) == 2
    assert 'pip install "hybrid-pruning[microphone]"' in capsys.readouterr().err
    assert run_main(["detect", "a.wav", "--stream", "--model", "model"], tmp_path) == 2
