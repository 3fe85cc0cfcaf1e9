"""Tables and manifests: how they are encoded and ended, cells that come back, mistakes named by file and line."""

import math

import pytest

from corpus import ODD
from hybrid_pruning.data.manifest import COLUMNS, Utterance, read_manifest, write_manifest
from hybrid_pruning.data.tables import read_columns, read_lines, read_rows, write_table
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2
from hybrid_pruning.data.trials import read_keys, read_pairs, read_trials
from hybrid_pruning.errors import InputError
from hybrid_pruning.tasks import Label

KEYS = "LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval\nLA_0009 LA_E_2 alaw ita_tx bonafide bonafide notrim eval\n"
SCORES = (-1.0, 2.0)


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_cells_come_back_as_they_were(tmp_path):
    rows = [{"filename": cell, "cm-score": other} for cell, other in zip(ODD, ODD[::-1], strict=True)]
    write_table(tmp_path / "t.tsv", ("filename", "cm-score"), (row.values() for row in rows))
    assert [row for _, row in read_rows(tmp_path / "t.tsv", ("filename",))] == rows
    for cell in ("a\tb", "a\nb", "a\rb", "\x1b[2J", "\x85", "\u2028", "\udcff"):
        with pytest.raises(InputError, match=r"u.tsv: column 'b' of 'x' holds control characters: '"):
            write_table(tmp_path / "u.tsv", ("a", "b"), [("x", cell)])
    assert not (tmp_path / "u.tsv").exists()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_line_ends_are_no_content(tmp_path, mark, end):
    columns = write(tmp_path / "p", mark + end.join(("A b", "", "C d", "")))
    assert list(read_columns(columns, ("x", "y"))) == [(1, {"x": "A", "y": "b"}), (3, {"x": "C", "y": "d"})]
    rows = write(tmp_path / "m.csv", mark + end.join(("x,y", "", 'A,"b ""c"", d"', "")))
    assert list(read_rows(rows, ("x", "y"), ",")) == [(3, {"x": "A", "y": 'b "c", d'})]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a b\n".encode("utf-16"), "t: is UTF-16 text; save it as UTF-8"),
        ("a b\n".encode("utf-16-le"), r"t:1: holds control characters: 'a\\x00"),
        ("é b\n".encode("latin-1"), "t: is not UTF-8 text; save it as UTF-8"),
        ("a\nb\x1b[2J c\n", r"t:2: holds control characters: 'b\\x1b\[2J c'; rename it"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, expected):
    with pytest.raises(InputError, match=expected):
        read_lines(write(tmp_path / "t", content))


@pytest.mark.parametrize(
    "scores",
    [
        "LA_E_1 -1.0\nLA_E_2 2.0\n",
        "LA_E_2\t2.0\r\nLA_E_1\t-1.0\r\n",
        "\ufeffLA_E_1 -1.0\nLA_E_2  2\n",
        "LA_E_1, -1.0\nLA_E_2, 2.0\n",
        "LA_E_1 A07 spoof -1.0\nLA_E_2 - bonafide 2.0\n",
        "LA_E_1,A07,spoof,-1.0\nLA_E_2,-,bonafide,2.0\n",
        'filename,cm-score\n"LA_E_1",-1.0\nLA_E_2,2.0\n',
        "filename cm-score\nLA_E_1 -1.0\nLA_E_2 2.0\n",
        "utt_id,score\nLA_E_1,-1.0\nLA_E_2,2.0\n",
        "filename\tcm-score\nLA_E_1.flac\t-1.0\nLA_E_2.WAV\t2.0\n",
        "filename\tsome\tcm-score\nLA_E_1\tx\t-1.0\nLA_E_2\ty\t2.0\n",
    ],
)
@pytest.mark.parametrize(
    "keys", [KEYS, "LA_E_1 spoof\nLA_E_2 bonafide\n", "filename,cm-label\nLA_E_1.flac,spoof\nLA_E_2.flac,bonafide\n"]
)
def test_scores_of_other_programs(tmp_path, scores, keys):
    trials = read_trials(write(tmp_path / "s", scores), write(tmp_path / "k", keys), TRACK1)
    assert tuple(trials.scores["cm-score"]) == SCORES
    assert trials.classes.tolist() == ["spoof", "bonafide"]


@pytest.mark.parametrize(
    "scores",
    [
        "a.wav b.wav 0.9 target\na.wav c.wav 0.1 nontarget\n",
        "a b 0.9\na c 0.1\n",
        "a,c,0.1\na,b,0.9\n",
        "enroll test score\na.wav b.wav 0.9\na.wav c.wav 0.1\n",
    ],
)
def test_scores_of_trials(tmp_path, scores):
    keys = write(tmp_path / "k", "1 a.wav b.wav\n0 a.wav c.wav\n")
    assert read_trials(write(tmp_path / "s", scores), keys, SV).scores["score"].tolist() == [0.9, 0.1]
    keys, scores = write(keys, "1 a.wav b.wav\n" * 2 + "0 a.wav c.wav\n"), "a c 0.1\na b 0.8\na b 0.9\n"
    assert read_trials(write(tmp_path / "s", scores), keys, SV).scores["score"].tolist() == [0.8, 0.9, 0.1]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ("-1.0 LA_E_1\n2.0 LA_E_2\n", "s:1: '-1.0 LA_E_1' is in none of the forms of a score file; .* filename attack"),
        ("LA_E_1 spoof -1.0\n", "none of the forms"),
        ("LA_E_1 A07 -1.0 spoof\n", "none of the forms"),
        ("LA_E_1 A07 fake -1.0\n", "none of the forms"),
        ("", "s:1: '' is in none of the forms"),
        ("filename\tscore\tcm_score\nLA_E_1\t1\t2\n", "s:1: column 'cm-score' stands twice in the header"),
        ("LA_E_1 -1.0\nLA_E_2 A07 2.0\n", "s:2: 3 columns, expected 2: filename cm-score"),
        ("LA_E_1 -1.0\nLA_E_2 x\n", "s:2: cm-score of 'LA_E_2' is 'x', expected a finite number"),
        ('a,1\n"b,2\n', "s:2: 0 columns, expected 2"),
        ("LA_E_1 1\nLA_E_1.wav 1\nLA_E_2 2\n", "s:2: 'LA_E_1.wav' is scored twice"),
    ],
)
def test_scores_that_could_mean_anything(tmp_path, scores, expected):
    with pytest.raises(InputError, match=expected):
        read_trials(write(tmp_path / "s", scores), write(tmp_path / "k", KEYS), TRACK1)


def test_two_that_differ_in_the_suffix_are_not_guessed(tmp_path):
    keys = write(tmp_path / "k", "a.wav spoof\na.flac bonafide\n")
    with pytest.raises(InputError, match="s:1: 'a' has no key"):
        read_trials(write(tmp_path / "s", "a 1\n"), keys, TRACK1)
    trials = read_trials(write(tmp_path / "s", "a.flac 1\na.wav 2\n"), keys, TRACK1)
    assert trials.scores["cm-score"].tolist() == [2, 1]


def test_scores_of_track_2_without_a_header(tmp_path):
    keys = write(tmp_path / "k", "A x F bonafide target\nA y F bonafide nontarget\nA z F A01 spoof\n")
    scores = write(tmp_path / "s", "A x 1\nA y 2\nA z.flac 3\n")
    assert read_trials(scores, keys, TRACK2).scores["sasv-score"].tolist() == [1, 2, 3]


def test_ids_may_be_called_as_columns_are(tmp_path):
    keys = write(tmp_path / "k", "S file - - bonafide\nS label - A01 spoof\n")
    assert read_keys(keys, TRACK1).names == [["file", "label"]]
    assert read_pairs(write(tmp_path / "l", "enrol x\nenrol y\n")).test == ["x", "y"]


HEADER = "utt_id\tpath\tlabel\n"


def write_manifest_text(folder, text):
    path = folder / "manifest.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_round_trip(tmp_path):
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
def test_the_least_a_manifest_needs_with_any_line_ends(tmp_path, content):
    (tmp_path / "manifest.tsv").write_bytes(content.encode())
    (found,) = read_manifest(tmp_path / "manifest.tsv")
    assert (found.utt_id, found.path, found.label, found.attack) == ("a", tmp_path / "a.wav", Label.SPOOF, "-")
    assert math.isnan(found.seconds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ":1: column 'utt_id' is missing; .* has: nothing"),
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
    ],
)
def test_mistakes_are_named_by_line(tmp_path, text, expected):
    with pytest.raises(InputError, match=f"manifest.tsv{expected}") as caught:
        read_manifest(write_manifest_text(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_failing_writer_leaves_the_old_manifest(tmp_path):
    path = tmp_path / "m.tsv"
    write_manifest(path, [Utterance("a", tmp_path / "a.wav", Label.SPOOF)])
    old = path.read_text()

    def broken():
        yield Utterance("b", tmp_path / "b.wav", Label.SPOOF)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, broken())
    assert path.read_text() == old


def test_ids_may_have_folders_and_paths_may_lie_anywhere(tmp_path):
    names = {"id10270/x/00001.wav": "../a.wav", "a..b/.c": "/data/a.wav", "Größe 1": "b/../c.wav"}
    rows = "".join(f"{utt_id}\t{path}\tspoof\n" for utt_id, path in names.items())
    found = {
        utterance.utt_id: utterance.path for utterance in read_manifest(write_manifest_text(tmp_path, HEADER + rows))
    }
    assert found == {utt_id: tmp_path / path for utt_id, path in names.items()}


@pytest.mark.parametrize(
    "utt_id", ["../a", "a/../../b", "/a", "a//b", "a/", ".", "..", "C:a", "..\\a", "a\x1bb", "a\u2028b"]
)
def test_unsafe_ids_are_neither_read_nor_written(tmp_path, utt_id):
    with pytest.raises(InputError, match=r"manifest.tsv:2: (utt_id|holds control characters)"):
        read_manifest(write_manifest_text(tmp_path, f"{HEADER}{utt_id}\ta.wav\tspoof\n"))
    with pytest.raises(InputError, match=r"new.tsv: .*utt_id"):
        write_manifest(tmp_path / "new.tsv", [Utterance(utt_id, tmp_path / "a.wav", Label.SPOOF)])
    assert not (tmp_path / "new.tsv").exists()


def test_names_that_would_break_the_table_are_not_written(tmp_path):
    for name in ("a\tb", "a\nb", "a\x1b[2J", "\udcff"):
        with pytest.raises(InputError, match=r"m.tsv: column 'path' of 'a' holds control characters"):
            write_manifest(tmp_path / "m.tsv", [Utterance("a", tmp_path / name, Label.SPOOF)])
    assert not (tmp_path / "m.tsv").exists()
