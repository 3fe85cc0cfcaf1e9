"""Warnings of an evaluated set that overlaps with the training data: in files, copies, ids, speakers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus import write_corpus
from hybrid_pruning.data import checks as overlap
from hybrid_pruning.data.manifest import Utterance, read_manifest, write_manifest
from hybrid_pruning.files import digest_file
from hybrid_pruning.tasks import Label

Sets = tuple[list[Utterance], list[Utterance]]


def utterances(folder: Path, names: str, speaker: str = "-", prefix: str = "") -> list[Utterance]:
    """Write a file per letter, of its own content, and return them as utterances."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.wav").write_bytes(name.encode() * 10_000)
    return [Utterance(f"{prefix}{name}", folder / f"{name}.wav", Label.SPOOF, speaker=speaker) for name in names]


def one_end(folder: Path) -> Sets:
    trainset, devset = utterances(folder / "train", "a"), utterances(folder / "dev", "b")
    for utterance, first in ((trainset[0], b"1"), (devset[0], b"2")):
        utterance.path.write_bytes(first + b"\0" * 3 * overlap.TAIL)
    return trainset, devset


def gone(folder: Path) -> Sets:
    trainset, devset = utterances(folder / "train", "ab"), utterances(folder / "dev", "ab", prefix="dev-")
    trainset[0].path.unlink()
    devset[1].path.unlink()
    return trainset, devset


def same_files(folder: Path) -> Sets:
    other = [*utterances(folder / "x" / "..", "abcd", prefix="dev-"), *utterances(folder, "f")]
    return utterances(folder, "abcde"), other


def same_ids(folder: Path) -> Sets:
    trainset, devset = utterances(folder / "train", "abc"), utterances(folder / "dev", "cd")
    devset[0].path.write_bytes(b"something else")
    return trainset, devset


def same_speakers(folder: Path) -> Sets:
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
def test_each_overlap_is_one_warning(tmp_path: Path, sets: Callable[[Path], Sets], words: tuple[str, ...]) -> None:
    found = overlap.check_overlap(*sets(tmp_path), "dev.tsv")
    assert len(found) == bool(words)
    assert all(word in found[0] and "\n" not in found[0] for word in words), found


def test_large_sets_are_compared_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MOST_READ", 5)
    opened: list[Path] = []
    end = overlap._end
    monkeypatch.setattr(overlap, "_end", lambda path: (opened.append(path), end(path))[1])
    letters = "abcdefghijklmnopqrst"
    trainset, devset = utterances(tmp_path / "train", letters), utterances(tmp_path / "dev", letters, prefix="dev-")
    (warning,) = overlap.check_overlap(trainset, devset, "dev.tsv")
    assert "5 files are copies" in warning
    assert len(opened) == 10


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
    train_tsv.write_text("no manifest")
    for train in (str(tmp_path / "gone.tsv"), str(train_tsv)):
        assert overlap.check_scored({"recipe": {"data": {"train": train}}}, eval_tsv) == []
    for provenance in ({}, {"recipe": None}):
        assert overlap.check_scored(provenance, eval_tsv) == []
