"""ASVspoof 5, track 2: trials and enrolment in the released layout become what `evaluate --track2` reads."""

import pytest

from corpus import files_below, prepare, refuse, touch
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate

FILES = {
    "ASVspoof5.dev.track_1.tsv": "D_1 D_01 F - - - AC1 A11 spoof -\nD_2 D_02 F - - - - bonafide bonafide -\n"
    "D_3 D_03 M - - - - bonafide bonafide -\n",
    "ASVspoof5.dev.track_2.enroll.tsv": "D_1 D_A1,D_A2,D_A3\nD_2 D_A4\n",
    "ASVspoof5.dev.track_2.trial.tsv": "D_1 D_01 F A11 spoof\nD_2 D_02 F bonafide target\n"
    "D_2 D_03 F bonafide nontarget\nD_1 D_02 F bonafide nontarget\n",
}
AUDIO = [*(f"flac_D/D_0{n}.flac" for n in (1, 2, 3)), *(f"flac_D/D_A{n}.flac" for n in (1, 2, 3, 4))]
TRIALS = "ASVspoof5.dev.track_2.trial.tsv"


@pytest.fixture
def root(tmp_path):
    return touch(tmp_path / "root", *AUDIO, texts=FILES)


def test_trials_and_enrolment(root, tmp_path):
    prepared = prepare("asvspoof5", root, tmp_path / "out")
    assert list(prepared.manifests) == list(prepared.counts) == ["dev"], "enrolment is no evaluation set"
    for expected in ("expected 282,456 trials, as released, found 4", "expected 1,184 bona fide and 0 spoofed"):
        assert expected in " ".join(prepared.warnings)
    enrolment = [(u.utt_id, u.speaker, u.path.name) for u in read_manifest(prepared.enrolments["dev"])]
    assert enrolment == [(f"D_A{n}", "D_1" if n < 4 else "D_2", f"D_A{n}.flac") for n in range(1, 5)]
    scores = tmp_path / "scores.tsv"
    scores.write_text(
        "spk\tfilename\tcm-score\tasv-score\tsasv-score\n"
        "D_1\tD_01\t-1\t0\t-1\nD_2\tD_02\t1\t1\t1\nD_2\tD_03\t1\t-1\t-1\nD_1\tD_02\t1\t-1\t-2\n"
    )
    keys = prepared.trials["dev"]
    found = evaluate(scores, keys, "track2").metrics
    assert found == evaluate(scores, root / TRIALS, "track2").metrics, "the same as with the released file"
    assert (found["n_target"], found["n_nontarget"], found["n_spoof"]) == (1, 2, 1)
    assert keys.read_text().splitlines()[:2] == ["spk\tfilename\tcm-label\tasv-label", "D_1\tD_01\tspoof\tspoof"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("D_1 D_02 F bonafide", "trial.tsv:5: 4 columns, expected 5 .spk filename gender attack label"),
        ("D_1 D_03 F bonafide impostor", "trial.tsv:5: label 'impostor', expected target or nontarget or spoof"),
        ("D_1 D_03 F A11 target", "trial.tsv:5: attack 'A11' beside 'target'"),
        ("D_1 D_03 F bonafide spoof", "trial.tsv:5: attack 'bonafide' beside 'spoof'"),
        ("D_1 D_01 F A11 spoof", "trial.tsv:5: 'D_1 D_01' stands twice"),
        ("D_1 D_99 F A11 spoof", "1 of 5 trials name an utterance that is not in the manifest of dev .*first D_1 D_99"),
        ("D_9 D_03 F A11 spoof", "1 of 5 trials .* or a target speaker without enrolment, first D_9 D_03"),
    ],
)
def test_a_bad_trial_is_named_and_no_trials_are_written(root, tmp_path, line, expected):
    (root / TRIALS).write_text(f"{FILES[TRIALS]}{line}\n")
    with pytest.raises(InputError, match=expected):
        prepare("asvspoof5", root, tmp_path / "out")
    assert {path.name for path in files_below(tmp_path / "out")} == {"dev.tsv", "dev.track_2.enrol.tsv"}


@pytest.mark.parametrize(
    ("enrolment", "expected"),
    [
        ("D_1 D_A1 D_A2\n", "enroll.tsv:1: 3 columns, expected 2"),
        ("D_1 D_A1,D_A2\nD_2 D_A2\n", "enroll.tsv:2: 'D_A2.flac' already stands in line 1"),
        ("D_1 D_A1,../../x\n", "enroll.tsv:1: '../../x.flac' is no name of a file below"),
        ("D_1 D_A9\n", "enroll.tsv: 1 of 1 audio files are missing"),
    ],
)
def test_bad_enrolment_is_named_and_nothing_is_written(root, tmp_path, enrolment, expected):
    (root / "ASVspoof5.dev.track_2.enroll.tsv").write_text(enrolment)
    refuse("asvspoof5", root, tmp_path / "out", expected)


def test_trials_of_missing_recordings_are_left_out(root, tmp_path):
    (root / "flac_D" / "D_02.flac").unlink()
    (root / "flac_D" / "D_A4.flac").unlink()
    prepared = prepare("asvspoof5", root, tmp_path / "out", allow_missing=True)
    assert [line.split("\t")[:2] for line in prepared.trials["dev"].read_text().splitlines()[1:]] == [["D_1", "D_01"]]
    assert any("3 of 4 trials" in line and "left out" in line for line in prepared.warnings)


def test_trials_without_enrolment_are_a_warning_and_track_1_is_enough(root, tmp_path):
    (root / "ASVspoof5.dev.track_2.enroll.tsv").unlink()
    prepared = prepare("asvspoof5", root, tmp_path / "out")
    assert not prepared.trials
    assert any("left out, as ASVspoof5.dev.track_2.enroll.tsv is not beside it" in line for line in prepared.warnings)
    (root / TRIALS).unlink()
    prepared = prepare("asvspoof5", root, tmp_path / "out")
    assert (list(prepared.manifests), prepared.enrolments, prepared.trials) == (["dev"], {}, {})
