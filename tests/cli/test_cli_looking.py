"""The verbs that change nothing, as a user types them: they name their result, and leave nothing when they fail."""

from pathlib import Path

import pytest

from runs_to_look_at import build_model, draw_nothing, write_keys, write_run, write_scores
from world import Cli


def test_report(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    write_run(tmp_path / "dense", epochs=1, pruned=False)
    write_run(tmp_path / "hp40", epochs=1)
    write_keys(tmp_path / "eval.tsv")
    for name in ("a.tsv", "b.tsv"):
        write_scores(tmp_path / name)
    options = "--scores a.tsv --scores hp40=b.tsv --keys eval.tsv --bootstrap 0 --out page.html"
    found = cli("report", "dense", "hp40", *options.split())
    assert found.code == 0, found.err
    assert "page.html: 2 runs; open it in a browser" in found.out
    assert "EER on eval" in (tmp_path / "page.html").read_text()


def test_inspect_draws_the_kept_units(tmp_path: Path, cli: Cli) -> None:
    build_model().save_pretrained(tmp_path / "model")
    found = cli("inspect", "model", "--out", "kept.svg")
    assert (found.code, "backbone parameters" in found.out) == (0, True), found.err
    assert ">attention heads</text>" in (tmp_path / "kept.svg").read_text()


def test_mistakes_are_one_line(tmp_path: Path, cli: Cli) -> None:
    write_run(tmp_path / "hp40", epochs=1)
    build_model().save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    for command, expected in {
        "report nowhere": "nowhere: does not exist",
        "report hp40 --scores s.tsv": "1 --scores and 0 --keys",
        "report hp40 --bootstrap 3": "3 rounds",
        "report hp40 --published timit": "no published systems of 'timit'",
        "inspect model --out kept.gif": "kept.gif: a figure is written as .png, .svg, .pdf",
    }.items():
        found = cli(*command.split())
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert expected in found.err
        assert sorted(tmp_path.rglob("*")) == before
