"""VoxCeleb in its official layouts, made of empty files: parts, trials under the manifests' ids, and every mistake."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from corpus import prepare, refuse, touch
from hybrid_pruning.data.corpora import Prepared, voxceleb
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_keys

DEV1 = ("id10001/aaa/00001", "id10001/aaa/00002", "id10002/bbb/00001")
TEST1 = ("id10270/5r0dWxy17C8/00001", "id10270/GWXujl-xAVM/00003", "id10309/0cYFdtyWVds/00005", "id10309/x/00001")
DEV2 = tuple(f"id0{speaker:04d}/v/{clip:05d}" for speaker in range(12, 22) for clip in range(2))
TEST2 = ("id00017/v/00001", "id00017/v/00002", "id00061/v/00001", "id00061/w/00002")
ORIGINAL = f"1 {TEST1[0]}.wav {TEST1[1]}.wav\n0 {TEST1[0]}.wav {TEST1[2]}.wav\n"
ENTIRE = f"1 {DEV1[0]}.wav {DEV1[1]}.wav\n0 {DEV1[1]}.wav {DEV1[2]}.wav\n"


def release(root: Path, lists: Mapping[str, str] | None = None, **folders: tuple[str, ...]) -> Path:
    """Write speakers' folders; `__` stands for `/` and `_ending` for what the names end in."""
    for folder, names in folders.items():
        place = folder.replace("__", "/")
        touch(root / place, *(f"{name}.{'m4a' if place.endswith('aac') else 'wav'}" for name in names))
    return touch(root, texts=lists)


def official(root: Path, **lists: str) -> Path:
    texts = {"veri_test2": ORIGINAL, "list_test_hard2": ENTIRE, **lists}
    found = {f"{name}.txt": text for name, text in texts.items()}
    return release(root, found, vox1_dev_wav__wav=DEV1, vox1_test_wav__wav=TEST1, vox2_dev_aac__dev__aac=DEV2)


def ids(prepared: Prepared, part: str) -> list[str]:
    return [utterance.utt_id for utterance in read_manifest(prepared.manifests[part])]


def warned(prepared: Prepared, words: str) -> list[str]:
    return [line for line in prepared.warnings if words in line]


def test_the_official_layout(tmp_path: Path):
    root = release(official(tmp_path / "root"), {"vox1_meta.csv": "VoxCeleb1 ID\tGender\nid10270\tf\n"})
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "train") == list(DEV2)
    assert ids(prepared, "vox1") == [*DEV1, *TEST1[:3]], "what the lists name"
    assert list(prepared.manifests) == ["train", "vox1"]
    first = read_manifest(prepared.manifests["vox1"])[3]
    assert (first.speaker, first.gender, first.source, first.label) == ("id10270", "f", "VoxCeleb1", "bonafide")
    assert first.path == root / "vox1_test_wav" / "wav" / f"{TEST1[0]}.wav"
    keys = read_keys(prepared.trials["vox1-O"], SV)
    assert keys.names == [[TEST1[0]] * 2, [*TEST1[1:3]]]
    assert keys.classes.tolist() == ["target", "nontarget"]
    assert prepared.trials == {name: tmp_path / "out" / f"{name}.trials" for name in ("vox1-O", "vox1-H")}
    assert len(prepared.speakers["train"]) == 10
    assert warned(prepared, "nothing to validate on; unpack VoxCeleb2's test part")
    assert warned(prepared, "expected 5,994 speakers with 1,092,009 utterances in VoxCeleb2's dev part")
    assert warned(prepared, "expected 37,611 or 37,720 trials, as released, found 2")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("vox1__dev__wav", "vox1__test__wav"), "vox2__dev__aac"),
        (("vox1__dev__wav", "vox1__test__wav"), "vox2__dev__wav"),
        (("vox1_dev_wav__wav", "vox1_test_wav__wav"), "dev__wav"),
        (("wav", "wav"), "dev__aac"),
        (("vox1__wav", "vox1__wav"), "vox2_dev_aac__dev__wav"),
    ],
)
def test_other_layouts(tmp_path: Path, first: tuple[str, str], second: str):
    root = tmp_path / "root"
    for place, names in ((first[0], DEV1), (first[1], TEST1), (second, DEV2)):
        release(root, **{place: names})
    release(root, {"trials/vox1_O_cleaned.txt": ORIGINAL, "meta/vox1-E.txt": ENTIRE})
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "train") == list(DEV2)
    assert ids(prepared, "vox1") == [*DEV1, *TEST1[:3]]
    assert set(prepared.trials) == {"vox1-O", "vox1-E"}


def test_converted_files_are_taken_before_others(tmp_path: Path):
    root = release(tmp_path / "root", vox2__dev__aac=DEV2, vox2__dev__wav=DEV2)
    paths = {u.path.suffix for u in read_manifest(prepare("voxceleb", root, tmp_path / "out").manifests["train"])}
    assert paths == {".wav"}


@pytest.mark.parametrize(("name", "trials"), [("veri_test", 2), ("veri_test2", 4)])
def test_the_cleaned_list_is_taken_and_a_trial_may_stand_twice(tmp_path: Path, name: str, trials: int):
    root = official(tmp_path / "root", **{name: ORIGINAL * 2})
    assert len(read_keys(prepare("voxceleb", root, tmp_path / "out").trials["vox1-O"], SV).classes) == trials


def test_voxceleb2_test_validates_or_speakers_held_out(tmp_path: Path):
    root = release(official(tmp_path / "root"), vox2_test_aac__test__aac=TEST2)
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "dev") == list(TEST2)
    assert read_keys(prepared.trials["dev"], SV).classes.tolist() == ["target"] * 2 + ["nontarget"] * 2
    assert not warned(prepared, "nothing to validate on")
    prepared = prepare("voxceleb", root, tmp_path / "out", dev_share=0.2)
    train, dev = (set(ids(prepared, part)) for part in ("train", "dev"))
    assert (len(train), len(dev)) == (16, 4)
    assert train | dev == set(DEV2)


def test_training_on_voxceleb1_is_a_warning_where_it_shares_speakers(tmp_path: Path):
    root = release(tmp_path / "root", {"veri_test2.txt": ORIGINAL}, wav=(*DEV1, *TEST1))
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "train") == list(DEV1), "the speakers of list O are no training speakers"
    assert not warned(prepared, "say nothing of strangers")
    release(root, {"list_test_all2.txt": ENTIRE})
    assert warned(prepare("voxceleb", root, tmp_path / "out"), "of vox1-E: results there say nothing of strangers")


def test_without_lists_all_of_voxceleb1(tmp_path: Path):
    root = release(tmp_path / "root", vox1_dev_wav__wav=DEV1, vox1_test_wav__wav=TEST1)
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "vox1") == [*DEV1, *TEST1]
    assert warned(prepared, "no trial list is there")


def test_trials_of_missing_recordings(tmp_path: Path):
    root = official(tmp_path / "root")
    (root / "vox1_test_wav" / "wav" / f"{TEST1[2]}.wav").unlink()
    expected = r"veri_test2.txt: 1 of 2 trials name .* first id10270/.* --allow-missing"
    refuse("voxceleb", root, tmp_path / "out", expected)
    prepared = prepare("voxceleb", root, tmp_path / "out", allow_missing=True)
    assert len(prepared.trials["vox1-O"].read_text().splitlines()) == 2
    assert warned(prepared, "1 of 2 trials name an utterance that is not there")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"2 {TEST1[0]}.wav {TEST1[1]}.wav", "label '2', expected 1 .the same speaker. or 0"),
        (f"{TEST1[0]}.wav {TEST1[1]}.wav", "2 columns, expected 3 .label enrol test"),
        (f"0 {TEST1[0]}.wav {TEST1[1]}.wav", "label '0' beside .*; is the line whole"),
        (f"1 {TEST1[0]}.wav {TEST1[2]}.wav", "label '1' beside"),
        ("1 a.wav b.wav", "'a.wav b.wav', expected two of id10270/VIDEO/00001.wav"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: str, expected: str):
    root = official(tmp_path / "root", veri_test2=f"{ORIGINAL}{line}\n")
    refuse("voxceleb", root, tmp_path / "out", f"veri_test2.txt:3: {expected}", allow_missing=True)


def test_lists_and_tables_that_are_none(tmp_path: Path):
    root = official(tmp_path / "root", veri_test2="")
    refuse("voxceleb", root, tmp_path / "out", r"veri_test2.txt: no trials; is the file whole")
    root = release(official(tmp_path / "other"), {"vox1_meta.csv": "speaker\tsex\nid10270\tf\n"})
    refuse("voxceleb", root, tmp_path / "out", r"vox1_meta.csv:2: expected the columns VoxCeleb1 ID .* and Gender")


def test_official_numbers_are_not_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    speech = {("dev", "vox1"): (2, 3), ("test", "vox1"): (2, 4), ("dev", "vox2"): (10, 20)}
    monkeypatch.setattr(voxceleb, "SPEECH", speech)
    monkeypatch.setattr(voxceleb, "LISTS", {name: (files, (2, 2)) for name, (files, _) in voxceleb.LISTS.items()})
    prepared = prepare("voxceleb", official(tmp_path / "root"), tmp_path / "out")
    assert len(prepared.warnings) == 1, "that there is nothing to validate on"
