"""Lists of trials in every form, names with and without suffix, enrolment files, and their faults."""

from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning.data.manifest import Utterance, without_suffix
from hybrid_pruning.data.trials import Register, read_pairs
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.trial_scores import TrialPlan, plan_trials, read_enrolment
from hybrid_pruning.tasks import Label

UTTERANCES = [Utterance(name, Path(f"{name}.flac"), Label.BONAFIDE) for name in ("a/1", "a/2", "b/1", "b/2", "c/1")]


def write(folder: Path, text: str, name: str = "list") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n", [("a/1.wav", "a/2.wav"), ("a/1.wav", "b/1.wav")]),
        ("a/1 a/2 target\na/1 b/1 nontarget\n", [("a/1", "a/2"), ("a/1", "b/1")]),
        ("a/1 a/2\na/1 b/1\n", [("a/1", "a/2"), ("a/1", "b/1")]),
        ("D_1 E_1 F bonafide target\nD_1 E_2 F A11 spoof\n", [("D_1", "E_1"), ("D_1", "E_2")]),
        ("D_1 E_1 bonafide target\nD_1 E_2 A11 spoof\n", [("D_1", "E_1"), ("D_1", "E_2")]),
        ("enrol\ttest\tlabel\na b\tc d\t1\n", [("a b", "c d")]),
        ("test\tenrol\nx\ty\n", [("y", "x")]),
        ("spk\tfilename\tcm-label\tasv-label\nD\tE\tspoof\tspoof\n", [("D", "E")]),
        ("1 a b\n1 a b\n", [("a", "b"), ("a", "b")]),  # a trial that stands twice is there twice
        ("1 a b\n", [("a", "b")]),  # of one class
    ],
)
def test_lists_in_every_form(tmp_path: Path, text: str, expected: list[tuple[str, str]]):
    found = read_pairs(write(tmp_path, text))
    assert list(zip(found.enrol, found.test, strict=True)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", r"list:1: 0 columns"),
        ("a\n", r"list:1: 1 columns"),
        ("a b c d e f g\n", r"list:1: 7 columns"),
        ("enrol\ttest\n", r"list: no trials"),
        ("enrol\tother\na\tb\n", r"list:1: column 'test' is missing"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputError, match=message):
        read_pairs(write(tmp_path, text))


def test_names_are_found_with_and_without_suffix():
    register = Register(["a.wav", "b", "c.flac", "c.wav", "d.e", "x.v1.wav"])
    found = {name: register.find(name) for name in ("a", "a.flac", "a.wav", "b.wav", "b", "c.wav", "c.flac", "x.v1")}
    assert found == {"a": 0, "a.flac": 0, "a.wav": 0, "b.wav": 1, "b": 1, "c.wav": 3, "c.flac": 2, "x.v1": 5}
    assert register.find("d.e.wav") == 4
    assert {register.find(name) for name in ("c", "c.mp3", "d", "", ".wav")} == {None}
    assert [without_suffix(name) for name in ("a.WAV", "a.txt", "a/b.c", "a")] == ["a", "a.txt", "a/b.c", "a"]


@pytest.mark.parametrize(
    "text",
    [
        "A a/1,a/2\nB b/1\n",
        "A a/1 a/2\nB b/1\n",
        "speaker\tutt_id\nA\ta/1\nB\tb/1\nA\ta/2\n",
        "utt_id\tpath\tlabel\tspeaker\na/1\tx.wav\tbonafide\tA\na/2\ty.wav\tbonafide\tA\nb/1\tz.wav\tbonafide\tB\n",
    ],
)
def test_enrolment_in_every_form(tmp_path: Path, text: str):
    found = read_enrolment(write(tmp_path, text))
    assert found.speakers == {"A": ["a/1", "a/2"], "B": ["b/1"]}
    assert [utterance.path.name for utterance in found.utterances] == (
        ["x.wav", "y.wav", "z.wav"] if "path" in text else []
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A a/1\nA a/2\n", r"list:2: speaker 'A' stands twice"),
        ("", r"list: no speaker is enrolled"),
        ("speaker\tutt_id\n", r"list: no speaker is enrolled"),
        ("speaker\tutt_id\nA\t\n", r"list:2: speaker or utt_id is empty"),
        ("speaker\tutt_id\nA\n", r"list:2: 1 columns, expected 2"),
        ("A ,\n", r"list:1: speaker 'A' has no recording"),
    ],
)
def test_enrolments_that_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputError, match=message):
        read_enrolment(write(tmp_path, text))


def plan(folder: Path, trials: str, enrolment: str | None = None) -> TrialPlan:
    enrolled = None if enrolment is None else read_enrolment(write(folder, enrolment, "enrol"))
    return plan_trials(read_pairs(write(folder, trials)), "manifest.tsv", UTTERANCES, enrolled)


def members(plan: TrialPlan) -> list[list[str]]:
    """Return the recordings of each enrolment model, by name."""
    places, owner = plan.models.places, plan.models.owner
    return [
        [plan.utterances[place].utt_id for place in places[owner == model]] for model in range(len(plan.models.names))
    ]


def test_recordings_that_trials_need_are_planned(tmp_path: Path):
    found = plan(tmp_path, "1 b/2.wav b/1.wav\n0 b/1.wav c/1.wav\n1 b/2.wav b/1\n")
    assert [utterance.utt_id for utterance in found.utterances] == ["b/1", "b/2", "c/1"]
    compared = [[members(found)[model] for model in pair] for pair in found.pairs]
    assert compared == [[["b/2"], ["b/1"]], [["b/1"], ["c/1"]], [["b/2"], ["b/1"]]]
    assert len(found.models.names) == 3, "each recording once"


def test_enrolled_speakers_are_their_recordings(tmp_path: Path):
    found = plan(tmp_path, "a/1 a/2 target\nB c/1 nontarget\n", "a/1 b/1,b/2,b/1\nB a/2\nC nowhere\n")
    compared = [[members(found)[model] for model in pair] for pair in found.pairs]
    assert compared == [[["b/1", "b/2", "b/1"], ["a/2"]], [["a/2"], ["c/1"]]]
    assert found.pairs[0, 1] == found.pairs[1, 0], "a speaker of one recording is that recording"
    np.testing.assert_array_equal(found.models.total(np.ones(len(found.utterances))), [3, 1, 1])


@pytest.mark.parametrize(
    ("trials", "enrolment", "message"),
    [
        ("1 a/1 x\n1 a/1 a/2\n1 a/2 y\n", None, r"2 of 3 trials name what is not in manifest.tsv, first 'x'; do they"),
        ("1 a/1 a/2\n", "A a/1\n", r"1 of 1 trials name what is not in .*enrol, first 'a/1'"),
        ("1 A a/2\n", "A a/1,x\n", r"enrol: speaker 'A' is enrolled with 'x', which is not in manifest.tsv"),
    ],
)
def test_names_that_are_unknown(tmp_path: Path, trials: str, enrolment: str | None, message: str):
    with pytest.raises(InputError, match=message):
        plan(tmp_path, trials, enrolment)


def test_one_name_is_one_recording(tmp_path: Path):
    manifest = "utt_id\tpath\tlabel\tspeaker\na/1\telsewhere.wav\tbonafide\tA\n"
    with pytest.raises(InputError, match=r"enrol: 'a/1' is .*elsewhere.wav, but a/1.flac in manifest.tsv"):
        plan(tmp_path, "1 A a/2\n", manifest)
