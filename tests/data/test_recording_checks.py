"""Recordings of a manifest: durations cached, every fault listed, overlap with the training data."""

import csv
import os
import re
import shutil
from pathlib import Path

import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise, touch, write_corpus
from hybrid_pruning.data import checks
from hybrid_pruning.data.checks import CACHE, add_durations, audit, audit_utterances, measure_durations
from hybrid_pruning.data.manifest import Utterance, qualify, read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import digest_file
from hybrid_pruning.tasks import Label

SAMPLES = {"a.wav": 8_000, "b.flac": 16_000, "c.wav": 24_000}
SECONDS = [0.5, 1.0, 1.5]


@pytest.fixture
def manifest(tmp_path):
    """A manifest without durations, of files half a second, one, and one and a half seconds long."""
    for name, samples in SAMPLES.items():
        soundfile.write(tmp_path / name, noise(samples), 16_000)
    utterances = [Utterance(name, tmp_path / name, Label.SPOOF, speaker="s 1", attack="A01") for name in SAMPLES]
    write_manifest(tmp_path / "m.tsv", utterances)
    return tmp_path / "m.tsv"


@pytest.fixture
def opened(monkeypatch):
    names = []
    read = checks.audio_samples
    monkeypatch.setattr(checks, "audio_samples", lambda path: (names.append(path.name), read(path))[1])
    return names


def seconds(manifest):
    return [utterance.seconds for utterance in read_manifest(manifest)]


def test_durations_are_filled_in_and_nothing_else_changes(manifest):
    before = manifest.read_text()
    assert add_durations(manifest, workers=2) == []
    assert seconds(manifest) == SECONDS
    assert re.sub(r"\d\.\d{3}$", "-", manifest.read_text(), flags=re.MULTILINE) == before


def test_durations_are_those_at_16_khz_for_any_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(11_025, channels=2), 22_050)
    paths = ["a.wav", str(tmp_path / "a.wav")]
    assert measure_durations(paths, tmp_path) == (dict.fromkeys(paths, 0.5), {})
    (tmp_path / "m.tsv").write_text("utt_id\tpath\tlabel\tlicence\na\ta.wav\tspoof\tCC\n")
    add_durations(tmp_path / "m.tsv")  # which lacks the column
    assert (tmp_path / "m.tsv").read_text() == "utt_id\tpath\tlabel\tlicence\tseconds\na\ta.wav\tspoof\tCC\t0.500\n"


def test_known_durations_are_not_read_again(manifest, opened):
    add_durations(manifest)
    assert sorted(opened) == list(SAMPLES)
    first, other = manifest.read_text(), manifest.with_name("other.tsv")
    opened.clear()
    write_manifest(manifest, read_manifest(manifest))
    soundfile.write(manifest.parent / "d.wav", noise(2_000), 16_000)
    write_manifest(other, [Utterance(name, manifest.parent / name, Label.SPOOF) for name in ("a.wav", "d.wav")])
    for path in (manifest, other, manifest):
        add_durations(path)
    assert opened == ["d.wav"], "manifests of one folder share a cache"
    assert manifest.read_text() == first


def test_a_changed_file_is_read_again(manifest, opened):
    add_durations(manifest)
    opened.clear()
    soundfile.write(manifest.parent / "a.wav", noise(4_000), 16_000)  # another size
    os.utime(manifest.parent / "b.flac", ns=(0, (manifest.parent / "b.flac").stat().st_mtime_ns + 1))  # another time
    add_durations(manifest)
    assert sorted(opened) == ["a.wav", "b.flac"]
    assert seconds(manifest) == [0.25, 1.0, 1.5]
    opened.clear()
    add_durations(manifest)
    assert opened == [], "what was read anew is remembered anew"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"\xff\xfe\x00garbage",
        lambda data: data.replace(b"\t0.500", b"\tnan"),
        lambda data: data.replace(b"\t0.500", b"\t-3"),
        lambda data: data.replace(b"\t", b" "),
        lambda data: b"a.wav\n\n\t\t\t\n" + data,
    ],
    ids=["binary", "nan", "negative", "no tabs", "odd lines"],
)
def test_a_damaged_cache_is_as_good_as_none(manifest, damage):
    add_durations(manifest)
    cache = manifest.parent / CACHE
    cache.write_bytes(damage(cache.read_bytes()))
    add_durations(manifest)
    assert seconds(manifest) == SECONDS


def test_a_cache_that_cannot_be_written(manifest):
    (manifest.parent / CACHE).mkdir()
    with pytest.raises(InputError, match=f"{CACHE}: is a folder"):
        add_durations(manifest)


def test_a_cache_cut_off_anywhere_gives_no_wrong_duration(manifest):
    add_durations(manifest)
    whole = (manifest.parent / CACHE).read_text()
    for end in range(0, len(whole), 2):
        (manifest.parent / CACHE).write_text(whole[:end])
        assert list(measure_durations(list(SAMPLES), manifest.parent, workers=1)[0].values()) == SECONDS


def break_files(folder):
    (folder / "a.wav").write_bytes(b"RIFF, but not really")
    soundfile.write(folder / "c.wav", noise(0), 16_000)


def test_a_file_without_audio_is_an_error_or_left_out(manifest, opened):
    break_files(manifest.parent)
    before = manifest.read_text()
    expected = r"m.tsv: 2 of 3 audio files cannot be used, first a.wav, c.wav .cannot be decoded .*; replace"
    for read in (list(SAMPLES), ["a.wav", "c.wav"]):
        opened.clear()
        with pytest.raises(InputError, match=expected):
            add_durations(manifest)
        assert sorted(opened) == read
    assert manifest.read_text() == before
    break_files(manifest.parent)
    (warning,) = add_durations(manifest, drop_unreadable=True)
    assert "first a.wav, c.wav (cannot be decoded (it is text" in warning
    assert warning.endswith("; left out")
    assert [utterance.utt_id for utterance in read_manifest(manifest)] == ["b.flac"]
    (manifest.parent / "b.flac").unlink()
    with pytest.raises(InputError, match="1 of 1"):
        add_durations(manifest, drop_unreadable=True)


def test_an_interrupted_reading_keeps_its_durations(manifest, monkeypatch, opened):
    watched, before = checks.audio_samples, manifest.read_text()

    def interrupted(path):
        if path.name == "c.wav":
            raise KeyboardInterrupt
        return watched(path)

    monkeypatch.setattr(checks, "BATCH", 1)
    monkeypatch.setattr(checks, "audio_samples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_durations(manifest, workers=1)
    assert manifest.read_text() == before
    opened.clear()
    monkeypatch.setattr(checks, "audio_samples", watched)
    add_durations(manifest)
    assert opened == ["c.wav"]
    assert seconds(manifest) == SECONDS


def break_some(manifest):
    """Cut one file, remove one and let one say another duration; return their ids in the manifest's order."""
    utterances = read_manifest(manifest)
    cut, gone, other = utterances[1], utterances[4], utterances[6]
    cut.path.write_bytes(cut.path.read_bytes()[:-100])
    gone.path.unlink()
    soundfile.write(other.path, noise(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, format="WAV")
    return [cut.utt_id, gone.utt_id, other.utt_id]


def rows(table):
    with table.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_come_in_the_manifests_order(tmp_path, workers):
    manifest = write_corpus(tmp_path, 20)
    assert audit_utterances(read_manifest(manifest), workers) == []
    broken = break_some(manifest)
    faults = audit_utterances(read_manifest(manifest), workers)
    assert [fault.utterance.utt_id for fault in faults] == broken
    for fault, expected in zip(faults, ("is cut short", "no such file", "lasts 1.000 s"), strict=True):
        assert re.fullmatch(rf"{fault.utterance.path}: {expected}.*", fault.message)


def test_a_table_stands_beside_the_manifest(tmp_path):
    manifest = write_corpus(tmp_path, 8)
    broken = break_some(manifest)
    before = manifest.read_bytes()
    faults = audit(manifest, workers=0)
    table = rows(tmp_path / "manifest.faults.tsv")
    assert [row["utt_id"] for row in table] == broken
    assert [row["fault"] for row in table] == [fault.message for fault in faults]
    assert table[0]["path"] == str(faults[0].utterance.path)
    assert manifest.read_bytes() == before
    write_corpus(tmp_path, 8)
    assert audit(manifest, workers=0) == []
    assert rows(manifest.with_name("manifest.faults.tsv")) == [], "what is mended is no longer listed"


def test_a_place_that_cannot_be_written_to_is_refused_at_once(tmp_path, monkeypatch):
    manifest = write_corpus(tmp_path, 2)
    manifest.with_name("manifest.faults.tsv").mkdir()
    monkeypatch.setattr("hybrid_pruning.data.checks.audit_utterances", lambda *_: pytest.fail("too late"))
    with pytest.raises(InputError, match=r"manifest.faults.tsv: is a folder"):
        audit(manifest)


def test_the_verb_shows_the_first_ten_faults_and_counts_all(cli, tmp_path):
    good, bad = write_corpus(tmp_path / "good", 4), write_corpus(tmp_path / "bad", 14)
    found = cli("audit", "good/manifest.tsv", "--workers", "0")
    assert (found.code, found.out, found.err) == (0, "good/manifest.tsv: every file is sound\n", "")
    for utterance in read_manifest(bad)[:12]:
        utterance.path.unlink()
    found = cli("audit", "bad/manifest.tsv", "good/manifest.tsv", "--workers", "0")
    assert found.code == 2
    assert found.out == "bad/manifest.tsv: 12 faulty files\ngood/manifest.tsv: every file is sound\n"
    *shown, last = found.err.splitlines()
    assert len(shown) == 10
    assert all(re.fullmatch(r"  bad/\S+: no such file; check .*", line) for line in shown)
    assert last == (
        "hybrid-pruning: faulty files: 12 in bad/manifest.faults.tsv; mend them, or remove their rows from the manifest"
    )
    assert len(rows(bad.with_name("manifest.faults.tsv"))) == 12
    assert good.with_name("manifest.faults.tsv").exists()


def test_prepare_checks_its_manifests(cli, tmp_path):
    for seed, path in enumerate(("bonafide/a.flac", "spoof/b.flac")):
        soundfile.write(touch(tmp_path / "raw", path) / path, noise(4000, seed=seed), SAMPLE_RATE_HZ)
    command = ("prepare", "folder", "--root", "raw", "--out", "manifests", "--check", "--workers", "1")
    found = cli(*command)
    assert found.code == 0, found.err
    assert "all.tsv: every file is sound" in found.out
    cut = tmp_path / "raw" / path
    cut.write_bytes(cut.read_bytes()[:-50])
    found = cli(*command)
    assert found.code == 2
    fault, last = found.err.splitlines()[-2:]
    assert re.fullmatch(r"  \S+b.flac: cannot be decoded .*", fault)
    assert last.startswith("hybrid-pruning: faulty files: 1 in manifests/all.faults.tsv; mend them")
    assert len(read_manifest(tmp_path / "manifests" / "all.tsv")) == 2, "the manifest is there nevertheless"


def utterances(folder, names, speaker="-", prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.wav").write_bytes(name.encode() * 10_000)
    return [Utterance(f"{prefix}{name}", folder / f"{name}.wav", Label.SPOOF, speaker=speaker) for name in names]


def one_end(folder):
    trainset, devset = utterances(folder / "train", "a"), utterances(folder / "dev", "b")
    for utterance, first in ((trainset[0], b"1"), (devset[0], b"2")):
        utterance.path.write_bytes(first + b"\0" * 3 * checks.TAIL)
    return trainset, devset


def gone(folder):
    trainset, devset = utterances(folder / "train", "ab"), utterances(folder / "dev", "ab", prefix="dev-")
    trainset[0].path.unlink()
    devset[1].path.unlink()
    return trainset, devset


def same_files(folder):
    other = [*utterances(folder / "x" / "..", "abcd", prefix="dev-"), *utterances(folder, "f")]
    return utterances(folder, "abcde"), other


def same_ids(folder):
    trainset, devset = utterances(folder / "train", "abc"), utterances(folder / "dev", "cd")
    devset[0].path.write_bytes(b"something else")
    return trainset, devset


def same_speakers(folder):
    trainset = [*utterances(folder, "a", "S1"), *utterances(folder, "b", "S2"), *utterances(folder, "c")]
    return trainset, [*utterances(folder, "d", "S2"), *utterances(folder, "e", "S3"), *utterances(folder, "f")]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (lambda folder: (utterances(folder, "abc", "S1"), utterances(folder, "de", "S2")), ()),
        (one_end, ()),
        (gone, ()),
        (same_files, ("dev.tsv: 4 of 5 files are training files too (dev-a, dev-b, dev-c, ...)", "take them out")),
        (
            lambda folder: (utterances(folder / "train", "abc"), utterances(folder / "dev", "bxyz", prefix="dev-")),
            ("1 files are copies of training files", "(dev-b)"),
        ),
        (same_ids, ("1 ids stand in the training data too", "(c)")),
        (same_speakers, ("1 of its 2 speakers", "(S2)", "split by speaker")),
    ],
)
def test_each_overlap_is_one_warning(tmp_path, sets, words):
    found = checks.check_overlap(*sets(tmp_path), "dev.tsv")
    assert len(found) == bool(words)
    assert all(word in found[0] and "\n" not in found[0] for word in words), found


def test_large_sets_are_compared_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MOST_READ", 5)
    opened = []
    end = checks._end
    monkeypatch.setattr(checks, "_end", lambda path: (opened.append(path), end(path))[1])
    letters = "abcdefghijklmnopqrst"
    trainset, devset = utterances(tmp_path / "train", letters), utterances(tmp_path / "dev", letters, prefix="dev-")
    (warning,) = checks.check_overlap(trainset, devset, "dev.tsv")
    assert "5 files are copies" in warning
    assert len(opened) == 10


def test_scored_recordings_are_compared_with_training_data(tmp_path):
    train_tsv, eval_tsv = write_corpus(tmp_path / "train", 4, seed=1), write_corpus(tmp_path / "eval", 4, seed=2)
    shutil.copy(read_manifest(train_tsv)[0].path, read_manifest(eval_tsv)[0].path)
    found = checks.check_scored({"recipe": {"data": {"train": str(train_tsv)}}}, eval_tsv)
    assert len(found) == 2, found
    assert "1 files are copies" in found[0]
    assert "3 ids" in found[1]
    beside = eval_tsv.parent / "train.tsv"
    write_manifest(beside, read_manifest(train_tsv))
    by_name = {"recipe": {"data": {"train": "train.tsv"}}, checks.TRAINED_ON: digest_file(beside)}
    assert checks.check_scored(by_name, eval_tsv) == found
    assert checks.check_scored({**by_name, checks.TRAINED_ON: digest_file(eval_tsv)}, eval_tsv) == []
    train_tsv.write_text("no manifest")
    for train in (str(tmp_path / "gone.tsv"), str(train_tsv)):
        assert checks.check_scored({"recipe": {"data": {"train": train}}}, eval_tsv) == []
    for provenance in ({}, {"recipe": None}):
        assert checks.check_scored(provenance, eval_tsv) == []


def test_names_are_compared_within_a_corpus_that_both_have():
    """A speaker 1 of one corpus is not that of another; of an unknown corpus it may be."""

    def speak(corpus, speaker, utt_id, folder="train"):
        return qualify(Utterance(utt_id, Path(folder) / corpus / utt_id, Label.SPOOF, speaker), corpus)

    trainset = [speak("a", "1", "x"), speak("b", "2", "y")]
    words = {"a": ["1 ids", "1 of its 1 speakers"], "b": [], "c": ["1 ids", "1 of its 1 speakers"]}
    for corpus, expected in (words | {"": words["c"]}).items():
        found = checks.check_overlap(trainset, [speak(corpus, "1", "x", "dev")], "dev.tsv")
        assert len(found) == len(expected), found
        assert all(word in line for word, line in zip(expected, found, strict=True)), found


def test_scored_recordings_are_compared_with_every_training_corpus(tmp_path):
    sets = {name: write_corpus(tmp_path / name, 4, seed=seed) for seed, name in enumerate("abc")}
    shutil.copy(read_manifest(sets["b"])[0].path, read_manifest(sets["c"])[0].path)
    recipe = {"recipe": {"data": {"train": {name: str(sets[name]) for name in "ab"}}}}
    found = checks.check_scored(recipe, sets["c"])
    assert "1 files are copies" in found[0]
    assert "3 ids" in found[1]
    digests = {name: digest_file(sets[name]) for name in "ab"}
    assert checks.check_scored({**recipe, checks.TRAINED_ON: digests}, sets["c"]) == found
    assert checks.check_scored({**recipe, checks.TRAINED_ON: {**digests, "b": "0"}}, sets["c"])[0].count("4 ids")
    assert checks.check_scored({**recipe, checks.TRAINED_ON: dict.fromkeys("ab", "0")}, sets["c"]) == []
