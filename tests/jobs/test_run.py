"""`run` for anti-spoofing, from a raw corpus in ASVspoof 5's layout to table and report; nothing is done twice."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

import hybrid_pruning as hp
import hybrid_pruning.jobs.run as jobs
from corpus import PROTOCOLS, configure, describe_asvspoof5, files_below, write_asvspoof5, write_wavlm
from hybrid_pruning import InputError, SpeechModel
from hybrid_pruning.jobs.sweep import read_job, to_markdown
from hybrid_pruning.models.card import find_results
from logged_runs import draw_nothing
from world import hurry


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    draw_nothing(monkeypatch)


def steps_done(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"^(.+): working$", capsys.readouterr().out, flags=re.MULTILINE)


def copy(job: Path, folder: Path) -> Path:
    """Copy a job's results, whose recipe goes on naming the job's own manifests."""
    return shutil.copytree(job / "out", folder / "out")


def test_from_raw_corpus_to_table_and_report(spoofing_job: Path):
    out = spoofing_job / "out"
    for name in ("dev", "eval"):
        table = json.loads((out / "evaluation" / f"{name}.json").read_text())
        assert 0 <= table["eer"] <= 1
        assert len(table["intervals"]["eer"]) == 2
        assert [row["attack"] for row in table["by"]["attack"]]
    assert {row["codec"] for row in table["by"]["codec"]} == {"-", "C05"}
    header, *rows = (out / "run" / "evaluation" / "eval.tsv").read_text().splitlines()
    assert header.split("\t")[:3] == ["filename", "cm-score", "cm-label"]
    assert len(rows) == 16
    assert "<html" in (out / "report.html").read_text()[:200]
    assert SpeechModel.from_pretrained(out / "exported").calibration is None


def test_only_the_recipe_that_a_run_goes_on_with_names_places(spoofing_job: Path):
    places = (str(spoofing_job.parent).encode(), os.path.expanduser("~").encode())  # noqa: PTH111
    out = spoofing_job / "out"
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in files_below(out)}
    assert {name for name, content in files.items() if any(place in content for place in places)} == {"run/config.yaml"}
    recipe = json.loads(files["model/config.json"])["provenance"]["recipe"]
    assert recipe["data"]["train"] == "train.tsv"
    assert recipe["backbone"]["source"] == "wavlm"
    assert [result.name for result in find_results(out, {"recipe": recipe})] == ["dev", "eval"]


def test_calibration_was_fitted_on_the_scores_of_the_exported_model(spoofing_job: Path):
    def scores(name: str) -> dict[str, float]:
        rows = [line.split("\t") for line in (spoofing_job / "out" / "scores" / name).read_text().splitlines()[1:]]
        return {utt_id: float(score) for utt_id, score in rows}

    calibration = SpeechModel.from_pretrained(spoofing_job / "out" / "model").calibration
    assert calibration is not None
    raw, calibrated = scores("dev.uncalibrated.tsv"), scores("dev.tsv")
    expected = {utt_id: calibration.scale * score + calibration.offset for utt_id, score in raw.items()}
    assert calibrated == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_lost_result_is_made_again_and_nothing_else(
    spoofing_job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, config = copy(spoofing_job, tmp_path), configure(describe_asvspoof5(spoofing_job))
    hp.run(config, out)
    assert steps_done(capsys) == []
    (out / "scores" / "eval.tsv").unlink()
    hp.run(config, out)
    assert steps_done(capsys) == ["score eval"]


def test_a_finished_training_is_never_done_over(spoofing_job: Path):
    before = (spoofing_job / "out" / "run" / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match="was trained with another recipe or other manifests; give another --out"):
        hp.run(configure(describe_asvspoof5(spoofing_job), seed=7), spoofing_job / "out")
    assert (spoofing_job / "out" / "run" / "log.jsonl").read_bytes() == before


def test_a_job_goes_on_where_it_was_cut_off(
    spoofing_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Cut off in the export; another sparsity's snapshot is exported, scored and joined with its keys besides."""
    changes = {"pruning__export_at": (0.2, 0.4), "pruning__export_hold_epochs": 0.5}
    config, out = configure(describe_asvspoof5(spoofing_job), **changes), tmp_path / "out"

    def fail(*arguments: object, **options: object) -> None:
        raise InputError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "build_export", fail)
        with pytest.raises(InputError, match="no room"):
            hp.run(config, out)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", fail)  # is not called again
        assert hp.run(config, out).exists()
    assert SpeechModel.from_pretrained(out / "family" / "hp20").provenance["snapshot_at"] == 0.2
    joined = out / "run" / "evaluation" / "hp20"  # the report shows them
    assert [path.name for path in sorted(joined.iterdir())] == ["dev.tsv", "eval.tsv"]
    capsys.readouterr()
    hp.run(config, out)
    assert steps_done(capsys) == []


def test_a_set_that_the_corpus_does_not_have(tmp_path: Path):
    write_asvspoof5(tmp_path / "corpus", clips=8)
    write_wavlm(tmp_path / "wavlm")
    config = configure(describe_asvspoof5(tmp_path), data__eval={"wild": str(tmp_path / "manifests" / "wild.tsv")})
    with pytest.raises(InputError, match=r"wild\.tsv: preparing asvspoof5 does not write it; it wrote .*eval\.tsv"):
        hp.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.parametrize("scores", ["inverted", "all the same"])
def test_a_model_that_cannot_be_calibrated_is_scored_and_marked(
    spoofing_job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scores: str
):
    """The dev scores are changed behind the job's back: `run` goes on, and says it in both places."""
    out = copy(spoofing_job, tmp_path)
    table = out / "scores" / "dev.uncalibrated.tsv"
    header, *rows = table.read_text().splitlines()
    protocol = (spoofing_job / "corpus" / PROTOCOLS["D"][1]).read_text().splitlines()
    labels = {line.split()[1]: line.split()[8] for line in protocol}
    names = [row.split("\t")[0] for row in rows]
    values = [(labels[name] == "spoof") * (scores == "inverted") + 0.1 for name in names]
    table.write_text("\n".join([header, *(f"{name}\t{value}" for name, value in zip(names, values, strict=True))]))
    for record in (out / "stages").iterdir():
        if record.stem not in ("prepare", "train", "export", "score-dev,-uncalibrated"):
            record.unlink()
    hp.run(configure(describe_asvspoof5(spoofing_job)), out)
    why = "lower scores speak for bonafide" if scores == "inverted" else "all scores of system 1 are 0.1"
    assert f"warning: the model is left uncalibrated: {why}" in capsys.readouterr().err.replace(f"{table}: ", "")
    assert SpeechModel.from_pretrained(out / "model").calibration is None
    markdown = to_markdown([read_job(out, 0.4, ["dev", "eval"])])
    assert r"| dev | out \* |" in markdown
    assert r"\*: not calibrated" in markdown
    if scores == "inverted":
        assert "not calibrated" in hp.report([out / "run"], tmp_path / "page.html", rounds=0).read_text()
