"""Manifests: what is written is read back, and what is wrong is named by file and line."""

import math
from pathlib import Path

import pytest

from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import COLUMNS, Label, Utterance, read_manifest, write_manifest

HEADER = "utt_id\tpath\tlabel\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "manifest.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path):
    inside = tmp_path / "flac" / "a b.flac"
    outside = tmp_path.parent / "elsewhere.wav"
    written = [
        Utterance("a", inside, Label.BONAFIDE, seconds=1.25),
        Utterance(
            'b "quoted" ü',
            outside,
            Label.SPOOF,
            speaker="speaker",
            gender="F",
            attack="A07",
            codec="opus",
            codec_quality="2",
            source="asvspoof5",
            recording="take 1",
            seconds=3.0,
        ),
    ]
    path = tmp_path / "manifest.tsv"
    write_manifest(path, written)
    assert read_manifest(path) == written
    assert "\tflac/a b.flac\t" in path.read_text(encoding="utf-8"), "paths below the manifest are relative to it"


def test_a_folder_with_its_manifest_can_be_moved(tmp_path: Path):
    (tmp_path / "old").mkdir()
    write_manifest(tmp_path / "old" / "m.tsv", [Utterance("a", tmp_path / "old" / "a.wav", Label.SPOOF)])
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.tsv")[0].path == tmp_path / "new" / "a.wav"


def test_the_least_a_manifest_needs(tmp_path: Path):
    (found,) = read_manifest(write(tmp_path, "licence\tlabel\tutt_id\tpath\r\nCC\tspoof\ta\ta.wav\r\n\r\n"))
    assert (found.utt_id, found.path, found.label, found.attack) == ("a", tmp_path / "a.wav", Label.SPOOF, "-")
    assert math.isnan(found.seconds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ":1: column 'utt_id' is missing; .* has: nothing"),
        ("utt_id,path,label\n", ":1: column 'utt_id' is missing"),
        ("utt_id\tfile\tlabel\n", ":1: column 'path' is missing; .* has: utt_id, file, label"),
        (HEADER, ": no utterances below the header"),
        (HEADER + "a\ta.wav\n", ":2: 2 columns, expected 3"),
        (HEADER + "a\ta.wav\tspoof\n\na\tb.wav\tspoof\n", ":4: utt_id 'a' already stands in line 2"),
        (HEADER + "a\t\tspoof\n", ":2: column 'path' is empty"),
        (HEADER + "a\ta.wav\tfake\n", ":2: label 'fake', expected bonafide or spoof"),
        ("seconds\t" + HEADER + "-1\ta\ta.wav\tspoof\n", ":2: seconds '-1', expected a duration"),
        ("seconds\t" + HEADER + "1,5\ta\ta.wav\tspoof\n", ":2: seconds '1,5', expected a duration"),
    ],
)
def test_mistakes_are_named_by_line(tmp_path: Path, text: str, expected: str):
    with pytest.raises(InputError, match=f"manifest.tsv{expected}") as caught:
        read_manifest(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_what_is_no_text_or_not_there(tmp_path: Path):
    (tmp_path / "audio.tsv").write_bytes(b"utt_id\tpath\tlabel\n\xff\xfe\x00")
    for name, expected in (("audio.tsv", "no table of UTF-8 text"), ("missing.tsv", "cannot be read"), (".", "cannot")):
        with pytest.raises(InputError, match=expected):
            read_manifest(tmp_path / name)


def test_a_failing_writer_leaves_the_old_manifest(tmp_path: Path):
    path = tmp_path / "m.tsv"
    write_manifest(path, [Utterance("a", tmp_path / "a.wav", Label.SPOOF)])
    old = path.read_text()

    def broken():
        yield Utterance("b", tmp_path / "b.wav", Label.SPOOF)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, broken())
    assert path.read_text() == old


def test_columns_are_the_documented_ones():
    known = ("speaker", "gender", "attack", "codec", "codec_quality", "source", "recording", "seconds")
    assert ("utt_id", "path", "label", *known) == COLUMNS
