"""`run` from a raw corpus to table and report, for both tasks; a step is done once, and never left half done."""

import json
import os
import re
import shutil

import numpy as np
import pytest

import hybrid_pruning as hp
import hybrid_pruning.jobs.run as jobs
from corpus import (
    PROTOCOLS,
    configure,
    describe_asvspoof5,
    describe_voxceleb,
    files_below,
    write_asvspoof5,
    write_wavlm,
)
from hybrid_pruning import InputError, SpeechModel
from hybrid_pruning.config import load_config
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_trials
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.jobs.grid import lay_out, parse_axes
from hybrid_pruning.jobs.steps import Step, bring_up_to_date
from hybrid_pruning.jobs.sweep import read_cell
from hybrid_pruning.jobs.sweep_results import to_markdown
from hybrid_pruning.models.card.evaluations import find_results
from hybrid_pruning.models.cohort import FILE
from hybrid_pruning.scoring.embeddings import Embeddings
from logged_runs import draw_nothing
from world import STAGES, hurry


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hurry(monkeypatch)
    draw_nothing(monkeypatch)


def steps_done(capsys):
    return re.findall(r"^(.+): working$", capsys.readouterr().out, flags=re.MULTILINE)


def copy(job, folder):
    """Copy a job's results, whose recipe goes on naming the job's own manifests."""
    return shutil.copytree(job / "out", folder / "out")


def test_from_raw_corpus_to_table_and_report(spoofing_job):
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


def test_only_the_recipe_that_a_run_goes_on_with_names_places(spoofing_job):
    places = (str(spoofing_job.parent).encode(), os.path.expanduser("~").encode())  # noqa: PTH111
    out = spoofing_job / "out"
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in files_below(out)}
    assert {name for name, content in files.items() if any(place in content for place in places)} == {"run/config.yaml"}
    recipe = json.loads(files["model/config.json"])["provenance"]["recipe"]
    assert recipe["data"]["train"] == "train.tsv"
    assert recipe["backbone"]["source"] == "wavlm"
    assert [result.name for result in find_results(out, {"recipe": recipe})] == ["dev", "eval"]


def test_calibration_was_fitted_on_the_scores_of_the_exported_model(spoofing_job):
    def scores(name):
        rows = [line.split("\t") for line in (spoofing_job / "out" / "scores" / name).read_text().splitlines()[1:]]
        return {utt_id: float(score) for utt_id, score in rows}

    calibration = SpeechModel.from_pretrained(spoofing_job / "out" / "model").calibration
    raw, calibrated = scores("dev.uncalibrated.tsv"), scores("dev.tsv")
    expected = {utt_id: calibration.scale * score + calibration.offset for utt_id, score in raw.items()}
    assert calibrated == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_lost_result_is_made_again_and_nothing_else(spoofing_job, tmp_path, capsys):
    out, config = copy(spoofing_job, tmp_path), configure(describe_asvspoof5(spoofing_job))
    hp.run(config, out)
    assert steps_done(capsys) == []
    (out / "scores" / "eval.tsv").unlink()
    hp.run(config, out)
    assert steps_done(capsys) == ["score eval"]


def test_a_finished_training_is_never_done_over(spoofing_job):
    before = (spoofing_job / "out" / "run" / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match="was trained with another recipe or other manifests; give another --out"):
        hp.run(configure(describe_asvspoof5(spoofing_job), seed=7), spoofing_job / "out")
    assert (spoofing_job / "out" / "run" / "log.jsonl").read_bytes() == before


def test_a_job_goes_on_where_it_was_cut_off(spoofing_job, tmp_path, monkeypatch, capsys):
    """Cut off in the export; another sparsity's snapshot is exported, scored and joined with its keys besides."""
    changes = {"pruning__export_at": (0.2, 0.4), "pruning__export_hold_epochs": 0.5}
    config, out = configure(describe_asvspoof5(spoofing_job), **changes), tmp_path / "out"

    def fail(*arguments, **options):
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


def test_a_set_that_the_corpus_does_not_have(tmp_path):
    write_asvspoof5(tmp_path / "corpus", clips=8)
    write_wavlm(tmp_path / "wavlm")
    config = configure(describe_asvspoof5(tmp_path), data__eval={"wild": str(tmp_path / "manifests" / "wild.tsv")})
    with pytest.raises(InputError, match=r"wild\.tsv: preparing asvspoof5 does not write it; it wrote .*eval\.tsv"):
        hp.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.parametrize("scores", ["inverted", "all the same"])
def test_a_model_that_cannot_be_calibrated_is_scored_and_marked(spoofing_job, tmp_path, capsys, scores):
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
    [cell] = lay_out(load_config(out / "run" / "config.yaml"), parse_axes("0.4", (), (), ()))
    (out.parent / cell.name).symlink_to(out)
    markdown = to_markdown([read_cell(cell, out.parent)])
    assert r"| dev | hp40 \* |" in markdown
    assert r"\*: not calibrated" in markdown
    if scores == "inverted":
        assert "not calibrated" in hp.report([out / "run"], tmp_path / "page.html", rounds=0).read_text()


class Job:
    """Two steps, the second made from the first, that count how often they were done."""

    def __init__(self, folder):
        self.out, self.source, self.done = folder / "out", folder / "source.txt", list[str]()
        self.source.write_text("one")
        self.settings = {"size": 1}
        self.broken = False

    def steps(self):
        first = Step("first", self.act("first"), (self.out / "first.txt",), self.settings, (self.source,))
        return [first, Step("the second", self.act("the second"), (self.out / "the second.txt",), needs=(first,))]

    def act(self, name):
        def action():
            if self.broken and name == "the second":
                raise InputError("no more")
            self.done.append(name)
            self.out.mkdir(exist_ok=True)
            (self.out / f"{name}.txt").write_text(self.source.read_text())

        return action

    def run(self):
        self.done.clear()
        bring_up_to_date(self.steps(), self.out)
        return list(self.done)


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_all_is_done_once(job, capsys):
    assert job.run() == ["first", "the second"]
    assert capsys.readouterr().out == "first: working\nthe second: working\n"
    assert job.run() == []
    assert capsys.readouterr().out == "first: up to date\nthe second: up to date\n"


def test_a_change_is_followed_to_the_end(job):
    job.run()
    job.source.write_text("two")
    assert job.run() == ["first", "the second"]
    job.settings = {"size": 2}
    assert job.run() == ["first", "the second"]
    first = job.steps()[0]
    assert first.last_fingerprint(job.out) == first.fingerprint()


def test_a_missing_result_is_made_again_and_a_new_date_changes_nothing(job):
    job.run()
    job.source.write_text("one")
    assert job.run() == []
    (job.out / "the second.txt").unlink()
    assert job.run() == ["the second"]
    (job.out / "stages" / "first.json").write_text("{")
    assert job.run() == ["first"]


def test_steps_before_a_failure_stay_done(job):
    job.broken = True
    with pytest.raises(InputError, match="no more"):
        job.run()
    assert job.done == ["first"]
    assert job.steps()[1].last_fingerprint(job.out) is None
    job.broken = False
    assert job.run() == ["the second"]


def test_an_input_that_cannot_be_read(job):
    job.source.unlink()
    with pytest.raises(InputError, match=r"source\.txt: cannot be read"):
        job.run()
    assert not job.out.exists()


@pytest.fixture
def out(verification_job):
    return verification_job / "out"


def test_verification_from_raw_corpus_to_table_and_report(out):
    for name in ("dev", "vox1-O", "vox1-H"):
        table = json.loads((out / "evaluation" / f"{name}.json").read_text())
        assert 0 <= table["eer"] <= 1
        assert len(table["intervals"]["min_dcf_0.01"]) == 2
        assert "speakers" in table["bootstrap"]["resampled"]
    page = (out / "report.html").read_text()
    for text in ("vox1-O", "vox1-H", "minDCF, P(target) 0.01", "resamples of 5 speakers", "EER, all scores, %"):
        assert text in page
    for text in ("Beside published systems", "on “vox1-O”", "ReDimNet-B2"):
        assert text in page


def test_the_model_has_its_cohort_and_calibration(out):
    model = SpeechModel.from_pretrained(out / "model")
    assert model.calibration.qualities == {}, "quality measures are not weighed"
    assert (len(model.cohort.speakers), model.cohort.top_n) == (6, 6), "fewer than 300 speakers: all of them"
    assert (out / "exported" / FILE).exists()
    trials = out.parent / "manifests" / "dev.trials"
    raw, final = (read_trials(out / "scores" / f"dev{kind}.tsv", trials, SV) for kind in (".uncalibrated", ""))
    np.testing.assert_allclose(final.scores["score"], model.calibration.apply(raw.scores["score"]), rtol=1e-6)
    header = (out / "scores" / "dev.uncalibrated.tsv").read_text().split("\n")[0]
    assert "log-seconds-min" in header, "for `calibrate`, which may weigh them"


def test_a_manifest_under_two_names_is_embedded_once(out):
    folder = out / "embeddings"
    assert sorted(path.name for path in folder.iterdir()) == ["dev.safetensors", "vox1-H.safetensors"]
    known = Embeddings.read(folder / "vox1-H.safetensors")
    assert set(known.ids) == {utterance.utt_id for utterance in read_manifest(out.parent / "manifests" / "vox1.tsv")}


def test_joined_scores_hold_their_keys(out):
    joined = out / "run" / "joint" / "evaluation" / "vox1-H.tsv"
    again = evaluate(joined, joined, SV)
    assert again.metrics["eer"] == json.loads((out / "evaluation" / "vox1-H.json").read_text())["eer"]


def test_a_second_call_does_nothing(out, capsys):
    hp.run(configure(describe_voxceleb(out.parent), stages=STAGES), out)
    assert steps_done(capsys) == []


def test_a_snapshot_and_a_fraction_of_the_data(verification_job, tmp_path):
    fraction = {"data__fraction": 0.5, "data__fraction_of": "speakers", "training__batch_size": 3}
    recipe = describe_voxceleb(verification_job)
    raw = {"cohort__crop_seconds": 0.05, "cohort__unit_length": False}
    hp.run(configure(recipe, **fraction, **raw, pruning__export_at=[0.2], corpus=None), tmp_path)
    snapshot = SpeechModel.from_pretrained(tmp_path / "family" / "hp20")
    assert len(snapshot.cohort.speakers) == 3, "of the speakers trained on"
    assert (tmp_path / "run" / "evaluation" / "hp20" / "vox1-O.tsv").exists()
    assert (tmp_path / "embeddings" / "hp20" / "vox1-H.safetensors").exists()


def test_trials_need_their_set(tmp_path):
    with pytest.raises(InputError, match=r"data\.trials\.vox1-H: there is no data\.eval\.vox1-H"):
        hp.run(configure(describe_voxceleb(tmp_path), data__eval={}), tmp_path / "out")


def test_several_corpora_and_sets(verification_job, tmp_path, capsys):
    """As one dev set, broken down by corpus and calibrated on; over the others the mean and the pooled EER."""
    recipe = describe_voxceleb(verification_job)
    data = configure(recipe).data
    shutil.copytree(verification_job / "manifests", tmp_path / "manifests")
    train = {"one": str(data.train), "two": str(tmp_path / "manifests" / "train.tsv")}
    dev = {"own": str(data.dev), "vox1": str(data.eval["vox1-H"])}
    trials = {**recipe["data"]["trials"], "dev": {"own": str(data.trials["dev"]), "vox1": str(data.trials["vox1-H"])}}
    sets = {"data__train": train, "data__dev": dev, "data__trials": trials, "corpus": None}
    config, out = configure(recipe, **sets, training__epochs=1), tmp_path / "out"
    hp.run(config, out)
    printed = capsys.readouterr().out
    table = json.loads((out / "evaluation" / "dev.json").read_text())
    assert {row["corpus"] for row in table["by"]["corpus"]} == {"own", "vox1"}
    assert "speakers" in table["bootstrap"]["resampled"]
    assert len(SpeechModel.from_pretrained(out / "model").cohort.speakers) == 12, "of two corpora, by the same names"
    rates = [json.loads((out / "evaluation" / f"{name}.json").read_text())["eer"] for name in data.eval]
    pooled = json.loads((out / "pooled.json").read_text())
    assert pooled["sets"] == [*data.eval]
    assert pooled["mean_eer"] == pytest.approx(sum(rates) / 2)
    shown = {
        line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith(("│ mean", "│ pooled"))
    }
    for name, line in shown.items():
        assert f"{100 * pooled[f'{name}_eer']:.3f}" in line
    assert len(shown) == 2
    hp.run(config, out)
    assert steps_done(capsys) == []
