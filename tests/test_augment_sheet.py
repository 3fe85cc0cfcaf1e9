"""The sheet of spectrograms and the table of costs are made, and show what they say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_pruning.data.augment import cost
from hybrid_pruning.data.augment.__main__ import main
from hybrid_pruning.data.augment.sheet import MELS, draw_sheet, mel_spectrogram
from sounds import tone, vowel, write_sounds


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_sounds(tmp_path / "clips", [vowel(seed=seed) for seed in range(5)]) / "00.wav"


@pytest.mark.parametrize("hertz", [500, 1000, 4000])
def test_frequencies_are_spaced_in_mel(hertz: int):
    spectrum = mel_spectrogram(tone(hertz, peak=1.0))
    mels = 2595 * np.log10(1 + np.linspace(0, 8000, 100_001) / 700)
    expected = np.interp(hertz, np.linspace(0, 8000, 100_001), mels) / mels[-1] * (MELS - 1)
    middle = spectrum[:, spectrum.shape[1] // 2]
    assert abs(middle.argmax() - expected) < 1.5
    assert middle.max() == pytest.approx(20 * np.log10(0.5), abs=4), "averaged over a few bins"


def test_a_panel_for_every_wave(tmp_path: Path):
    waves = {str(index): vowel(seed=index) for index in range(6)}
    draw_sheet(waves, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (1360, 430)
        assert len(np.unique(np.asarray(drawn))) > 50


def test_the_command_draws_every_kind(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main([str(clip), "--out", str(tmp_path / "sheet.png")])
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (1360, 1190)
    said = capsys.readouterr().out
    assert said.count("left out: augment.codec.codecs: '") in {0, 3}, "PyAV's wheels lack three encoders"


def test_the_command_prints_costs(clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(cost, "ROUNDS", 1)
    main([str(clip), "--cost"])
    rows = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("left out")]
    assert len(rows) == 20
    assert all(float(row.split()[0]) >= 0 for row in rows)
    assert any(row.endswith("RawBoost 2: impulses") for row in rows)


def test_a_clip_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "missing.wav"), "--out", str(tmp_path / "sheet.png")])
    assert stopped.value.code == 2
    assert "missing.wav: no such file" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "sheet.png").exists()
