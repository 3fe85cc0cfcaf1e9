"""The command line: the whole way from a recipe to a table, and one line with exit code 2 for every mistake."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from corpus import files_below
from hybrid_pruning.cli import app
from hybrid_pruning.data.manifest import read_manifest
from world import Cli

VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def test_from_a_recipe_to_a_table(pristine: Path):
    names = {path.relative_to(pristine).as_posix() for path in files_below(pristine)}
    assert {"run/config.yaml", "run/log.jsonl", "model/config.json", "model/model.safetensors"} <= names
    header, *rows = (pristine / "scores.tsv").read_text().splitlines()
    assert header == "filename\tcm-score"
    assert [row.split("\t")[0] for row in rows] == [u.utt_id for u in read_manifest(pristine / "dev" / "manifest.tsv")]
    table = json.loads((pristine / "table.json").read_text())
    assert {"eer", "min_dcf", "act_dcf", "cllr"} <= set(table)
    assert 0 <= table["eer"] <= 1


def test_every_step_names_the_next(cli: Cli, world: Path):
    for command, following in (
        ("train recipe.yaml --out run2", "export run2"),
        ("export run2 --out model2", "score model2"),
        ("score model2 dev/manifest.tsv --out s.tsv --workers 0", "evaluate s.tsv dev/manifest.tsv --track1"),
    ):
        found = cli(*command.split())
        assert found.code == 0, found.err
        assert f"next: hybrid-pruning {following}" in found.out


@pytest.mark.parametrize("command", ["doctor", "inspect model"])
def test_what_only_looks(cli: Cli, world: Path, command: str):
    pytest.importorskip("hybrid_pruning.reporting.inspection")
    before = files_below(world)
    found = cli(*command.split())
    assert (found.code, found.err) == (0, "")
    assert found.out.strip()
    assert files_below(world) == before


@pytest.mark.parametrize("verb", VERBS)
def test_help(cli: Cli, verb: str):
    for flag in ("--help", "-h"):
        found = cli(verb, flag)
        assert (found.code, found.err) == (0, "")
        assert "Usage" in found.out


def test_help_for_all(cli: Cli):
    assert all(verb in cli("--help").out for verb in VERBS)
    assert cli().code == 2


SCORE = "score model dev/manifest.tsv --workers 0 --out"


def last_line(found: Any) -> str:
    """Return the line of a failure, below the warnings that may stand before it."""
    return found.err.splitlines()[-1]


def test_a_training_survives_one_corrupt_clip_but_not_two(cli: Cli, world: Path):
    clips = [utterance.path for utterance in read_manifest(world / "train" / "manifest.tsv")]
    clips[5].write_bytes(b"RIFF no audio")
    found = cli("train", "recipe.yaml", "--out", "new")
    assert found.code == 0, found.err
    title, line = re.findall(r".*cannot be decoded.*|.*could not be read.*", found.out)
    assert title == "1 of 24 training files could not be read and were replaced by others:"
    assert clips[5].name in line
    last = json.loads((world / "new" / "log.jsonl").read_text().splitlines()[-1])
    assert (last["skipped"]["files"], clips[5].name in last["skipped"]["first"][0]) == (1, True)
    good = clips[6].read_bytes()
    clips[6].write_bytes(b"RIFF no audio")
    found = cli("train", "recipe.yaml", "--out", "newer")
    assert found.code == 2
    assert re.fullmatch(
        r"hybrid-pruning: \S+manifest.tsv: 2 of 24 training files cannot be read[^\n]+", last_line(found)
    )
    clips[6].write_bytes(good)
    assert cli("train", "recipe.yaml", "--out", "newer", "--resume").code == 0


def test_a_corrupt_clip_stops_no_scoring_that_goes_on_once_it_is_mended(cli: Cli, world: Path):
    path = read_manifest(world / "dev" / "manifest.tsv")[3].path
    good = path.read_bytes()
    path.write_bytes(b"RIFF no audio")
    found = cli(*SCORE.split(), "new.tsv")
    assert found.code == 2
    assert re.fullmatch(rf"hybrid-pruning: \S*{path.name}: cannot be decoded [^\n]+", last_line(found))
    assert not (world / "new.tsv").exists()
    found = cli(*SCORE.split(), "new.tsv", "--skip-bad")
    assert found.code == 0
    assert "1 of 8 utterances are left out, see new.tsv.failed.tsv" in found.err
    assert "new.tsv: 7 scores" in found.out
    path.write_bytes(good)
    assert cli(*SCORE.split(), "new.tsv").code == 0
    assert not (world / "new.tsv.failed.tsv").exists()


def test_an_internal_error_has_its_own_code(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("hybrid_pruning.training.export.export", fail)
    found = cli("export", "run", "--out", "new")
    assert found.code == 1
    assert re.fullmatch(r"hybrid-pruning: internal error: RuntimeError: two lines [^\n]+\n", found.err)
    monkeypatch.setenv("HYBRID_PRUNING_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli("export", "run", "--out", "new")


def test_control_c_is_no_success(cli: Cli, monkeypatch: pytest.MonkeyPatch, world: Path):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybrid_pruning.training.export.export", interrupt)
    assert cli("export", "run", "--out", "new").code == 130
