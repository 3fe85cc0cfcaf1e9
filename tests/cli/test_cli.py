"""The command line: the whole way from a recipe to a table, and one line with exit code 2 for every mistake."""

import json
import re

import pytest

from corpus import files_below
from hybrid_pruning.cli import app
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from logged_runs import build_model, draw_nothing, write_keys, write_run, write_scores

VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def test_from_a_recipe_to_a_table(pristine):
    names = {path.relative_to(pristine).as_posix() for path in files_below(pristine)}
    assert {"run/config.yaml", "run/log.jsonl", "model/config.json", "model/model.safetensors"} <= names
    header, *rows = (pristine / "scores.tsv").read_text().splitlines()
    assert header == "filename\tcm-score"
    assert [row.split("\t")[0] for row in rows] == [u.utt_id for u in read_manifest(pristine / "dev" / "manifest.tsv")]
    table = json.loads((pristine / "table.json").read_text())
    assert {"eer", "min_dcf", "act_dcf", "cllr"} <= set(table)
    assert 0 <= table["eer"] <= 1


def test_every_step_names_the_next(cli, world):
    for command, following in (
        ("train recipe.yaml --out run2", "export run2"),
        ("export run2 --out model2", "score model2"),
        ("score model2 dev/manifest.tsv --out s.tsv --workers 0", "evaluate s.tsv dev/manifest.tsv --track1"),
    ):
        found = cli(*command.split())
        assert found.code == 0, found.err
        assert f"next: hybrid-pruning {following}" in found.out


def test_every_step_is_quiet_on_request_and_gives_its_result_as_json(cli, world):
    for command, expected in (
        ("train recipe.yaml --out run2", {"run": "run2", "epochs": 2}),
        ("export run2 --out model2", {}),
        ("score model2 dev/manifest.tsv --out s.tsv --workers 0", {"scores": "s.tsv", "left_out": 0}),
        ("evaluate s.tsv dev/manifest.tsv --track1", {"n_bonafide": 4}),
    ):
        found = cli(*command.split(), "--quiet", "--json", "result.json")
        assert found.code == 0, found.err
        assert found.out == ""
        result = json.loads((world / "result.json").read_text())
        (world / "result.json").unlink()
        assert all(result[name] == value for name, value in expected.items()), result
    assert cli("evaluate", "s.tsv", "dev/manifest.tsv", "--track1").out, "quiet is for one call"


def test_an_audit_gives_its_counts_though_files_are_faulty(cli, world):
    next((world / "dev").glob("*.wav")).write_bytes(b"RIFF")
    found = cli(*["audit", "dev/manifest.tsv", "--workers", "0", "--quiet", "--json", "faults.json"])
    assert (found.code, found.out) == (2, "")
    assert json.loads((world / "faults.json").read_text()) == {"dev/manifest.tsv": {"faulty": 1, "silent": 0}}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_quiet(cli, verb):
    assert "--quiet" in cli(verb, "--help").out


@pytest.mark.parametrize("command", ["doctor", "inspect model"])
def test_reading_changes_nothing(cli, world, command):
    before = files_below(world)
    found = cli(*command.split())
    assert (found.code, found.err) == (0, "")
    assert found.out.strip()
    assert files_below(world) == before


def test_report_and_inspect_draw(cli, tmp_path, monkeypatch):
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
    build_model().save_pretrained(tmp_path / "model")
    found = cli("inspect", "model", "--out", "kept.svg")
    assert (found.code, "backbone parameters" in found.out) == (0, True), found.err
    assert ">attention heads</text>" in (tmp_path / "kept.svg").read_text()


HUB = {
    "score",
    "cohort",
    "embed",
    "calibrate",
    "detect",
    "verify",
    "convert",
    "card",
    "inspect",
    "probe",
    "benchmark",
    "quickstart",
    "init",
    "serve",
    "web",
}


@pytest.mark.parametrize("verb", VERBS)
def test_help(cli, verb):
    for flag in ("--help", "-h"):
        found = cli(verb, flag)
        assert (found.code, found.err) == (0, "")
        assert "Usage" in found.out
    assert ("owner/name@revision" in re.sub(r"[\s│]", "", found.out)) == (verb in HUB)


def test_help_for_all(cli):
    assert all(verb in cli("--help").out for verb in VERBS)
    assert cli().code == 2


SCORE = "score model dev/manifest.tsv --workers 0 --out"


def last_line(found):
    return found.err.splitlines()[-1]


def test_a_training_goes_on_with_one_corrupt_clip_but_not_with_two(cli, world):
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


def test_a_corrupt_clip_stops_no_scoring_that_goes_on_once_it_is_mended(cli, world):
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


def test_an_internal_error_has_a_code_of_its_own(cli, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("hybrid_pruning.training.export.export", fail)
    found = cli("export", "run", "--out", "new")
    assert found.code == 1
    assert re.fullmatch(r"hybrid-pruning: internal error: RuntimeError: two lines [^\n]+\n", found.err)
    monkeypatch.setenv("HYBRID_PRUNING_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli("export", "run", "--out", "new")


def test_a_revision_reaches_the_hub(cli, world, monkeypatch):
    asked = []

    def refuse(name, *arguments, revision=None, **options):
        asked.append((name, *arguments, *([revision] if revision else [])))
        raise InputError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("hybrid_pruning.training.launch.load_backbone", refuse)
    for command in (
        "inspect me/small@v1",
        "score me/small@v1 dev/manifest.tsv --out new.tsv",
        "detect dev --model me/small@v1",
        "card me/small@v1 --out new.md",
    ):
        assert cli(*command.split()).code == 2
    assert asked == 4 * [("me/small", "v1")]
    asked.clear()
    train = "train recipe.yaml --out new --set backbone.source=me/encoder"
    for revision in ("@v1", " --set backbone.revision=v1"):
        assert cli(*f"{train}{revision}".split()).code == 2
    assert asked == [("me/encoder@v1", False, None), ("me/encoder", False, "v1")]
