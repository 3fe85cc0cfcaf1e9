"""What is judged on and has something of the training data in it is told: files, copies, ids, speakers."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from corpus import write_corpus
from hybrid_pruning.data import overlap
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.files import digest_file
from hybrid_pruning.tasks import Label


def warned(lines: Sequence[str], *words: str) -> None:
    """Assert that there is exactly one warning, of one line, with all of these words."""
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    for word in words:
        assert word in lines[0], lines[0]


def utterances(folder: Path, names: str, speaker: str = "-", prefix: str = "") -> list[Utterance]:
    """Write a file per letter, of its own content, and return them as utterances."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        path = folder / f"{name}.wav"
        path.write_bytes(name.encode() * 10_000)
        found.append(Utterance(f"{prefix}{name}", path, Label.SPOOF, speaker=speaker))
    return found


def test_different_sets_are_fine(tmp_path: Path) -> None:
    trainset, devset = utterances(tmp_path, "abc", "S1"), utterances(tmp_path, "de", "S2")
    assert overlap.check_overlap(trainset, devset, "dev.tsv") == []


def test_the_same_files(tmp_path: Path) -> None:
    trainset = utterances(tmp_path, "abcde")
    devset = [*utterances(tmp_path / "x" / "..", "abcd", prefix="dev-"), *utterances(tmp_path, "f")]
    found = overlap.check_overlap(trainset, devset, "dev.tsv")
    warned(found, "dev.tsv: 4 of 5 files are training files too (dev-a, dev-b, dev-c, ...)", "take them out")


def test_copies_under_other_names(tmp_path: Path) -> None:
    trainset = utterances(tmp_path / "train", "abc")
    devset = utterances(tmp_path / "dev", "bxyz", prefix="dev-")
    warned(overlap.check_overlap(trainset, devset, "dev.tsv"), "1 files are copies of training files", "(dev-b)")


def test_files_of_one_end_are_no_copies(tmp_path: Path) -> None:
    trainset, devset = utterances(tmp_path / "train", "a"), utterances(tmp_path / "dev", "b")
    for utterance, first in ((trainset[0], b"1"), (devset[0], b"2")):
        utterance.path.write_bytes(first + b"\0" * 3 * overlap.TAIL)
    assert overlap.check_overlap(trainset, devset, "dev.tsv") == []


def test_large_sets_are_compared_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MOST_READ", 5)
    opened: list[Path] = []
    end = overlap._end
    monkeypatch.setattr(overlap, "_end", lambda path: (opened.append(path), end(path))[1])
    letters = "abcdefghijklmnopqrst"
    trainset, devset = utterances(tmp_path / "train", letters), utterances(tmp_path / "dev", letters, prefix="dev-")
    warned(overlap.check_overlap(trainset, devset, "dev.tsv"), "5 files are copies")
    assert len(opened) == 10


def test_files_that_are_gone_are_left_to_who_reads_them(tmp_path: Path) -> None:
    trainset, devset = utterances(tmp_path / "train", "ab"), utterances(tmp_path / "dev", "ab", prefix="dev-")
    trainset[0].path.unlink()
    devset[1].path.unlink()
    assert overlap.check_overlap(trainset, devset, "dev.tsv") == []


def test_the_same_ids(tmp_path: Path) -> None:
    trainset, devset = utterances(tmp_path / "train", "abc"), utterances(tmp_path / "dev", "cd")
    devset[0].path.write_bytes(b"something else")
    warned(overlap.check_overlap(trainset, devset, "dev.tsv"), "1 ids stand in the training data too", "(c)")


def test_the_same_speakers(tmp_path: Path) -> None:
    trainset = [*utterances(tmp_path, "a", "S1"), *utterances(tmp_path, "b", "S2"), *utterances(tmp_path, "c")]
    devset = [*utterances(tmp_path, "d", "S2"), *utterances(tmp_path, "e", "S3"), *utterances(tmp_path, "f")]
    warned(overlap.check_overlap(trainset, devset, "dev.tsv"), "1 of its 2 speakers", "(S2)", "split by speaker")


def test_what_is_scored_is_compared_with_what_was_trained_on(tmp_path: Path) -> None:
    train_tsv, eval_tsv = write_corpus(tmp_path / "train", 4, seed=1), write_corpus(tmp_path / "eval", 4, seed=2)
    shutil.copy(read_manifest(train_tsv)[0].path, read_manifest(eval_tsv)[0].path)
    found = overlap.check_scored({"recipe": {"data": {"train": str(train_tsv)}}}, eval_tsv)
    assert len(found) == 2, found
    assert "1 files are copies" in found[0]
    assert "3 ids" in found[1]
    beside = eval_tsv.parent / "train.tsv"
    write_manifest(beside, read_manifest(train_tsv))
    by_name = {"recipe": {"data": {"train": "train.tsv"}}, overlap.TRAINED_ON: digest_file(beside)}
    assert overlap.check_scored(by_name, eval_tsv) == found
    assert overlap.check_scored({**by_name, overlap.TRAINED_ON: digest_file(eval_tsv)}, eval_tsv) == []
    for provenance in ({}, {"recipe": None}, {"recipe": {"data": {"train": str(tmp_path / "gone.tsv")}}}):
        assert overlap.check_scored(provenance, eval_tsv) == []
    train_tsv.write_text("no manifest")
    assert overlap.check_scored({"recipe": {"data": {"train": str(train_tsv)}}}, eval_tsv) == []
