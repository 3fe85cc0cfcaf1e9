"""`run` for speaker verification, from a raw corpus in VoxCeleb's layout to table and report; one embedding each."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_run import steps_done

import hybrid_pruning as hp
from corpus import configure, describe_voxceleb
from hybrid_pruning import InputError, SpeechModel
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_trials
from hybrid_pruning.evaluation import evaluate
from hybrid_pruning.models.cohort import FILE
from hybrid_pruning.scoring.embeddings import Embeddings
from world import STAGES, hurry


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def out(verification_job: Path) -> Path:
    return verification_job / "out"


def test_from_raw_corpus_to_table_and_report(out: Path):
    for name in ("dev", "vox1-O", "vox1-H"):
        table = json.loads((out / "evaluation" / f"{name}.json").read_text())
        assert 0 <= table["eer"] <= 1
        assert len(table["intervals"]["min_dcf_0.01"]) == 2
        assert "speakers" in table["bootstrap"]["resampled"]
    page = (out / "report.html").read_text()
    for text in ("vox1-O", "vox1-H", "minDCF, P(target) 0.01", "resamples of 5 speakers"):
        assert text in page
    for text in ("Beside published systems", "on “vox1-O”", "ReDimNet-B2"):
        assert text in page


def test_the_model_has_its_cohort_and_calibration(out: Path):
    model = SpeechModel.from_pretrained(out / "model")
    assert model.calibration is not None
    assert model.calibration.qualities == {}, "quality measures are not weighed"
    assert model.cohort is not None
    assert (len(model.cohort.speakers), model.cohort.top_n) == (6, 6), "fewer than 300 speakers: all of them"
    assert (out / "exported" / FILE).exists()
    trials = out.parent / "manifests" / "dev.trials"
    raw, final = (read_trials(out / "scores" / f"dev{kind}.tsv", trials, SV) for kind in (".uncalibrated", ""))
    np.testing.assert_allclose(final.scores["score"], model.calibration.apply(raw.scores["score"]), rtol=1e-6)
    header = (out / "scores" / "dev.uncalibrated.tsv").read_text().split("\n")[0]
    assert "log-seconds-min" in header, "for `calibrate`, which may weigh them"


def test_a_manifest_under_two_names_is_embedded_once(out: Path):
    folder = out / "embeddings"
    assert sorted(path.name for path in folder.iterdir()) == ["dev.safetensors", "vox1-H.safetensors"]
    known = Embeddings.read(folder / "vox1-H.safetensors")
    assert set(known.ids) == {utterance.utt_id for utterance in read_manifest(out.parent / "manifests" / "vox1.tsv")}


def test_joined_scores_hold_their_keys(out: Path):
    joined = out / "run" / "joint" / "evaluation" / "vox1-H.tsv"
    again = evaluate(joined, joined, SV)
    assert again.metrics["eer"] == json.loads((out / "evaluation" / "vox1-H.json").read_text())["eer"]


def test_a_second_call_does_nothing(out: Path, capsys: pytest.CaptureFixture[str]):
    hp.run(configure(describe_voxceleb(out.parent), stages=STAGES), out)
    assert steps_done(capsys) == []


def test_a_snapshot_and_a_fraction_of_the_data(verification_job: Path, tmp_path: Path):
    fraction = {"data__fraction": 0.5, "data__fraction_of": "speakers", "training__batch_size": 3}
    recipe = describe_voxceleb(verification_job)
    raw = {"cohort__crop_seconds": 0.05, "cohort__unit_length": False}
    hp.run(configure(recipe, **fraction, **raw, pruning__export_at=[0.2], corpus=None), tmp_path)
    snapshot = SpeechModel.from_pretrained(tmp_path / "family" / "hp20")
    assert snapshot.cohort is not None
    assert len(snapshot.cohort.speakers) == 3, "of the speakers trained on"
    assert (tmp_path / "run" / "evaluation" / "hp20" / "vox1-O.tsv").exists()
    assert (tmp_path / "embeddings" / "hp20" / "vox1-H.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__trials": {"dev": "d.trials"}}, r"data\.trials\.vox1-H is missing: give the trials over .*vox1\.tsv"),
        ({"data__eval": {}}, r"data\.trials\.vox1-H: there is no data\.eval\.vox1-H"),
    ],
)
def test_sets_and_trials_go_together(tmp_path: Path, changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        hp.run(configure(describe_voxceleb(tmp_path), **changes), tmp_path / "out")
