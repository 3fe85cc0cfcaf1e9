"""Every file of a manifest is decoded once, and what is wrong is listed, in a table and on the screen."""

import csv
import re
from pathlib import Path

import pytest
import soundfile

from corpus import SAMPLE_RATE_HZ, noise, touch, write_corpus
from hybrid_pruning.data.checks import audit, audit_utterances
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.errors import InputError
from world import Cli


def break_some(manifest: Path) -> list[str]:
    """Cut one file, remove one and let one say another duration; return their ids in the manifest's order."""
    utterances = read_manifest(manifest)
    cut, gone, other = utterances[1], utterances[4], utterances[6]
    cut.path.write_bytes(cut.path.read_bytes()[:-100])
    gone.path.unlink()
    soundfile.write(other.path, noise(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, format="WAV")
    return [cut.utt_id, gone.utt_id, other.utt_id]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_come_in_the_manifests_order(tmp_path: Path, workers: int):
    manifest = write_corpus(tmp_path, 20)
    assert audit_utterances(read_manifest(manifest), workers) == []
    broken = break_some(manifest)
    faults = audit_utterances(read_manifest(manifest), workers)
    assert [fault.utterance.utt_id for fault in faults] == broken
    for fault, expected in zip(faults, ("is cut short", "no such file", "lasts 1.000 s"), strict=True):
        assert re.fullmatch(rf"{fault.utterance.path}: {expected}.*", fault.message)


def test_a_table_stands_beside_the_manifest(tmp_path: Path):
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


def test_a_place_that_cannot_be_written_to_costs_no_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = write_corpus(tmp_path, 2)
    manifest.with_name("manifest.faults.tsv").mkdir()
    monkeypatch.setattr("hybrid_pruning.data.checks.audit_utterances", lambda *_: pytest.fail("too late"))
    with pytest.raises(InputError, match=r"manifest.faults.tsv: is a folder"):
        audit(manifest)


def test_the_verb_shows_the_first_ten_faults_and_counts_all(cli: Cli, tmp_path: Path):
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


def test_prepare_checks_what_it_has_prepared(cli: Cli, tmp_path: Path):
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
