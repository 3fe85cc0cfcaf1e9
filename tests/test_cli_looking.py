"""The verbs that change nothing, as a user types them: they name their result, and leave nothing when they fail."""

import sys
from pathlib import Path

import pytest

from hybrid_pruning.cli import main
from runs_to_look_at import build_model, draw_nothing, write_keys, write_run, write_scores


def run(*arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hybrid-pruning", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
    return int(caught.value.code or 0)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    runs = [write_run(tmp_path / "dense", epochs=1, pruned=False), write_run(tmp_path / "hp40", epochs=1)]
    keys, out = write_keys(tmp_path / "eval.tsv"), tmp_path / "page.html"
    scores = [write_scores(tmp_path / f"{name}.tsv") for name in ("a", "b")]
    options = ("--scores", scores[0], "--scores", f"hp40={scores[1]}", "--keys", keys, "--bootstrap", 0)
    assert run("report", *runs, *options, "--out", out) == 0
    assert f"{out}: 2 runs; open it in a browser" in capsys.readouterr().out
    assert "EER on eval" in out.read_text()


def test_inspect_draws_the_kept_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_model().save_pretrained(tmp_path / "model")
    assert run("inspect", tmp_path / "model", "--out", tmp_path / "kept.svg") == 0
    assert "backbone parameters" in capsys.readouterr().out
    assert ">attention heads</text>" in (tmp_path / "kept.svg").read_text()


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "hp40", epochs=1)
    build_model().save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    for arguments, expected in {
        ("report", "nowhere"): "nowhere: does not exist",
        ("report", "hp40", "--scores", "s.tsv"): "1 --scores and 0 --keys",
        ("report", "hp40", "--bootstrap", "3"): "3 rounds",
        ("report", "hp40", "--published", "timit"): "no published systems of 'timit'",
        ("inspect", "model", "--out", "kept.gif"): "kept.gif: a figure is written as .png, .svg, .pdf",
    }.items():
        capsys.readouterr()
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert expected in err
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
