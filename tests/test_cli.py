"""The command line: the whole way from a recipe to a table, and one line with exit code 2 for every mistake."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from corpus import files_below, settings
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


def wrong_column(world: Path) -> None:
    path = world / "dev" / "manifest.tsv"
    path.write_text(path.read_text().replace("utt_id", "id", 1))


def missing_score(world: Path) -> None:
    path = world / "scores.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def cut_weights(world: Path) -> None:
    path = world / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def recipe_typo(world: Path) -> None:
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    (world / "recipe.yaml").write_text(yaml.safe_dump(settings(recipe, {"pruning.target_sparsty": 0.5})))


def nothing(world: Path) -> None:
    """Leave the world as it is: the command line itself is wrong."""


SCORE = "score model dev/manifest.tsv --workers 0 --out"
MISTAKES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "recipe typo": (recipe_typo, "train recipe.yaml --out new", "recipe.yaml: key .*'target_sparsity'"),
    "typo in --set": (nothing, "train recipe.yaml --out new --set heads.kind=mhfa", "'heads' is unknown.*'head'"),
    "--set without =": (nothing, "train recipe.yaml --out new --set seed", "--set seed: expected key=value"),
    "target 1.5": (nothing, "train recipe.yaml --out new --set pruning.target_sparsity=1.5", "target_sparsity.*1.5"),
    "target 0.99": (nothing, "train recipe.yaml --out new --set pruning.target_sparsity=0.99", "the maximum is 0.8"),
    "missing recipe": (nothing, "train nowhere.yaml --out new", "nowhere.yaml: cannot be read"),
    "missing manifest": (nothing, "train recipe.yaml --out new --set data.train=nowhere.tsv", "nowhere.tsv: cannot"),
    "missing encoder": (nothing, "train recipe.yaml --out new --set backbone.source=/no/where", "/no/where: no trans"),
    "wrong column": (wrong_column, "train recipe.yaml --out new", "manifest.tsv:1: column 'utt_id' is missing"),
    "taken folder": (nothing, "train recipe.yaml --out run", "run: is not empty"),
    "resume nothing": (nothing, "train recipe.yaml --out new --resume", "new: is no training run"),
    "resume another": (nothing, "train recipe.yaml --out run --resume", "differs from the recipe"),
    "export nothing": (nothing, "export nowhere --out new", "nowhere: is no training run"),
    "export over a model": (nothing, "export run --out model", "model: is not empty"),
    "score with nothing": (nothing, "score /no/where dev/manifest.tsv --out new", "/no/where: neither a folder"),
    "score with an encoder": (nothing, "score wavlm dev/manifest.tsv --out new", "no hybrid-pruning artifact"),
    "score with half a model": (cut_weights, f"{SCORE} new.tsv", "model.safetensors: is damaged"),
    "score a wrong column": (wrong_column, f"{SCORE} new.tsv", "column 'utt_id' is missing"),
    "score into a folder": (nothing, f"{SCORE} model", "model: is a folder"),
    "evaluate other ids": (missing_score, "evaluate scores.tsv dev/manifest.tsv --track1 --json new.json", "spoof-07"),
    "evaluate nothing": (nothing, "evaluate nowhere.tsv dev/manifest.tsv --track1", "nowhere.tsv: cannot be read"),
    "evaluate how": (nothing, "evaluate scores.tsv dev/manifest.tsv", "choose one of --track1"),
    "inspect nothing": (nothing, "inspect /no/where", "/no/where: neither a folder"),
    "unknown option": (nothing, "train recipe.yaml --out new --target 0.5", "No such option.*--target"),
    "unknown verb": (nothing, "trian recipe.yaml", "No such command 'trian'"),
    "missing option": (nothing, "train recipe.yaml", "--out"),
    "missing argument": (nothing, "score --out new.tsv", "MODEL|model"),
    "wrong kind of value": (nothing, f"{SCORE} new.tsv --batch-size many", "batch-size.*integer"),
    "value out of range": (nothing, f"{SCORE} new.tsv --batch-size 0", "batch-size"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(cli: Cli, world: Path, mistake: str):
    damage, command, expected = MISTAKES[mistake]
    damage(world)
    before = {path: path.read_bytes() for path in files_below(world)}
    found = cli(*command.split())
    assert (found.code, found.out) == (2, ""), found.err
    assert re.fullmatch(r"hybrid-pruning: [^\n]+\n", found.err), found.err
    assert re.search(expected, found.err), found.err
    assert {path: path.read_bytes() for path in files_below(world)} == before


def last_line(found: Any) -> str:
    """What a failure says, below the warnings that may stand before it."""
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


def test_a_fault_of_ours_is_told_apart(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch):
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
