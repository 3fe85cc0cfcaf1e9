"""Corpora of speakers: a folder for each, CN-Celeb and VoxCeleb in their layouts: parts, trials, and every mistake."""

from collections import Counter

import pytest

from corpus import prepare, refuse, touch
from hybrid_pruning.data.corpora import voxceleb
from hybrid_pruning.data.corpora.speakers import draw_trials
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tracks import SV
from hybrid_pruning.data.trials import read_keys


def crowd(root, speakers, clips=4):
    names = (f"s{speaker:02d}/take {clip % 2}/{clip}.wav" for speaker in range(speakers) for clip in range(clips))
    return touch(root, *names)


def test_recordings_belong_to_the_folder_they_lie_in(tmp_path):
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


def test_a_converted_file_replaces_its_m4a(tmp_path):
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
def test_names_that_are_refused(tmp_path, names, expected):
    refuse("speaker-folder", touch(tmp_path / "mine", *names), tmp_path / "out", expected)


def test_a_split_by_speaker_with_its_trials(tmp_path):
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


def test_a_seed_is_a_split_and_its_trials(tmp_path):
    root = crowd(tmp_path / "mine", 10)
    seeds = enumerate((1, 1, 2))
    found = [prepare("speaker-folder", root, tmp_path / f"{n}", dev_share=0.3, seed=seed) for n, seed in seeds]
    first, again, other = ((one.manifests["dev"].read_text(), one.trials["dev"].read_text()) for one in found)
    assert first == again != other


def test_trials_are_limited_and_drawn_evenly():
    speech = [(f"s{speaker}", f"{speaker}-{clip}") for speaker in range(3) for clip in range(6)]
    every = draw_trials(speech, seed=0)
    assert [label for *_, label in every].count("target") == 3 * 15
    met = Counter()
    for seed in range(600):
        some = draw_trials(speech, seed, limit=9)
        assert [label for *_, label in some] == ["target"] * 9 + ["nontarget"] * 9
        met.update(some)
    targets = [count for trial, count in met.items() if trial[2] == "target"]
    others = [count for trial, count in met.items() if trial[2] == "nontarget"]
    assert (len(targets), len(others)) == (45, 108)
    assert all(80 < count < 160 for count in targets), "120 each on average, with a deviation of 10"
    assert all(20 < count < 90 for count in others), "50 each"


def test_a_speaker_with_one_utterance_trains_and_is_no_target(tmp_path):
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
def test_too_little_for_a_split(tmp_path, speakers, clips, share, expected):
    root = crowd(tmp_path / "mine", speakers, clips)
    refuse("speaker-folder", root, tmp_path / "out", expected, dev_share=share)


FIRST, SECOND, LISTS = "CN-Celeb_flac", "CN-Celeb2_flac", "CN-Celeb_flac/eval/lists"
CNCELEB_TRIALS = (
    "id00800-enroll test/id00800-singing-01-001.wav 1\nid00800-enroll test/id00801-live_broadcast-02-006.wav 0\n"
)


def release_cnceleb(root, trials=CNCELEB_TRIALS, dev="id00000\nid00001\n"):
    names = (
        *("data/id00000/speech-01-001", "data/id00000/drama-02-003", "data/id00001/vlog-1-1"),
        *("data/id00800/singing-01-001", "eval/enroll/id00800-enroll"),
        *("eval/test/id00800-singing-01-001", "eval/test/id00801-live_broadcast-02-006"),
    )
    second = (f"{SECOND}/data/id10{speaker:03d}/play-01-{clip:03d}.flac" for speaker in range(4) for clip in range(3))
    enrol = "id00800-enroll enroll/id00800-enroll.wav\n"
    texts = {f"{FIRST}/dev/dev.lst": dev, f"{LISTS}/enroll.lst": enrol, f"{LISTS}/trials.lst": trials}
    return touch(root, *(f"{FIRST}/{name}.flac" for name in names), *second, texts=texts)


def test_cnceleb_in_its_official_layout(tmp_path):
    prepared = prepare("cnceleb", release_cnceleb(tmp_path / "root"), tmp_path / "out")
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


def test_speakers_held_out(tmp_path):
    prepared = prepare("cnceleb", release_cnceleb(tmp_path / "root"), tmp_path / "out", dev_share=0.4)
    assert len(prepared.speakers["dev"]) == 2
    assert not prepared.speakers["dev"].keys() & prepared.speakers["train"].keys()
    assert prepared.trials.keys() == {"dev", "eval"}
    assert not [line for line in prepared.warnings if "nothing to validate on" in line]


@pytest.mark.parametrize("part", [FIRST, SECOND])
def test_one_of_the_two_will_do(tmp_path, part):
    root = release_cnceleb(tmp_path / "root")
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
        (
            f"{LISTS}/trials.lst",
            CNCELEB_TRIALS.replace("wav 1", "wav 0"),
            "trials.lst:1: label '0' beside enroll/id00800",
        ),
        (f"{LISTS}/trials.lst", "", "trials.lst: no trials"),
        (f"{LISTS}/enroll.lst", "a b.wav\na c.wav\n", "enroll.lst:2: 'a' stands twice; remove one of the lines"),
        (f"{FIRST}/dev/dev.lst", "id00000\nid00999\n", "dev.lst:2: speaker 'id00999' has no audio .*--allow-missing"),
        (f"{LISTS}/trials.lst", None, "trials.lst: cannot be read .*check the path"),
        (f"{LISTS}/enroll.lst", None, "enroll.lst: cannot be read .*check the path"),
        (f"{FIRST}/dev/dev.lst", None, "dev.lst: cannot be read .*check the path"),
    ],
)
def test_mistakes_in_the_lists(tmp_path, name, text, expected):
    root = release_cnceleb(tmp_path / "root")
    (root / name).unlink()
    if text is not None:
        (root / name).write_text(text)
    refuse("cnceleb", root, tmp_path / "out", expected)


def test_missing_recordings_may_be_left_out(tmp_path):
    root = release_cnceleb(tmp_path / "root", dev="id00000\nid00001\nid00999\n")
    (root / FIRST / "eval" / "test" / "id00801-live_broadcast-02-006.flac").unlink()
    prepared = prepare("cnceleb", root, tmp_path / "out", allow_missing=True)
    assert len(prepared.trials["eval"].read_text().splitlines()) == 2
    assert len(prepared.speakers["train"]) == 6


def test_the_released_training_speakers_are_taken_without_a_word(tmp_path):
    """797 of the 800 that are listed have audio: two have no folder, one's is empty."""
    root = release_cnceleb(tmp_path / "root", dev="".join(f"id{number:05d}\n" for number in range(800)))
    touch(root, *(f"{FIRST}/data/id{number:05d}/speech-01-001.flac" for number in range(797)))
    (root / FIRST / "data" / "id00797").mkdir()
    prepared = prepare("cnceleb", root, tmp_path / "out")
    assert len(prepared.speakers["train"]) == 797 + 4
    assert not [line for line in prepared.warnings if "of CN-Celeb1" in line]
    (root / FIRST / "data" / "id00003" / "speech-01-001.flac").unlink()
    refuse("cnceleb", root, tmp_path / "again", r"dev.lst:4: speaker 'id00003' has no audio in .*4 of 800 have none")


DEV1 = ("id10001/aaa/00001", "id10001/aaa/00002", "id10002/bbb/00001")
TEST1 = ("id10270/5r0dWxy17C8/00001", "id10270/GWXujl-xAVM/00003", "id10309/0cYFdtyWVds/00005", "id10309/x/00001")
DEV2 = tuple(f"id0{speaker:04d}/v/{clip:05d}" for speaker in range(12, 22) for clip in range(2))
TEST2 = ("id00017/v/00001", "id00017/v/00002", "id00061/v/00001", "id00061/w/00002")
ORIGINAL = f"1 {TEST1[0]}.wav {TEST1[1]}.wav\n0 {TEST1[0]}.wav {TEST1[2]}.wav\n"
ENTIRE = f"1 {DEV1[0]}.wav {DEV1[1]}.wav\n0 {DEV1[1]}.wav {DEV1[2]}.wav\n"


def release(root, lists=None, **folders):
    """Write speakers' folders; `__` stands for `/` and `_ending` for what the names end in."""
    for folder, names in folders.items():
        place = folder.replace("__", "/")
        touch(root / place, *(f"{name}.{'m4a' if place.endswith('aac') else 'wav'}" for name in names))
    return touch(root, texts=lists)


def official(root, **lists):
    texts = {"veri_test2": ORIGINAL, "list_test_hard2": ENTIRE, **lists}
    found = {f"{name}.txt": text for name, text in texts.items()}
    return release(root, found, vox1_dev_wav__wav=DEV1, vox1_test_wav__wav=TEST1, vox2_dev_aac__dev__aac=DEV2)


def ids(prepared, part):
    return [utterance.utt_id for utterance in read_manifest(prepared.manifests[part])]


def warned(prepared, words):
    return [line for line in prepared.warnings if words in line]


def test_voxceleb_in_its_official_layout(tmp_path):
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
def test_other_layouts(tmp_path, first, second):
    root = tmp_path / "root"
    for place, names in ((first[0], DEV1), (first[1], TEST1), (second, DEV2)):
        release(root, **{place: names})
    release(root, {"trials/vox1_O_cleaned.txt": ORIGINAL, "meta/vox1-E.txt": ENTIRE})
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "train") == list(DEV2)
    assert ids(prepared, "vox1") == [*DEV1, *TEST1[:3]]
    assert set(prepared.trials) == {"vox1-O", "vox1-E"}


def test_converted_files_are_taken_before_others(tmp_path):
    root = release(tmp_path / "root", vox2__dev__aac=DEV2, vox2__dev__wav=DEV2)
    paths = {u.path.suffix for u in read_manifest(prepare("voxceleb", root, tmp_path / "out").manifests["train"])}
    assert paths == {".wav"}


@pytest.mark.parametrize(("name", "trials"), [("veri_test", 2), ("veri_test2", 4)])
def test_the_cleaned_list_is_taken_and_a_trial_may_stand_twice(tmp_path, name, trials):
    root = official(tmp_path / "root", **{name: ORIGINAL * 2})
    assert len(read_keys(prepare("voxceleb", root, tmp_path / "out").trials["vox1-O"], SV).classes) == trials


def test_voxceleb2_test_validates_or_speakers_held_out(tmp_path):
    root = release(official(tmp_path / "root"), vox2_test_aac__test__aac=TEST2)
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "dev") == list(TEST2)
    assert read_keys(prepared.trials["dev"], SV).classes.tolist() == ["target"] * 2 + ["nontarget"] * 2
    assert not warned(prepared, "nothing to validate on")
    prepared = prepare("voxceleb", root, tmp_path / "out", dev_share=0.2)
    train, dev = (set(ids(prepared, part)) for part in ("train", "dev"))
    assert (len(train), len(dev)) == (16, 4)
    assert train | dev == set(DEV2)


def test_training_on_voxceleb1_is_a_warning_where_it_shares_speakers(tmp_path):
    root = release(tmp_path / "root", {"veri_test2.txt": ORIGINAL}, wav=(*DEV1, *TEST1))
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "train") == list(DEV1), "the speakers of list O are no training speakers"
    assert not warned(prepared, "say nothing of strangers")
    release(root, {"list_test_all2.txt": ENTIRE})
    assert warned(prepare("voxceleb", root, tmp_path / "out"), "of vox1-E: results there say nothing of strangers")


def test_without_lists_all_of_voxceleb1(tmp_path):
    root = release(tmp_path / "root", vox1_dev_wav__wav=DEV1, vox1_test_wav__wav=TEST1)
    prepared = prepare("voxceleb", root, tmp_path / "out")
    assert ids(prepared, "vox1") == [*DEV1, *TEST1]
    assert warned(prepared, "no trial list is there")


def test_trials_of_missing_recordings(tmp_path):
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
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path, line, expected):
    root = official(tmp_path / "root", veri_test2=f"{ORIGINAL}{line}\n")
    refuse("voxceleb", root, tmp_path / "out", f"veri_test2.txt:3: {expected}", allow_missing=True)


def test_lists_and_tables_that_are_none(tmp_path):
    root = official(tmp_path / "root", veri_test2="")
    refuse("voxceleb", root, tmp_path / "out", r"veri_test2.txt: no trials; is the file whole")
    root = release(official(tmp_path / "other"), {"vox1_meta.csv": "speaker\tsex\nid10270\tf\n"})
    refuse("voxceleb", root, tmp_path / "out", r"vox1_meta.csv:2: expected the columns VoxCeleb1 ID .* and Gender")


def test_official_numbers_are_not_warned_about(tmp_path, monkeypatch):
    speech = {("dev", "vox1"): (2, 3), ("test", "vox1"): (2, 4), ("dev", "vox2"): (10, 20)}
    monkeypatch.setattr(voxceleb, "SPEECH", speech)
    monkeypatch.setattr(voxceleb, "LISTS", {name: (files, (2, 2)) for name, (files, _) in voxceleb.LISTS.items()})
    prepared = prepare("voxceleb", official(tmp_path / "root"), tmp_path / "out")
    assert len(prepared.warnings) == 1, "that there is nothing to validate on"
