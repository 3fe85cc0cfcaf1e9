"""The quickstart end to end in small: a handful of recordings, a few steps, from folder to table."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hybrid_pruning import SpeechModel
from hybrid_pruning.errors import InputError
from hybrid_pruning.jobs.quickstart import quickstart

RATE = 16_000
FEW_STEPS = ("training.epochs=2", "pruning.sparsity_warmup_epochs=1", "pruning.initial_reg_lr=0.5", "data.workers=0")


def write_recordings(folder: Path, voices: int = 6, clips: int = 2) -> Path:
    """Write buzzing tones with a syllable rhythm: no speech, but something a vocoder can take apart."""
    time = np.arange(2 * RATE) / RATE
    for voice in range(voices):
        for clip in range(clips):
            rng = np.random.default_rng((voice, clip))
            pitch = (90 + 25 * voice) * (1 + 0.05 * np.sin(2 * np.pi * (1 + clip) * time))
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            buzz = sum(np.sin(k * phase) / k for k in range(1, 20)) * (1.2 + np.sin(2 * np.pi * 4 * time))
            wave = 0.1 * buzz + 0.003 * rng.standard_normal(len(time))
            path = folder / f"voice{voice}" / f"clip{clip}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE)
    return folder


def test_quickstart_runs_to_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recordings = write_recordings(tmp_path / "recordings")
    figures = quickstart(tmp_path / "out", recordings, overrides=FEW_STEPS)

    assert json.loads((tmp_path / "out" / "quickstart.json").read_text()) == figures
    dense, pruned = figures["dense"], figures["pruned"]
    assert pruned["params"] / dense["params"] == pytest.approx(0.5, abs=0.005)
    assert pruned["macs"] < dense["macs"]
    for name, system in (("dense", dense), ("pruned", pruned)):
        model = SpeechModel.from_pretrained(tmp_path / "out" / "models" / name)
        assert sum(parameter.numel() for parameter in model.backbone.parameters()) == system["params"]
        assert all(0 <= system[attacks]["eer"] <= 1 for attacks in ("seen attacks", "unseen attack"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(title in page for title in ("eval_seen", "eval_unseen", "points from dense"))
    printed = capsys.readouterr().out
    assert str(tmp_path / "out" / "report.html") in printed
    for words in ("dense", "pruned", "MACs", "EER %, seen attacks", "EER %, unseen attack", "prepare asvspoof5"):
        assert words in printed


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something other than a quickstart"):
        quickstart(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
