"""Folders and tables of one's own recordings: labels, speakers, and a split that tears no speaker apart."""

import pytest

from corpus import prepare, refuse, touch
from hybrid_pruning.data.manifest import read_manifest


def crowd(root, speakers, clips=3):
    """Write speakers with bona fide speech and fakes of it, and fakes of nobody."""
    for speaker in range(speakers):
        for label in ("bonafide", "spoof"):
            touch(root, *(f"{label}/s{speaker:02d}/{clip}.wav" for clip in range(clips)))
    return touch(root, *(f"spoof/nobody{number}.wav" for number in range(10)))


def speakers(utterances):
    return {utterance.speaker for utterance in utterances} - {"-"}


def test_labels_and_speakers_are_those_of_the_folders(tmp_path):
    names = ("a/bonafide/s1/chapter/1.flac", "a/bonafide/2.WAV", "b/c/spoof/s1/1.mp3", "a/bonafide/notes.txt", "x.wav")
    root = touch(tmp_path / "mine", *names, "a/real/3.wav")
    prepared = prepare("folder", root, tmp_path / "out")
    assert list(prepared.manifests) == ["all"]
    assert [(u.utt_id, u.label, u.speaker, u.source) for u in read_manifest(prepared.manifests["all"])] == [
        ("a/bonafide/2", "bonafide", "-", "mine"),
        ("a/bonafide/s1/chapter/1", "bonafide", "s1", "mine"),
        ("b/c/spoof/s1/1", "spoof", "s1", "mine"),
    ]
    assert prepared.counts == {"all": (2, 1)}
    assert prepared.warnings == []


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere", "s1/1.wav")
    root = touch(tmp_path / "mine", "spoof/2.wav")
    (root / "bonafide").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (root / "spoof" / "up").symlink_to(root)
    found = read_manifest(prepare("folder", root, tmp_path / "out").manifests["all"])
    assert [u.utt_id for u in found] == ["bonafide/s1/1", "spoof/2"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("bonafide/spoof/1.wav",), "1.wav: lies below bonafide and below spoof"),
        (("spoof/1.wav", "spoof/1.flac"), "1.wav: differs from 1.flac in its ending"),
        (("bonafide/notes.txt", "real/1.wav"), "mine: holds nothing to prepare; the root must contain folders named"),
        (("spoof/a\x1bb.wav",), "holds control characters"),
    ],
)
def test_folders_without_classes(tmp_path, names, expected):
    refuse("folder", touch(tmp_path / "mine", *names), tmp_path / "out", expected)


@pytest.mark.parametrize(("suffix", "tab"), [(".csv", ","), (".tsv", "\t")])
def test_a_table(tmp_path, suffix, tab):
    root = touch(tmp_path / "mine", "x/1.wav", "x/2.wav")
    rows = [
        "label,path,speaker,attack,utt_id,recording,licence",
        "bonafide,x/1.wav,s1,,one,take 1,",
        "spoof,x/2.wav,,hifigan,,,CC",
    ]
    table = root / f"list{suffix}"
    table.write_text("\ufeff" + "\n".join(rows).replace(",", tab) + "\n", encoding="utf-8")
    one, two = read_manifest(prepare("folder", table, tmp_path / "out").manifests["all"])
    assert (one.utt_id, one.label, one.speaker, one.attack, one.recording) == ("one", "bonafide", "s1", "-", "take 1")
    assert (two.utt_id, two.label, two.speaker, two.attack, two.recording) == ("x/2", "spoof", "-", "hifigan", "-")
    assert two.path == root / "x" / "2.wav"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,speaker\n", "list.csv:1: column 'label' is missing"),
        ("path,label\n", "list.csv: holds nothing to prepare"),
        ("path,label\n1.wav,real\n", "list.csv:2: label 'real', expected bonafide or spoof"),
        ("path,label\n1.wav,spoof\n1.wav,spoof\n", "list.csv:3: utt_id '1' already stands in line 2"),
        ("utt_id,path,label\na,1.wav,spoof\na,2.wav,spoof\n", "list.csv:3: utt_id 'a' already stands in line 2"),
        ("utt_id,path,label\na,1.wav,spoof\nb,1.wav,spoof\n", "list.csv:3: '1.wav' already stands in line 2"),
        ("path,label\n../1.wav,spoof\n", "list.csv:2: '../1.wav' is no name of a file below"),
        ("path,label\n/tmp/1.wav,spoof\n", "list.csv:2: '/tmp/1.wav' is no name of a file below"),
        ("path,label\n.,spoof\n", "list.csv:2: '.' is no name of a file below"),
        ("path,label\n,spoof\n", "list.csv:2: '' is no name of a file below"),
        ("path,label\n9.wav,spoof\n", "list.csv: 1 of 1 audio files are missing"),
    ],
)
def test_mistakes_in_a_table(tmp_path, text, expected):
    root = touch(tmp_path / "mine", "1.wav", "2.wav", texts={"list.csv": text})
    refuse("folder", root / "list.csv", tmp_path / "out", expected)


def test_a_split_has_its_share_no_speaker_in_common_and_is_one_of_its_seed(tmp_path):
    root, texts = crowd(tmp_path / "mine", 20), []
    for seed in (1, 1, 2, 3, 4):
        prepared = prepare("folder", root, tmp_path / "out", dev_share=0.2, seed=seed)
        train, dev = (read_manifest(prepared.manifests[part]) for part in ("train", "dev"))
        assert (len(train), len(dev)) == (104, 26), "a fifth"
        assert not speakers(train) & speakers(dev)
        for part in (train, dev):
            assert {utterance.label for utterance in part} == {"bonafide", "spoof"}
        assert prepared.warnings == []
        texts.append(prepared.manifests["dev"].read_text())
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_a_fake_stays_with_its_source(tmp_path):
    """Its speaker is not given; of two recordings of a speaker one is what ties it to him."""
    rows = [(f"{speaker}-{take}", speaker, f"{speaker}-{take}") for speaker in range(8) for take in range(3)]
    root = touch(tmp_path / "mine", *(f"{label}/{name}.wav" for label in ("b", "f") for name, _, _ in rows))
    lines = (f"b/{name}.wav,bonafide,s{speaker},{take}\nf/{name}.wav,spoof,-,{take}\n" for name, speaker, take in rows)
    (root / "list.csv").write_text("path,label,speaker,recording\n" + "".join(lines))
    manifests = prepare("folder", root / "list.csv", tmp_path / "out", dev_share=0.25).manifests
    train, dev = (read_manifest(manifests[part]) for part in ("train", "dev"))
    assert not speakers(train) & speakers(dev)
    assert not {u.recording for u in train} & {u.recording for u in dev}
    assert len(dev) == 12


@pytest.mark.parametrize(("number", "share"), [(1, 0.5), (4, 0.1)])
def test_too_few_speakers_for_a_split(tmp_path, number, share):
    expected = f"mine: dev would have no bonafide utterance at a share of {share}"
    refuse("folder", crowd(tmp_path / "mine", number), tmp_path / "out", expected, dev_share=share)


def kaldi(root, **files):
    """Write a data directory: two files of audio, one named by its whole path, and lists of them."""
    lists = {"wav.scp": f"u1 a b.wav\r\nu2\t{root}/c.flac\r\n", "utt2spk": "u1 s1\nu2 s2\n", "spk2gender": "s1 f\n"}
    lists |= {"utt2lab": "\ufeffu1 bonafide\nu2 spoof\n"} | {name.replace("__", "."): files[name] for name in files}
    return touch(root, "a b.wav", "c.flac", texts=lists)


def test_a_data_directory_of_kaldi(tmp_path):
    root = kaldi(tmp_path / "mine")
    for given in (root, root / "wav.scp"):
        prepared = prepare("folder", given, tmp_path / "out")
        assert [(u.utt_id, u.label, u.speaker, u.gender, u.path) for u in read_manifest(prepared.manifests["all"])] == [
            ("u1", "bonafide", "s1", "f", root / "a b.wav"),
            ("u2", "spoof", "s2", "-", root / "c.flac"),
        ]
        assert not prepared.warnings
    for name in ("utt2spk", "utt2lab", "spk2gender"):
        (root / name).unlink()
    prepared = prepare("folder", root, tmp_path / "out")
    assert prepared.counts == {"all": (2, 0)}
    assert prepared.warnings == [f"{root}: has no utt2lab, so that everything is taken as bona fide"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"wav__scp": "u1 a b.wav\nu2 touch ran; cat c.flac |\n"}, "wav.scp:2: 'u2' is a command, which is never run"),
        ({"wav__scp": "u1 | touch ran\n"}, "wav.scp:1: 'u1' is a command"),
        ({"wav__scp": "u1 x.ark:12\n"}, "wav.scp:1: 'x.ark:12' is a place in an archive"),
        ({"wav__scp": "u1\n"}, "wav.scp:1: 1 column, expected UTTERANCE FILE"),
        ({"wav__scp": "u1 a b.wav\nu1 c.flac\n"}, "wav.scp:2: 'u1' already stands in line 1"),
        ({"wav__scp": "u1 c.flac\nu2 c.flac\n"}, "wav.scp:2: 'c.flac' already stands in line 1"),
        ({"wav__scp": "u1 a b.wav\nu2 d.wav\n"}, "wav.scp: 1 of 2 audio files are missing in .*mine, first d.wav"),
        ({"wav__scp": "../u1 a b.wav\n", "utt2spk": "../u1 s\n", "utt2lab": "../u1 spoof\n"}, "utt_id '../u1' leads"),
        ({"utt2spk": "u1 s1\n"}, "wav.scp:2: 'u2' is not in utt2spk"),
        ({"utt2spk": "u1 s1\nu2 s2 x\n"}, "utt2spk:2: 3 columns, expected 2"),
        ({"utt2spk": "u1 s1\nu2 s2\nu1 s3\n"}, "utt2spk:3: 'u1' already stands there with 's1'"),
        ({"utt2lab": "u1 bonafide\nu2 fake\n"}, "utt2lab: label 'fake' of 'u2', expected bonafide or spoof"),
        ({"segments": "u1 rec 0 1\n"}, "segments: cuts recordings into utterances"),
    ],
)
def test_lists_of_kaldi_that_are_not_used(tmp_path, monkeypatch, files, expected):
    monkeypatch.chdir(tmp_path)
    refuse("folder", kaldi(tmp_path / "mine", **files), tmp_path / "out", expected)
    assert not (tmp_path / "ran").exists()
