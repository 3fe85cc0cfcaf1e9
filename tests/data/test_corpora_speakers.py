"""A folder for each speaker: whose recordings are whose, a split by speaker, and the trials drawn for it."""

from collections import Counter
from pathlib import Path

import pytest

from corpus import prepare, refuse, touch
from hybrid_pruning.data.corpora.speakers import draw_trials
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_keys


def crowd(root: Path, speakers: int, clips: int = 4) -> Path:
    names = (f"s{speaker:02d}/take {clip % 2}/{clip}.wav" for speaker in range(speakers) for clip in range(clips))
    return touch(root, *names)


def test_recordings_belong_to_the_folder_they_lie_in(tmp_path: Path):
    root = touch(tmp_path / "mine", "s2/1.flac", "s1/a/b/1.WAV", "s1/1.m4a", "s1/notes.txt", "nobody.wav")
    (root / "empty").mkdir()
    prepared = prepare("speaker-folder", root, tmp_path / "out")
    found = read_manifest(prepared.manifests["all"])
    assert [(u.utt_id, u.speaker, u.label, u.source) for u in found] == [
        ("s1/1", "s1", "bonafide", "mine"),
        ("s1/a/b/1", "s1", "bonafide", "mine"),
        ("s2/1", "s2", "bonafide", "mine"),
    ]
    assert prepared.speakers == {"all": {"s1": 2, "s2": 1}}
    assert prepared.counts == {"all": (3, 0)}
    assert prepared.trials == {}


def test_a_converted_file_replaces_its_m4a(tmp_path: Path):
    root = touch(tmp_path / "mine", "s1/1.m4a", "s1/1.wav", "s1/2.flac", "s1/2.m4a", "s2/1.aac")
    found = read_manifest(prepare("speaker-folder", root, tmp_path / "out").manifests["all"])
    assert [u.path.name for u in found] == ["1.wav", "2.flac", "1.aac"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("s1/1.flac", "s1/1.m4a", "s1/1.wav"), r"1\.wav: differs from 1\.flac in its ending; remove one"),
        (("s\t1/1.wav",), "holds control characters"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, names: tuple[str, ...], expected: str):
    refuse("speaker-folder", touch(tmp_path / "mine", *names), tmp_path / "out", expected)


def test_a_split_by_speaker_with_its_trials(tmp_path: Path):
    prepared = prepare("speaker-folder", crowd(tmp_path / "mine", 10), tmp_path / "out", dev_share=0.3, seed=5)
    train, dev = (read_manifest(prepared.manifests[part]) for part in ("train", "dev"))
    speakers = {utterance.utt_id: utterance.speaker for utterance in dev}
    assert len(set(speakers.values())) == 3
    assert not set(speakers.values()) & {utterance.speaker for utterance in train}
    assert len(train) + len(dev) == 40
    keys = read_keys(prepared.trials["dev"], SV)
    pairs = list(zip(*keys.names, strict=True))
    assert Counter(keys.classes.tolist()) == {"target": 3 * 6, "nontarget": 18}
    for (enrol, test), kind in zip(pairs, keys.classes, strict=True):
        assert (speakers[enrol] == speakers[test]) == (kind == "target")
        assert enrol != test
    assert len(set(map(frozenset, pairs))) == len(pairs), "no pair stands twice, nor the other way round"
    assert any("18 target and 18 nontarget trials, drawn with seed 5" in note for note in prepared.notes)


def test_a_seed_is_a_split_and_its_trials(tmp_path: Path):
    root = crowd(tmp_path / "mine", 10)
    seeds = enumerate((1, 1, 2))
    found = [prepare("speaker-folder", root, tmp_path / f"{n}", dev_share=0.3, seed=seed) for n, seed in seeds]
    first, again, other = ((one.manifests["dev"].read_text(), one.trials["dev"].read_text()) for one in found)
    assert first == again != other


def test_trials_are_limited_and_drawn_evenly():
    speech = [(f"s{speaker}", f"{speaker}-{clip}") for speaker in range(3) for clip in range(6)]
    every = draw_trials(speech, seed=0)
    assert [label for *_, label in every].count("target") == 3 * 15
    met: Counter[tuple[str, ...]] = Counter()
    for seed in range(600):
        some = draw_trials(speech, seed, limit=9)
        assert [label for *_, label in some] == ["target"] * 9 + ["nontarget"] * 9
        met.update(some)
    targets = [count for trial, count in met.items() if trial[2] == "target"]
    others = [count for trial, count in met.items() if trial[2] == "nontarget"]
    assert (len(targets), len(others)) == (45, 108)
    assert all(80 < count < 160 for count in targets), "120 each on average, with a deviation of 10"
    assert all(20 < count < 90 for count in others), "50 each"


def test_a_speaker_with_one_utterance_trains_and_is_no_target(tmp_path: Path):
    root = touch(crowd(tmp_path / "mine", 4), *(f"single{number}/1.wav" for number in range(4)))
    prepared = prepare("speaker-folder", root, tmp_path / "out", dev_share=0.5, seed=3)
    trained = [u.speaker for u in read_manifest(prepared.manifests["train"]) if u.speaker.startswith("single")]
    assert [line for line in prepared.warnings if f"{len(trained)} of 4 speakers have a single utterance" in line]
    trials = [line.split("\t") for line in prepared.trials["dev"].read_text().splitlines()[1:]]
    assert not [trial for trial in trials if trial[2] == "target" and "single" in trial[0]]


@pytest.mark.parametrize(
    ("speakers", "clips", "share", "expected"),
    [
        (10, 4, 0.1, "mine: a share of 0.1 for dev is 1 of 10 speakers, and both parts need 2 at least"),
        (10, 4, 0.95, "is 10 of 10 speakers"),
        (6, 1, 0.5, "mine: dev has no two recordings of one speaker"),
    ],
)
def test_too_little_for_a_split(tmp_path: Path, speakers: int, clips: int, share: float, expected: str):
    root = crowd(tmp_path / "mine", speakers, clips)
    refuse("speaker-folder", root, tmp_path / "out", expected, dev_share=share)
