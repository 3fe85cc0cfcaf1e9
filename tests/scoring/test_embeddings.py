"""Embeddings of a manifest for other programs: numpy's file and Kaldi's, resumed; the verb and its picture."""

import struct
from pathlib import Path

import numpy as np
import pytest

import hybrid_pruning as hp
from hybrid_pruning.data.manifest import read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.embeddings import Embeddings
from hybrid_pruning.scoring.resume import Partial
from world import Cli

COMMAND = "embed model dev/manifest.tsv --workers 0 --batch-size 3 --out"


def read_ark(ark: Path) -> dict[str, np.ndarray]:
    """Read Kaldi's binary float vectors through the list beside them, as its documentation has the format."""
    content, found = ark.read_bytes(), {}
    for line in ark.with_suffix(".scp").read_text().splitlines():
        key, place = line.split(" ", 1)
        path, offset = place.rsplit(":", 1)
        start = int(offset)
        assert Path(path) == ark
        assert content[:start].endswith(f"{key} ".encode())
        assert content[start : start + 6] == b"\0BFV \4"
        (width,) = struct.unpack_from("<i", content, start + 6)
        found[key] = np.frombuffer(content, "<f4", width, start + 10)
    assert len(content) == sum(len(key) + 11 + 4 * len(vector) for key, vector in found.items())
    return found


def test_three_forms_hold_the_same_in_the_manifests_order(cli: Cli, world: Path):
    for name in ("new", "new.npz", "new.ark"):
        found = cli(*COMMAND.split(), name)
        assert (found.code, found.err) == (0, "")
    assert found.out.splitlines()[-1].startswith("new.ark and new.scp: 8 embeddings of width ")
    ours = Embeddings.read(world / "new")
    assert ours.ids == [one.utt_id for one in read_manifest(world / "dev" / "manifest.tsv")]
    with np.load(world / "new.npz") as content:
        assert content["ids"].tolist() == ours.ids
        np.testing.assert_array_equal(content["embeddings"], ours.vectors)
        np.testing.assert_array_equal(content["seconds"], ours.seconds)
    kaldi = read_ark(world / "new.ark")
    assert list(kaldi) == ours.ids
    np.testing.assert_array_equal(np.stack([*kaldi.values()]), ours.vectors)


def test_a_file_for_others_is_written_anew_and_goes_on_when_cut_off(world: Path, monkeypatch: pytest.MonkeyPatch):
    manifest, out, add = world / "dev" / "manifest.tsv", world / "new.npz", Partial.add
    arguments = (world / "model", manifest, out, 3, 0)
    hp.embed(*arguments)
    whole = out.read_bytes()
    out.write_bytes(b"another program's")

    def stop(partial: Partial, result: object) -> None:
        add(partial, result)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Partial, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        hp.embed(*arguments)
    assert out.read_bytes() == b"another program's"
    monkeypatch.setattr(Partial, "add", add)
    done = len(list(filter(None, (out.with_name("new.npz.partial") / "results-0.jsonl").read_text().splitlines())))
    assert done == 1
    hp.embed(*arguments)
    assert out.read_bytes() == whole
    assert not out.with_name("new.npz.partial").exists()


def test_a_key_of_kaldi_has_no_space(world: Path):
    manifest = world / "dev" / "manifest.tsv"
    first, *rest = read_manifest(manifest)
    write_manifest(manifest, [type(first)("two words", first.path, first.label), *rest])
    with pytest.raises(InputError, match=r"manifest.tsv: utt_id 'two words' has a space.*\.npz"):
        hp.embed(world / "model", manifest, world / "new.ark", workers=0)


def test_the_picture_is_asked_for_by_its_ending(cli: Cli, world: Path):
    found = cli(*COMMAND.split(), "new.npz", "--picture", "new.svg")
    assert (found.code, found.err) == (0, "")
    text = (world / "new.svg").read_text()
    for words in ("bonafide (4)", "principal component 1, "):
        assert words in text
    assert cli(*COMMAND.split(), "newer.npz", "--picture", "new.jpg").code == 2
    assert not (world / "newer.npz").exists()
