"""The whole way from a raw corpus in VoxCeleb's layout to table and report; embeddings are made once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from corpus import configure, describe_voxceleb, write_voxceleb, write_wavlm
from hybrid_pruning import SpeechModel
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.score_files import read_trials
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Request, evaluate
from hybrid_pruning.jobs.pipeline import Job, run_recipe
from hybrid_pruning.models.cohort import FILE
from hybrid_pruning.scoring.verification.embeddings import Embeddings

SETS = ("dev", "vox1-O", "vox1-H")
STAGES = {
    "head": {"backbone": {"frozen": True}, "training": {"epochs": 1}, "pruning": {"use_pruning_loss": False}},
    "joint": {},
}


def stages_done(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"^(.+): working$", capsys.readouterr().out, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, wavlm: Path) -> Path:
    """A finished job of two stages, of which the second prunes."""
    folder = tmp_path_factory.mktemp("job")
    write_voxceleb(folder / "corpus")
    run_recipe(configure(describe_voxceleb(folder, wavlm), stages=STAGES), folder / "out")
    return folder


def test_from_raw_corpus_to_table_and_report(done: Path):
    out = done / "out"
    for name in SETS:
        table = json.loads((out / "evaluation" / f"{name}.json").read_text())
        assert 0 <= table["eer"] <= 1
        assert len(table["intervals"]["min_dcf_0.01"]) == 2
        assert "speakers" in table["bootstrap"]["resampled"]
    page = (out / "report.html").read_text()
    for text in ("vox1-O", "vox1-H", "minDCF, P(target) 0.01", "resamples of 5 speakers"):
        assert text in page


def test_the_published_rows_of_voxceleb_stand_beside_it(done: Path):
    page = (done / "out" / "report.html").read_text()
    assert "Beside published systems" in page
    assert "on “vox1-O”" in page
    assert "ReDimNet-B2" in page


def test_the_model_has_its_cohort_and_calibration(done: Path):
    model = SpeechModel.from_pretrained(done / "out" / "model")
    assert model.calibration is not None
    assert model.calibration.qualities == {}, "quality measures are not weighed"
    assert model.cohort is not None
    assert (len(model.cohort.speakers), model.cohort.top_n) == (6, 6), "fewer than 300 speakers: all of them"
    assert (done / "out" / "exported" / FILE).exists()


def test_calibration_does_not_change_the_order(done: Path):
    scores = done / "out" / "scores"
    trials = done / "manifests" / "dev.trials"
    raw, final = (read_trials(scores / f"dev{kind}.tsv", trials, SV).scores["score"] for kind in (".uncalibrated", ""))
    model = SpeechModel.from_pretrained(done / "out" / "model")
    assert model.calibration is not None
    np.testing.assert_allclose(final, model.calibration.apply(raw), rtol=1e-6)
    header = (scores / "dev.uncalibrated.tsv").read_text().split("\n")[0]
    assert "log-seconds-min" in header, "for `calibrate`, which may weigh them"


def test_a_manifest_under_two_names_is_embedded_once(done: Path):
    folder = done / "out" / "embeddings"
    assert sorted(path.name for path in folder.iterdir()) == ["dev.safetensors", "vox1-H.safetensors"]
    known = Embeddings.read(folder / "vox1-H.safetensors")
    assert set(known.ids) == {utterance.utt_id for utterance in read_manifest(done / "manifests" / "vox1.tsv")}


def test_judged_scores_hold_their_keys(done: Path):
    judged = done / "out" / "run" / "joint" / "evaluation" / "vox1-H.tsv"
    again = evaluate(SV, judged, judged, Request())
    assert again.metrics["eer"] == json.loads((done / "out" / "evaluation" / "vox1-H.json").read_text())["eer"]


def test_a_second_call_does_nothing(done: Path, wavlm: Path, capsys: pytest.CaptureFixture[str]):
    run_recipe(configure(describe_voxceleb(done, wavlm), stages=STAGES), done / "out")
    assert stages_done(capsys) == []


def test_a_family_of_verifiers_and_a_fraction_of_the_data(done: Path, wavlm: Path, tmp_path: Path):
    recipe = describe_voxceleb(done, wavlm)
    fraction = {"data__fraction": 0.5, "data__fraction_of": "speakers", "training__batch_size": 3}
    config = configure(recipe, **fraction, pruning__export_at=[0.2], corpus=None)
    page = run_recipe(config, tmp_path).read_text()
    member = SpeechModel.from_pretrained(tmp_path / "family" / "hp20")
    assert member.cohort is not None
    assert len(member.cohort.speakers) == 3, "of the speakers trained on"
    assert '<th scope="row">hp20</th>' in page
    assert (tmp_path / "embeddings" / "hp20" / "vox1-H.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__trials": {"dev": "d.trials"}}, r"data\.trials\.vox1-H is missing: give the trials over .*vox1\.tsv"),
        ({"data__eval": {}}, r"data\.trials\.vox1-H: there is no data\.eval\.vox1-H"),
    ],
)
def test_sets_and_trials_go_together(tmp_path: Path, changes: dict[str, object], message: str):
    config = configure(describe_voxceleb(tmp_path, tmp_path), **changes)
    with pytest.raises(InputError, match=message):
        Job(config, tmp_path / "out")
