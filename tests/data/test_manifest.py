"""Manifests: what is written is read back, and what is wrong is named by file and line."""

import math
from pathlib import Path

import pytest

from hybrid_pruning.data.manifest import COLUMNS, Utterance, read_manifest, write_manifest
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

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
        Utterance('b "quoted" ü', outside, Label.SPOOF, "speaker", "F", "A07", "opus", "2", "asvspoof5", "take 1", 3.0),
    ]
    path = tmp_path / "manifest.tsv"
    write_manifest(path, written)
    assert read_manifest(path) == written
    known = ("speaker", "gender", "attack", "codec", "codec_quality", "source", "recording", "seconds")
    assert ("utt_id", "path", "label", *known) == COLUMNS
    assert "\tflac/a b.flac\t" in path.read_text(encoding="utf-8"), "paths below the manifest are relative to it"
    (tmp_path / "moved").mkdir()
    path.rename(tmp_path / "moved" / "m.tsv")
    assert read_manifest(tmp_path / "moved" / "m.tsv")[0].path == tmp_path / "moved" / "flac" / "a b.flac"


@pytest.mark.parametrize(
    "content",
    [
        "licence\tlabel\tutt_id\tpath\r\nCC\tspoof\ta\ta.wav\r\n\r\n",
        "utt_id\tpath\tlabel\ra\ta.wav\tspoof\r",
        "\ufeffutt_id\tpath\tlabel\na\ta.wav\tspoof",
    ],
    ids=["Windows' line ends", "old line ends", "a byte order mark, and no last line end"],
)
def test_the_least_a_manifest_needs_with_any_line_ends(tmp_path: Path, content: str):
    (tmp_path / "manifest.tsv").write_bytes(content.encode())
    (found,) = read_manifest(tmp_path / "manifest.tsv")
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
        (HEADER + "a\ta.wav\tspoof\tx\n", ":2: 4 columns, expected 3"),
        ("label\t" + HEADER, ":1: column 'label' stands twice"),
        (HEADER + "\ta.wav\tspoof\n", ":2: column 'utt_id' is empty"),
        (HEADER + "a\ta\0b.wav\tspoof\n", ":2: holds control characters"),
        (HEADER + "a\ta.wav\tSpoof\n", ":2: label 'Spoof', expected bonafide or spoof"),
        *(
            (f"seconds\t{HEADER}{text}\ta\ta.wav\tspoof\n", f":2: seconds '{text}', expected a duration .* or '-'")
            for text in ("-1", "1,5", "nan", "inf")
        ),
        (HEADER + "a\ta.wav\tspoof\n\na\tb.wav\tspoof\n", ":4: utt_id 'a' already stands in line 2"),
        (HEADER + "a\t\tspoof\n", ":2: column 'path' is empty"),
        (HEADER + "a\ta.wav\tfake\n", ":2: label 'fake', expected bonafide or spoof"),
    ],
)
def test_mistakes_are_named_by_line(tmp_path: Path, text: str, expected: str):
    with pytest.raises(InputError, match=f"manifest.tsv{expected}") as caught:
        read_manifest(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text_or_missing(tmp_path: Path):
    (tmp_path / "audio.tsv").write_bytes(b"utt_id\tpath\tlabel\n\xff\xfe\x00")
    (tmp_path / "wide.tsv").write_text(HEADER, encoding="utf-16")
    texts = {"audio.tsv": "not UTF-8 text", "wide.tsv": "wide.tsv: is UTF-16 text; save"}
    for name, expected in {**texts, "missing.tsv": "cannot be read", ".": "cannot"}.items():
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


def test_ids_may_have_folders_and_paths_may_lie_anywhere(tmp_path: Path):
    names = {"id10270/x/00001.wav": "../a.wav", "a..b/.c": "/data/a.wav", "Größe 1": "b/../c.wav"}
    rows = "".join(f"{utt_id}\t{path}\tspoof\n" for utt_id, path in names.items())
    found = {utterance.utt_id: utterance.path for utterance in read_manifest(write(tmp_path, HEADER + rows))}
    assert found == {utt_id: tmp_path / path for utt_id, path in names.items()}


@pytest.mark.parametrize(
    "utt_id", ["../a", "a/../../b", "/a", "a//b", "a/", ".", "..", "C:a", "..\\a", "a\x1bb", "a\u2028b"]
)
def test_unsafe_ids_are_neither_read_nor_written(tmp_path: Path, utt_id: str):
    with pytest.raises(InputError, match=r"manifest.tsv:2: (utt_id|holds control characters)"):
        read_manifest(write(tmp_path, f"{HEADER}{utt_id}\ta.wav\tspoof\n"))
    with pytest.raises(InputError, match=r"new.tsv: .*utt_id"):
        write_manifest(tmp_path / "new.tsv", [Utterance(utt_id, tmp_path / "a.wav", Label.SPOOF)])
    assert not (tmp_path / "new.tsv").exists()


def test_names_that_would_break_the_table_are_not_written(tmp_path: Path):
    for name in ("a\tb", "a\nb", "a\x1b[2J", "\udcff"):
        with pytest.raises(InputError, match=r"m.tsv: column 'path' of 'a' holds control characters"):
            write_manifest(tmp_path / "m.tsv", [Utterance("a", tmp_path / name, Label.SPOOF)])
    assert not (tmp_path / "m.tsv").exists()
