"""Verification by the commands a user types: cohort, score, calibrate, evaluate, verify."""

import json
import shutil

import numpy as np
import pytest

from exports import calibrate, export_verifier
from hybrid_pruning.console import console
from hybrid_pruning.models.calibration import Calibration
from hybrid_pruning.models.speech_model import SpeechModel
from speakers import EMBEDDING, write_speakers

SCORE = "score {} speakers/manifest.tsv --trials speakers/trials --workers 0 --embeddings e --out"
ONE, OTHER, THIRD = (f"speakers/id0000{speaker}/0{clip}.wav" for speaker, clip in ((0, 0), (0, 1), (1, 0)))


def name_of(path):
    """Return the name of a recording in its manifest."""
    return path.removeprefix("speakers/")


def done(cli, command):
    found = cli(*command.split())
    assert (found.code, found.err) == (0, ""), command
    return found


def read_scores(path):
    return np.array([float(line.split("\t")[2]) for line in path.read_text().splitlines()[1:]])


@pytest.fixture
def with_cohort(cli, world):
    write_speakers(world / "train", 5, 2, seed=3, prefix="tr")
    found = done(cli, "cohort verifier train/manifest.tsv --top-n 3 --out mc --workers 0")
    assert "mc: cohort of 5 speakers, the closest 3 count; next: hybrid-pruning score mc" in found.out
    assert not list(world.glob("*.partial"))
    return world


def test_from_a_model_to_calibrated_scores(cli, with_cohort):
    world = with_cohort
    done(cli, f"{SCORE.format('verifier')} plain.tsv")
    done(cli, f"{SCORE.format('mc')} norm.tsv --qualities")
    found = done(cli, f"{SCORE.format('mc')} centred.tsv --no-norm")
    assert "16 scores of 6 recordings (cosine, less the mean of train/manifest.tsv, not calibrated)" in found.out
    assert "next: hybrid-pruning evaluate centred.tsv speakers/trials --sv" in found.out
    columns = (world / "norm.tsv").read_text().splitlines()[0].split("\t")
    assert columns[:4] == ["enrol", "test", "score", "log-seconds-min"]
    assert len(columns) == 9
    found = done(cli, f"{SCORE.format('verifier')} once.tsv --cohort train/manifest.tsv --top-n 3")
    assert "AS-norm with the 3 closest of its 5 speakers, not calibrated" in found.out
    np.testing.assert_allclose(read_scores(world / "once.tsv"), read_scores(world / "norm.tsv"), atol=1e-4)
    found = done(cli, "calibrate mc norm.tsv speakers/trials --check norm.tsv speakers/trials")
    assert "weight" in found.out
    assert "next: hybrid-pruning score mc MANIFEST --trials TRIALS" in found.out
    found = done(cli, f"{SCORE.format('mc')} llr.tsv --qualities")
    assert "6 recordings (cosine, less the mean of train/manifest.tsv, AS-norm with the 3 closest" in found.out
    about = json.loads((world / "mc/config.json").read_text())
    calibration = Calibration.from_json(about["calibration"], "mc")
    cells = [line.split("\t") for line in (world / "norm.tsv").read_text().splitlines()[1:]]
    beside = {name: np.array([float(row[3 + place]) for row in cells]) for place, name in enumerate(columns[3:])}
    expected = calibration.apply(read_scores(world / "norm.tsv"), beside)
    np.testing.assert_allclose(read_scores(world / "llr.tsv"), expected, atol=1e-6)
    found = done(cli, "evaluate llr.tsv speakers/trials --sv --bootstrap 40 --speakers speakers/manifest.tsv")
    assert "resamples of 3 speakers, enrolled or tested" in " ".join(found.out.split())
    found = cli(*["calibrate", "mc", "llr.tsv", "speakers/trials", "--out", "twice"])  # warns of separate scores
    assert "twice: calibrated (2 fits" in found.out
    done(cli, f"{SCORE.format('twice')} again.tsv")
    assert SpeechModel.from_pretrained(world / "twice").cohort is not None, "the cohort goes along"
    assert np.corrcoef(read_scores(world / "again.tsv"), read_scores(world / "llr.tsv"))[0, 1] > 0.99


def test_a_new_cohort_drops_the_calibration(cli, with_cohort):
    calibrate(with_cohort / "mc")
    found = cli(*["cohort", "mc", "train/manifest.tsv", "--top-n", "4", "--workers", "0"])
    assert found.err == "warning: the model's calibration is dropped: it was of scores without this cohort\n"
    model = SpeechModel.from_pretrained(with_cohort / "mc")
    assert model.calibration is None
    assert model.cohort.top_n == 4


def test_enrolment_with_several_recordings(cli, world):
    (world / "enrol").write_text("A id00000/00.wav,id00000/01.wav\nB id00001/00\n")
    (world / "trials").write_text("A id00002/00.wav F bonafide nontarget\nB id00001/01.wav F A09 spoof\n")
    found = done(cli, "score verifier speakers/manifest.tsv --trials trials --enrol enrol --workers 0 --out s.tsv")
    assert "2 scores of 5 recordings" in found.out
    lines = [line.split("\t")[:2] for line in (world / "s.tsv").read_text().splitlines()]
    assert lines == [["enrol", "test"], ["A", "id00002/00.wav"], ["B", "id00001/01.wav"]]


def test_verify_without_a_calibration_gives_no_verdict(cli, world):
    found = cli("verify", ONE, OTHER, "--model", "verifier")
    assert found.code == 0
    verdict, score, kind, *paths = found.out.rstrip("\n").split("\t")
    assert (verdict, kind, paths) == ("-", "cosine", [ONE, OTHER])
    assert found.err == "hybrid-pruning: verifier is not calibrated: no verdict without --threshold (see calibrate)\n"
    (world / "two").write_text(f"1 {name_of(ONE)} {name_of(OTHER)}\n")
    done(cli, "score verifier speakers/manifest.tsv --trials two --workers 0 --out s.tsv")
    assert float(score) == pytest.approx(read_scores(world / "s.tsv")[0], abs=1e-4)
    record = json.loads(done(cli, f"verify {ONE} {OTHER} --model verifier --json").out)
    assert (record["verdict"], record["threshold"], record["calibrated"], record["kind"]) == (None, None, False, kind)
    assert record["score"] == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize(("threshold", "verdict", "code"), [("-1.1", "same", 0), ("1.1", "different", 3)])
def test_verify_with_a_threshold(cli, world, threshold, verdict, code):
    found = cli("verify", ONE, OTHER, THIRD, "--model", "verifier", "--threshold", threshold, "--fail-on-different")
    assert (found.code, found.out.split("\t")[0], found.err) == (code, verdict, "")


def test_verify_with_a_calibrated_model(cli, with_cohort, monkeypatch):
    calibrate(with_cohort / "mc")
    (with_cohort / "enrol").write_text(f"A {name_of(OTHER)},{name_of(THIRD)}\n")
    (with_cohort / "two").write_text(f"A {name_of(ONE)}\n")
    done(cli, "score mc speakers/manifest.tsv --trials two --enrol enrol --workers 0 --out s.tsv")
    expected = read_scores(with_cohort / "s.tsv")[0]
    record = json.loads(done(cli, f"verify {ONE} {OTHER} {THIRD} --model mc --json").out)
    assert record["score"] == pytest.approx(expected, abs=5e-3)  # the manifest rounds durations
    assert (record["kind"], record["threshold"], record["enrol"]) == ("LLR", 0.0, [OTHER, THIRD])
    assert record["verdict"] == ("same" if expected >= 0 else "different")
    assert set(record["seconds"]) == {"test", "enrol"}
    monkeypatch.setattr(console, "_force_terminal", True)
    shown = done(cli, f"verify {ONE} {OTHER} {THIRD} --model mc").out
    assert record["verdict"] in shown
    assert "LLR" in shown
    assert "│" in shown or "|" in shown


def test_a_tandem_from_two_score_files(cli, world):
    (world / "asv.tsv").write_text("enrol\ttest\tscore\nA\tx\t2\nA\ty\t-2\nA\tz\t3\n")
    (world / "cm.tsv").write_text("filename\tcm-score\nx\t2\ny\t3\nz\t-4\n")
    (world / "keys").write_text("A x F bonafide target\nA y F bonafide nontarget\nA z F A17 spoof\n")
    found = done(cli, "fuse asv.tsv cm.tsv --sasv --out sasv.tsv")
    assert found.out == "sasv.tsv: 3 trials; next: hybrid-pruning evaluate sasv.tsv TRIALS --track2\n"
    done(cli, "evaluate sasv.tsv keys --track2 --json found.json")
    assert json.loads((world / "found.json").read_text())["a_dcf"] == 0


def test_a_verifier_of_another_size_is_refused_in_one_line(cli, with_cohort):
    model = SpeechModel.from_pretrained(with_cohort / "mc")
    wide = np.zeros((5, EMBEDDING + 1), dtype=np.float32)
    type(model.cohort)(wide[0], wide, 3, "x").write(with_cohort / "mc")
    found = cli(*f"{SCORE.format('mc')} new.tsv".split())
    assert found.code == 2
    assert "cohort.safetensors: " in found.err


def test_an_onnx_file_compares_as_the_model_does(cli, once, pristine, tmp_path):
    world = shutil.copytree(export_verifier(once, pristine), tmp_path, dirs_exist_ok=True)
    files = sorted(path.name for path in (world / "graph").iterdir())
    assert files == ["cohort.safetensors", "model.json", "model.onnx"]
    for model in ("mc", "graph"):
        done(cli, f"score {model} speakers/manifest.tsv --trials speakers/trials --workers 0 --out {model}.tsv")
    expected = read_scores(world / "mc.tsv")
    np.testing.assert_allclose(read_scores(world / "graph.tsv"), expected, rtol=1e-3, atol=1e-3)
    rows = [done(cli, f"verify {ONE} {OTHER} --model {model}").out.split("\t") for model in ("mc", "graph")]
    assert rows[0][0] == rows[1][0]
    assert float(rows[1][1]) == pytest.approx(float(rows[0][1]), rel=1e-3, abs=1e-3)
    (world / "graph/cohort.safetensors").unlink()
    found = cli(*f"verify {ONE} {OTHER} --model graph".split())
    assert found.code == 2
    assert "cohort.safetensors: cannot be read" in found.err
