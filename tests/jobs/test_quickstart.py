"""The quickstart end to end in small: a handful of recordings, a few steps, from folder to table."""

import json
from functools import partial
from pathlib import Path

import pytest

from hybrid_pruning import InputError, SpeechModel, quickstart, report
from logged_runs import draw_nothing
from sounds import SECOND, vowel, write_sounds

FEW_STEPS = ("training.epochs=2", "pruning.sparsity_warmup_epochs=1", "pruning.initial_reg_lr=0.5", "data.workers=0")


def test_quickstart_runs_to_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("hybrid_pruning.jobs.quickstart.report", partial(report, rounds=50))
    draw_nothing(monkeypatch)
    for voice in range(6):
        pitch_hz, seeds = 90 + 25 * voice, (2 * voice, 2 * voice + 1)
        write_sounds(tmp_path / "recordings" / f"{voice}", [vowel(2 * SECOND, pitch_hz, seed) for seed in seeds])
    figures = quickstart(tmp_path / "out", tmp_path / "recordings", overrides=FEW_STEPS)

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


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something other than a quickstart"):
        quickstart(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
