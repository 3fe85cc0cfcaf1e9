"""CN-Celeb in its official layout, made of empty files: parts, genres, trials, and every mistake."""

from pathlib import Path

import pytest

from corpus import prepare, refuse, touch
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_keys

FIRST, SECOND, LISTS = "CN-Celeb_flac", "CN-Celeb2_flac", "CN-Celeb_flac/eval/lists"
TRIALS = "id00800-enroll test/id00800-singing-01-001.wav 1\nid00800-enroll test/id00801-live_broadcast-02-006.wav 0\n"


def release(root: Path, trials: str = TRIALS, dev: str = "id00000\nid00001\n") -> Path:
    names = (
        *("data/id00000/speech-01-001", "data/id00000/drama-02-003", "data/id00001/vlog-1-1"),
        *("data/id00800/singing-01-001", "eval/enroll/id00800-enroll"),
        *("eval/test/id00800-singing-01-001", "eval/test/id00801-live_broadcast-02-006"),
    )
    second = (f"{SECOND}/data/id10{speaker:03d}/play-01-{clip:03d}.flac" for speaker in range(4) for clip in range(3))
    enrol = "id00800-enroll enroll/id00800-enroll.wav\n"
    texts = {f"{FIRST}/dev/dev.lst": dev, f"{LISTS}/enroll.lst": enrol, f"{LISTS}/trials.lst": trials}
    return touch(root, *(f"{FIRST}/{name}.flac" for name in names), *second, texts=texts)


def test_the_official_layout(tmp_path: Path):
    prepared = prepare("cnceleb", release(tmp_path / "root"), tmp_path / "out")
    train, evaluated = (read_manifest(prepared.manifests[part]) for part in ("train", "eval"))
    assert [(u.utt_id, u.speaker, u.source) for u in train[:3]] == [
        ("id00000/drama-02-003", "id00000", "CN-Celeb1/drama"),
        ("id00000/speech-01-001", "id00000", "CN-Celeb1/speech"),
        ("id00001/vlog-1-1", "id00001", "CN-Celeb1/vlog"),
    ]
    assert {u.source for u in train[3:]} == {"CN-Celeb2/play"}
    assert {u.speaker for u in train} == {"id00000", "id00001", *(f"id1000{speaker}" for speaker in range(4))}
    assert [(u.utt_id, u.speaker, u.source) for u in evaluated] == [
        ("enroll/id00800-enroll", "id00800", "CN-Celeb1/-"),
        ("test/id00800-singing-01-001", "id00800", "CN-Celeb1/singing"),
        ("test/id00801-live_broadcast-02-006", "id00801", "CN-Celeb1/live_broadcast"),
    ]
    keys = read_keys(prepared.trials["eval"], SV, ["genre"])
    assert keys.classes.tolist() == ["target", "nontarget"]
    assert keys.columns["genre"].tolist() == ["singing", "live_broadcast"]
    assert [side[0] for side in keys.names] == ["enroll/id00800-enroll", "test/id00800-singing-01-001"]
    assert prepared.notes == [
        "utterances of train by genre: drama 1, play 12, speech 1, vlog 1",
        "utterances of eval by genre: live_broadcast 1, singing 1",
    ]
    for words in ("797 speakers of CN-Celeb1", "1,996 speakers of CN-Celeb2", "3,484,292 trials", "196 enrolments"):
        assert [line for line in prepared.warnings if f"expected {words}" in line]


def test_speakers_held_out(tmp_path: Path):
    prepared = prepare("cnceleb", release(tmp_path / "root"), tmp_path / "out", dev_share=0.4)
    assert len(prepared.speakers["dev"]) == 2
    assert not prepared.speakers["dev"].keys() & prepared.speakers["train"].keys()
    assert prepared.trials.keys() == {"dev", "eval"}
    assert not [line for line in prepared.warnings if "nothing to validate on" in line]


@pytest.mark.parametrize("part", [FIRST, SECOND])
def test_one_of_the_two_will_do(tmp_path: Path, part: str):
    root = release(tmp_path / "root")
    (tmp_path / "other").mkdir()
    (root / part).rename(tmp_path / "other" / part)
    prepared = prepare("cnceleb", tmp_path / "other", tmp_path / "out")
    assert set(prepared.manifests) == ({"train", "eval"} if part == FIRST else {"train"})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (f"{LISTS}/trials.lst", "id00800-enroll test/x 2\n", "trials.lst:1: label '2', expected 1"),
        (f"{LISTS}/trials.lst", "id00800-enroll test/x\n", "trials.lst:1: 2 columns, expected 3 .enrol test label"),
        (f"{LISTS}/trials.lst", "id00801-enroll test/x.wav 0\n", "trials.lst:1: 'id00801-enroll' is not in enroll.lst"),
        (f"{LISTS}/trials.lst", TRIALS.replace("wav 1", "wav 0"), "trials.lst:1: label '0' beside enroll/id00800"),
        (f"{LISTS}/trials.lst", "", "trials.lst: no trials"),
        (f"{LISTS}/enroll.lst", "a b.wav\na c.wav\n", "enroll.lst:2: 'a' stands twice; remove one of the lines"),
        (f"{FIRST}/dev/dev.lst", "id00000\nid00999\n", "dev.lst:2: speaker 'id00999' has no audio .*--allow-missing"),
        (f"{LISTS}/trials.lst", None, "trials.lst: cannot be read .*check the path"),
        (f"{LISTS}/enroll.lst", None, "enroll.lst: cannot be read .*check the path"),
        (f"{FIRST}/dev/dev.lst", None, "dev.lst: cannot be read .*check the path"),
    ],
)
def test_mistakes_in_the_lists(tmp_path: Path, name: str, text: str | None, expected: str):
    root = release(tmp_path / "root")
    (root / name).unlink()
    if text is not None:
        (root / name).write_text(text)
    refuse("cnceleb", root, tmp_path / "out", expected)


def test_missing_recordings_may_be_left_out(tmp_path: Path):
    root = release(tmp_path / "root", dev="id00000\nid00001\nid00999\n")
    (root / FIRST / "eval" / "test" / "id00801-live_broadcast-02-006.flac").unlink()
    prepared = prepare("cnceleb", root, tmp_path / "out", allow_missing=True)
    assert len(prepared.trials["eval"].read_text().splitlines()) == 2
    assert len(prepared.speakers["train"]) == 6


def test_the_released_training_speakers_are_taken_without_a_word(tmp_path: Path):
    """797 of the 800 that are listed have audio: two have no folder, one's is empty."""
    root = release(tmp_path / "root", dev="".join(f"id{number:05d}\n" for number in range(800)))
    touch(root, *(f"{FIRST}/data/id{number:05d}/speech-01-001.flac" for number in range(797)))
    (root / FIRST / "data" / "id00797").mkdir()
    prepared = prepare("cnceleb", root, tmp_path / "out")
    assert len(prepared.speakers["train"]) == 797 + 4
    assert not [line for line in prepared.warnings if "of CN-Celeb1" in line]
    (root / FIRST / "data" / "id00003" / "speech-01-001.flac").unlink()
    refuse("cnceleb", root, tmp_path / "again", r"dev.lst:4: speaker 'id00003' has no audio in .*4 of 800 have none")
