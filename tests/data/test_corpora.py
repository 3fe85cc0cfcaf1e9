"""Corpora in their official layouts, made of text and empty files: what becomes of them, and of every mistake."""

import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from corpus import files_below, prepare, refuse, touch
from hybrid_pruning.data.corpora import CORPORA, releases
from hybrid_pruning.data.corpora.releases import RELEASES
from hybrid_pruning.data.manifest import read_manifest

Files = Mapping[str, str]


class Sample(NamedTuple):
    """A small corpus; expected are by part: id, label, speaker, gender, attack, codec, quality and source."""

    protocols: Files
    audio: tuple[str, ...]
    expected: Mapping[str, tuple[str, ...]]


LA2019 = "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm"
LA2021, DF2021 = "keys/LA/CM/trial_metadata.txt", "keys/DF/CM/trial_metadata.txt"
CELEB = (("train", "train", "a01"), ("dev", "development", "a11"), ("eval", "evaluation", "a23"))
SAMPLES = {
    "asvspoof5": Sample(
        {
            "ASVspoof5.train.tsv": "T_0001 T_0000000000 F - - - AC3 A05 spoof -\n"
            "T_002 T_0000000013 M - - - - bonafide bonafide -\n",
            "ASVspoof5.dev.track_1.tsv": "D_0062 D_0000000001 F - A11 spoof\n\nD_0755 D_0000000022 F - - bonafide\n",
            "ASVspoof5.eval.track_1.tsv": "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -\n",
        },
        (
            *("flac_T/T_0000000000.flac", "flac_T/T_0000000013.flac", "flac_D/D_0000000001.flac"),
            *("flac_D/D_0000000022.flac", "flac_D/D_A0000000562.flac", "flac_E_eval/E_0009538969.flac"),
        ),
        {
            "train": ("T_0000000000 spoof T_0001 F A05 - - ASVspoof5", "T_0000000013 bonafide T_002 M - - - ASVspoof5"),
            "dev": ("D_0000000001 spoof D_0062 F A11 - - ASVspoof5", "D_0000000022 bonafide D_0755 F - - - ASVspoof5"),
            "eval": ("E_0009538969 spoof E_1607 M A26 C05 2 ASVspoof5",),
        },
    ),
    "asvspoof2019-la": Sample(
        {
            f"{LA2019}.train.trn.txt": "LA_0079 LA_T_1138215 - - bonafide\nLA_0091 LA_T_8529430 - A01 spoof\n",
            f"{LA2019}.dev.trl.txt": "LA_0069 LA_D_1047731 - - bonafide\n",
            f"{LA2019}.eval.trl.txt": "LA_0039 LA_E_2834763 - A11 spoof\n",
        },
        (
            *("ASVspoof2019_LA_train/flac/LA_T_1138215.flac", "ASVspoof2019_LA_train/flac/LA_T_8529430.flac"),
            *("ASVspoof2019_LA_dev/flac/LA_D_1047731.flac", "ASVspoof2019_LA_eval/flac/LA_E_2834763.flac"),
        ),
        {
            "train": (
                "LA_T_1138215 bonafide LA_0079 - - - - ASVspoof2019-LA",
                "LA_T_8529430 spoof LA_0091 - A01 - - ASVspoof2019-LA",
            ),
            "dev": ("LA_D_1047731 bonafide LA_0069 - - - - ASVspoof2019-LA",),
            "eval": ("LA_E_2834763 spoof LA_0039 - A11 - - ASVspoof2019-LA",),
        },
    ),
    "asvspoof2021-la": Sample(
        {
            LA2021: "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
            "LA_0020 LA_E_6866159 none - bonafide bonafide notrim progress\n"
            "LA_0005 LA_E_1000381 ulaw sin_tx A16 spoof only_speech hidden\n"
        },
        tuple(f"ASVspoof2021_LA_eval/flac/LA_E_{number}.flac" for number in (9332881, 6866159, 1000381)),
        {
            "eval": ("LA_E_9332881 spoof LA_0009 - A07 alaw - ASVspoof2021-LA",),
            "progress": ("LA_E_6866159 bonafide LA_0020 - - none - ASVspoof2021-LA",),
            "hidden": ("LA_E_1000381 spoof LA_0005 - A16 ulaw - ASVspoof2021-LA",),
        },
    ),
    "asvspoof2021-df": Sample(
        {
            DF2021: "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -\n"
            "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder_nonautoregressive Task1 "
            "team20 FF E\nLA_0048 DF_E_2000058 mp3m4a asvspoof - bonafide notrim eval bonafide - - - -\n"
        },
        (
            "ASVspoof2021_DF_eval_part00/ASVspoof2021_DF_eval/flac/DF_E_2000011.flac",
            "ASVspoof2021_DF_eval_part01/ASVspoof2021_DF_eval/flac/DF_E_2000013.flac",
            "ASVspoof2021_DF_eval/flac/DF_E_2000058.flac",
        ),
        {
            "progress": ("DF_E_2000011 spoof LA_0023 - A14 nocodec - ASVspoof2021-DF/asvspoof",),
            "eval": (
                "DF_E_2000013 spoof TEF2 - Task1-team20 low_m4a - ASVspoof2021-DF/vcc2020",
                "DF_E_2000058 bonafide LA_0048 - - mp3m4a - ASVspoof2021-DF/asvspoof",
            ),
        },
    ),
    "spoofceleb": Sample(
        {
            f"metadata/{name}.csv": f"file,speaker,attack\na00/id1/x.flac,id1,a00\n{attack}/id1/x.flac,id1,{attack}\n"
            for _, name, attack in CELEB
        },
        tuple(f"flac/{name}/{folder}/id1/x.flac" for _, name, attack in CELEB for folder in ("a00", attack)),
        {
            part: ("a00/id1/x bonafide id1 - - - - SpoofCeleb", f"{attack}/id1/x spoof id1 - {attack} - - SpoofCeleb")
            for part, _, attack in CELEB
        },
    ),
    "in-the-wild": Sample(
        {"meta.csv": 'file,speaker,label\r\n0.wav,Alec Guinness,spoof\r\n1.wav,"King, Jr.",bona-fide\r\n'},
        ("0.wav", "1.wav"),
        {"eval": ("0 spoof Alec Guinness - - - - In-the-Wild", "1 bonafide King, Jr. - - - - In-the-Wild")},
    ),
}
INSIDE = {"asvspoof2019-la": "LA", "in-the-wild": "release_in_the_wild"}  # the folder their archives unpack to
BAD_LINES = {  # a protocol, its last line, and what is said of it
    "asvspoof5": (
        "ASVspoof5.train.tsv",
        (
            ("T_1 T_0 F AC3 A05 spoof -", "7 columns, expected 10 .speaker filename gender codec .* or 6"),
            ("T_1 T_9 F - - - AC3 A05 fake -", "label 'fake', expected bonafide or spoof"),
            ("T_1 T_0000000000 F - - - AC3 A05 spoof -", "'T_0000000000.flac' already stands in line 1"),
            ("T_1 ../flac_D/D_0000000001 F - - - AC3 A05 spoof -", "is no name of a file below .*flac_T"),
            ("T_1 /etc/passwd F - - - AC3 A05 spoof -", "is no name of a file below"),
            ("T_1 a\\..\\b F - - - AC3 A05 spoof -", "is no name of a file below"),
        ),
    ),
    "asvspoof2019-la": (
        f"{LA2019}.dev.trl.txt",
        (
            ("LA_0069 LA_D_9 - bonafide", "4 columns, expected 5 .speaker filename unused attack label"),
            ("LA_0069 LA_D_9 - - genuine", "label 'genuine', expected bonafide or spoof"),
            ("LA_0069 LA_D_1047731 - - bonafide", "already stands in line 1"),
        ),
    ),
    "asvspoof2021-la": (
        LA2021,
        (
            ("LA_E_9 spoof", "2 columns, expected 8"),
            ("LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim hidden", "already stands in line 1"),
            ("LA_0009 LA_E_9 alaw ita_tx A07 spoof notrim final", "phase 'final', expected eval or progress or hidden"),
        ),
    ),
    "asvspoof2021-df": (
        DF2021,
        (("LA_0009 DF_E_9 alaw ita_tx A07 spoof notrim eval", "8 columns, expected 13 .speaker filename codec s"),),
    ),
    "spoofceleb": (
        "metadata/evaluation.csv",
        (
            ("a00/id1/y.flac,id1", "2 columns, expected 3 as in the header, separated by commas"),
            ("a00/id1/x.flac,id1,a00", "already stands in line 2"),
            ("a24/id1/x.flac,id1,a24", "label 'a24', expected a00, a01, ... a23"),
            ("../development/a00/id1/x.flac,id1,a00", "is no name of a file below"),
            (",id1,a00", "'' is no name of a file"),
        ),
    ),
    "in-the-wild": (
        "meta.csv",
        (
            ("2.wav,Alec Guinness,fake", "label 'fake', expected bona-fide or spoof"),
            ("0.wav,Alec Guinness,spoof", "already stands in line 2"),
            ("/0.wav,Alec Guinness,spoof", "is no name of a file"),
        ),
    ),
}


def put_sample(tmp_path, corpus, inside="."):
    sample = SAMPLES[corpus]
    texts = {f"{inside}/{name}": text for name, text in sample.protocols.items()}
    return touch(tmp_path / "root", *(f"{inside}/{name}" for name in sample.audio), texts=texts)


def describe(utterance):
    known = (utterance.speaker, utterance.gender, utterance.attack, utterance.codec, utterance.codec_quality)
    return " ".join((utterance.utt_id, utterance.label, *known, utterance.source))


def read(prepared):
    return {part: tuple(map(describe, read_manifest(path))) for part, path in prepared.manifests.items()}


@pytest.mark.parametrize("corpus", SAMPLES)
def test_a_corpus_in_its_official_layout(tmp_path, corpus):
    root, sample = put_sample(tmp_path, corpus), SAMPLES[corpus]
    prepared = prepare(corpus, root, tmp_path / "out")
    assert read(prepared) == sample.expected
    assert prepared.manifests == {part: tmp_path / "out" / f"{part}.tsv" for part in sample.expected}
    for part, rows in sample.expected.items():
        spoofs = sum(" spoof " in row for row in rows)
        assert prepared.counts[part] == (len(rows) - spoofs, spoofs)
        assert all(u.path.is_file() and u.path.is_relative_to(root) for u in read_manifest(prepared.manifests[part]))
    warnings = prepared.warnings
    assert warnings
    assert all("expected" in line and "as released, found" in line for line in warnings), "other than official numbers"


@pytest.mark.parametrize("corpus", INSIDE)
def test_the_folder_an_archive_unpacks_to_may_be_given_or_the_one_it_lies_in(tmp_path, corpus):
    root = put_sample(tmp_path, corpus, INSIDE[corpus])
    for place in (root, root / INSIDE[corpus]):
        assert read(prepare(corpus, place, tmp_path / "out")) == SAMPLES[corpus].expected


def test_a_manifest_beside_the_audio_can_be_moved_with_it(tmp_path):
    root = put_sample(tmp_path, "asvspoof5")
    manifest = prepare("asvspoof5", root, root).manifests["train"]
    assert "\tflac_T/T_0000000000.flac\t" in manifest.read_text()


@pytest.mark.parametrize(
    ("corpus", "line", "expected"),
    [(corpus, line, expected) for corpus, (_, lines) in BAD_LINES.items() for line, expected in lines],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path, corpus, line, expected):
    root, protocol = put_sample(tmp_path, corpus), BAD_LINES[corpus][0]
    text = (root / protocol).read_text().rstrip("\r\n") + "\n"
    touch(root, texts={protocol: f"{text}{line}\n"})
    where = f"{Path(protocol).name}:{text.count(chr(10)) + 1}"
    refuse(corpus, root, tmp_path / "out", f"{where}: .*{expected}", allow_missing=True)


@pytest.mark.parametrize("corpus", SAMPLES)
def test_a_protocol_that_is_no_text_or_lacks_its_header(tmp_path, corpus):
    root, protocol = put_sample(tmp_path, corpus), BAD_LINES[corpus][0]
    (root / protocol).write_bytes(b"file,speaker,label,attack\n\xff\xfe\x00")
    name, out = Path(protocol).name, tmp_path / "out"
    refuse(corpus, root, out, f"{name}: .*UTF-8|{name}:1: 1 columns")
    if protocol.endswith(".csv"):
        touch(root, texts={protocol: "name,label\n"})
        refuse(corpus, root, out, r"csv:1: column 'file' is missing; .* file, .*separated by commas")


@pytest.mark.parametrize("corpus", SAMPLES)
def test_missing_audio_is_an_error_or_left_out(tmp_path, corpus):
    root, sample, out = put_sample(tmp_path, corpus), SAMPLES[corpus], tmp_path / "out"
    (root / sample.audio[0]).unlink()
    message = refuse(corpus, root, out, r": 1 of \d audio files are missing in .*first .*--allow-missing")
    assert Path(sample.audio[0]).name in message
    prepared = prepare(corpus, root, out, allow_missing=True)
    found = [row for rows in read(prepared).values() for row in rows]
    assert len(found) == sum(map(len, sample.expected.values())) - 1
    assert sum(map(sum, prepared.counts.values())) == len(found)
    assert [line for line in prepared.warnings if "missing" in line and "left out" in line]
    for name in sample.audio[1:]:
        (root / name).unlink()
    refuse(corpus, root, tmp_path / "empty", "holds nothing to prepare", allow_missing=True)


def test_the_first_ten_of_the_missing_are_named_and_may_stand_once(tmp_path):
    line = "T_1 T_{:02d} F - - - - - bonafide -\n"
    for text, expected in (
        ("".join(map(line.format, range(1234))), r"1,234 of 1,234 .* missing in .*flac_T, first T_00.*T_09.fl"),
        (line.format(0) * 2, r"train.tsv:2: 'T_00.flac' already stands in line 1"),
    ):
        root = touch(tmp_path / "root", texts={"ASVspoof5.train.tsv": text})
        refuse("asvspoof5", root, tmp_path / "out", expected)


def test_a_part_without_audio_has_no_manifest(tmp_path):
    root = put_sample(tmp_path, "asvspoof5")
    (root / "flac_E_eval" / "E_0009538969.flac").unlink()
    prepared = prepare("asvspoof5", root, tmp_path / "out", allow_missing=True)
    assert list(prepared.manifests) == ["train", "dev"]
    assert {path.name for path in files_below(tmp_path / "out")} == {"train.tsv", "dev.tsv"}


def test_official_numbers_are_not_warned_about(tmp_path, monkeypatch):
    (protocol,) = RELEASES["in-the-wild"].protocols
    release = replace(RELEASES["in-the-wild"], protocols=(replace(protocol, counts={"eval": (1, 1)}),))
    monkeypatch.setitem(CORPORA, "in-the-wild", CORPORA["in-the-wild"]._replace(add=release.add))
    prepared = prepare("in-the-wild", put_sample(tmp_path, "in-the-wild"), tmp_path / "out")
    assert (prepared.warnings, prepared.counts) == ([], {"eval": (1, 1)})


def test_official_numbers_add_up():
    """Of the releases' own statements: lines of the protocols, and of keys with metadata."""
    track_1, track_2 = {"train": 182_357, "dev": 140_950, "eval": 680_774}, {"dev": 1_184, "eval": 1_098}
    expected = track_1 | {f"{part}.track_2.enrol": count for part, count in track_2.items()}
    assert {one.part: sum(one.counts[one.part]) for one in releases.ASVSPOOF5.protocols} == expected
    protocols = RELEASES["asvspoof2019-la"].protocols
    assert [sum(protocol.counts[protocol.part]) for protocol in protocols] == [25_380, 24_844, 71_237]
    (la,), (df,) = (RELEASES[f"asvspoof2021-{track}"].protocols for track in ("la", "df"))
    assert [sum(pair) for pair in la.counts.values()] == [148_176, 181_566]
    assert [sum(pair) for pair in df.counts.values()] == [533_928, 611_829]


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_wrong_root_is_refused_with_the_expected_layout(tmp_path, corpus):
    (tmp_path / "empty").mkdir()
    for name, found in (("empty", "holds nothing to prepare"), ("absent", "is not there")):
        message = refuse(corpus, tmp_path / name, tmp_path / "out", f"{name}: {found}; the root must contain ")
        assert CORPORA[corpus].contents in message


def test_a_value_with_no_place_in_a_table_is_refused(tmp_path):
    meta = 'file,speaker,label\n0.wav,"Alec\tGuinness",spoof\n'
    root = touch(tmp_path / "root", "0.wav", texts={"meta.csv": meta})
    refuse("in-the-wild", root, tmp_path / "out", "column 'speaker' of '0' holds control characters")


def prepare_asvspoof5(folder, lines, monkeypatch):
    folder.mkdir()
    text = "".join(f"T_1 T_{n:010d} F - - - - - bonafide -\n" for n in range(lines))
    (folder / "ASVspoof5.train.tsv").write_text(text)
    files = [f"T_{n:010d}.flac" for n in range(lines)]
    monkeypatch.setattr("hybrid_pruning.data.corpora.preparation.list_names", lambda _: files)
    prepare("asvspoof5", folder, folder / "out")


def prepare_voxceleb(folder, lines, monkeypatch):
    touch(folder, *(f"dev/wav/id0{speaker:04d}/v/0.wav" for speaker in range(lines // 100)))
    files = [f"v/{clip:05d}.wav" for clip in range(100)]
    monkeypatch.setattr("hybrid_pruning.data.corpora.speakers.list_recordings", lambda *_: iter(files))
    assert prepare("voxceleb", folder, folder / "out").counts == {"train": (lines, 0)}


@pytest.mark.parametrize(("action", "limit"), [(prepare_asvspoof5, 300), (prepare_voxceleb, 100)])
def test_a_large_corpus_is_not_held_in_memory(tmp_path, monkeypatch, action, limit):
    """The peak grows by less than `limit` bytes a line; an `Utterance` has 900, the name of its file in a table 150.

    The least of two peaks counts: pathlib interns the parts of paths, and when the process's table of interned strings
    grows, which may be at any time, that is one allocation of megabytes.
    """
    peaks = {}
    for attempt, lines in enumerate((500, 500, 2000, 2000)):
        tracemalloc.start()
        action(tmp_path / str(attempt), lines, monkeypatch)
        peaks.setdefault(lines, []).append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (min(peaks[2000]) - min(peaks[500])) / 1500 < limit
