"""Score and key files: the official vectors, every form of keys, every fault in one clear line, a whole challenge."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning import metrics
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate, print_table
from hybrid_pruning.metrics.measures import find_warnings


def evaluate_track1(scores: Path, keys: Path) -> dict[str, float]:
    return evaluate(scores, keys, "track1").metrics


def evaluate_track2(scores: Path, keys: Path) -> dict[str, float]:
    return evaluate(scores, keys, "track2").metrics


def evaluate_sv(scores: Path, keys: Path) -> dict[str, float]:
    return evaluate(scores, keys, "sv").metrics


VECTORS = Path(__file__).parents[2] / "shared" / "reference" / "metrics"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no reference vectors at {VECTORS}")

SCORES = "filename\tcm-score\na\t2.0\nb\t1.0\nc\t-1.0\nd\t1.5\n"
KEYS = "filename\tcm-label\na\tbonafide\nb\tbonafide\nc\tspoof\nd\tspoof\n"
SASV_SCORES = (
    "spk\tfilename\tcm-score\tasv-score\tsasv-score\ns\ta\t1\t1\t1\ns\tb\t1\t-1\t-1\ns\tc\t-1\t1\t-2\nt\ta\t1\t2\t1\n"
)
SASV_KEYS = (
    "spk\tfilename\tcm-label\tasv-label\n"
    "s\ta\tbonafide\ttarget\ns\tb\tbonafide\tnontarget\ns\tc\tspoof\tspoof\nt\ta\tbonafide\ttarget\n"
)
SV_SCORES = "enrol\ttest\tscore\np/1\tp/2\t0.9\np/1\tq/1\t0.1\nq/1\tq/2\t0.8\nq/1\tp/1\t0.2\n"
SV_TRIALS = "1 p/1 p/2\n0 p/1 q/1\n1 q/1 q/2\n0 q/1 p/1\n"


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


Put = Callable[[str, str], Path]


def official(vector: str) -> dict[str, float]:
    expected: dict[str, float] = json.loads((VECTORS / "expected.json").read_text())[vector]
    return expected


@needs_vectors
@pytest.mark.parametrize("vector", ["gauss", "ties", "softmax", "perfect", "inverted", "tiny"])
def test_track1_equals_the_official_package(vector: str) -> None:
    name = f"track1_{vector}"
    found = evaluate_track1(VECTORS / f"{name}.scores.tsv", VECTORS / f"{name}.keys.tsv")
    for metric, value in official(name).items():
        assert found[metric] == pytest.approx(value, abs=1e-9), metric


@needs_vectors
@pytest.mark.parametrize("vector", ["gauss", "ties"])
def test_track2_equals_the_official_package(vector: str) -> None:
    name = f"track2_{vector}"
    found = evaluate_track2(VECTORS / f"{name}.scores.tsv", VECTORS / f"{name}.keys.tsv")
    expected = official(name)
    assert found["a_dcf"] == pytest.approx(expected["a_dcf"], abs=1e-9)
    assert found["min_t_dcf"] == pytest.approx(expected["min_t_dcf"], abs=1e-9)
    assert found["t_eer"] == pytest.approx(expected["t_eer_percent"] / 100, abs=1e-11)


@needs_vectors
def test_every_vector_is_covered() -> None:
    names = set(json.loads((VECTORS / "expected.json").read_text()))
    tested = {f"track1_{name}" for name in ("gauss", "ties", "softmax", "perfect", "inverted", "tiny")}
    assert names == tested | {"track2_gauss", "track2_ties"}


KEY_FORMS = {
    "keys": KEYS,
    "keys in another order with more columns": (
        "speaker\tcm-label\tfilename\nx\tspoof\td\nx\tspoof\tc\nx\tbonafide\tb\nx\tbonafide\ta\n"
    ),
    "manifest that also has a filename column": (
        "filename\tutt_id\tlabel\nx\ta\tbonafide\nx\tb\tbonafide\nx\tc\tspoof\nx\td\tspoof\n"
    ),
    "Windows line ends": KEYS.replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + KEYS,
    "manifest": (
        "utt_id\tpath\tlabel\tspeaker\n"
        "a\ta.flac\tbonafide\tp\nb\tb.flac\tbonafide\tp\nc\tc.flac\tspoof\tq\nd\td.flac\tspoof\tq\n"
    ),
    "ASVspoof 5": (
        "E_1 a F - - - - bonafide bonafide -\nE_1 b F C01 1 x - bonafide bonafide -\n"
        "E_1 c F - - - AC3 A17 spoof -\nE_2 d M C02 2 y AC1 A18 spoof -\n"
    ),
    "older ASVspoof 5": "E_1 a F - - bonafide\nE_1 b F - - bonafide\nE_1 c F - A17 spoof\n\nE_2 d M - A18 spoof\n",
    "ASVspoof 2021 LA": (
        "LA_1 a alaw ita_tx bonafide bonafide notrim eval\nLA_1 b none loc_tx bonafide bonafide notrim eval\n"
        "LA_1 c alaw ita_tx A07 spoof notrim eval\nLA_1  d opus sin_tx A08 spoof trim hidden\n"
    ),
    "ASVspoof 2021 DF": (
        "LA_1 a nocodec asvspoof - bonafide notrim progress bonafide - - - -\n"
        "TEF2 b low_mp3 vcc2020 - bonafide notrim eval bonafide - - - -\n"
        "LA_1 c nocodec asvspoof A14 spoof notrim eval traditional_vocoder - - - -\n"
        "TEF2 d low_mp3 vcc2020 Task1-team20 spoof notrim eval unknown Task1 team20 FF E\n"
    ),
    "ASVspoof 2021 PA": (
        "PA_1 a R3 M3 d4 - - - - bonafide notrim eval\nPA_1 b R3 M3 d4 - - - - bonafide notrim eval\n"
        "PA_1 c R3 M3 d4 r1 m1 s4 c4 spoof notrim eval\nPA_1 d R3 M3 d4 r1 m1 s4 c4 spoof notrim eval\n"
    ),
    "In-the-Wild": "file,speaker,label\na.wav,p,bona-fide\nb.wav,p,bona-fide\nc.wav,p q,spoof\nd.wav,q,spoof\n",
    "SpoofCeleb": "file,speaker,attack\na.flac,id1,a00\nb.flac,id1,a00\nc.flac,id1,a07\nd.flac,id2,a23\n",
    "ASVspoof 2019 LA": "LA_1 a - - bonafide\nLA_1 b - - bonafide\nLA_1 c - A07 spoof\nLA_1 d - A08 spoof\n",
}


@pytest.mark.parametrize("form", KEY_FORMS)
def test_track1_keys_come_in_many_forms(put: Put, form: str) -> None:
    found = evaluate_track1(put("scores.tsv", SCORES), put("keys", KEY_FORMS[form]))
    positive, negative = [2.0, 1.0], [-1.0, 1.5]
    assert found == {
        "eer": metrics.eer(positive, negative),
        "min_dcf": metrics.min_dcf(positive, negative),
        "act_dcf": metrics.act_dcf(positive, negative),
        "cllr": metrics.cllr(positive, negative),
        "min_cllr": metrics.min_cllr(positive, negative),
        "n_bonafide": 2,
        "n_spoof": 2,
    }


def test_track2_reads_the_trial_file_of_asvspoof5(put: Put) -> None:
    scores = put("scores.tsv", SASV_SCORES)
    found = evaluate_track2(scores, put("keys.tsv", SASV_KEYS))
    assert (found["n_target"], found["n_nontarget"], found["n_spoof"]) == (2, 1, 1)
    assert found["a_dcf"] == found["t_eer"] == 0
    protocol = put("trial.tsv", "s a F bonafide target\ns b F bonafide nontarget\ns c F A17 spoof\nt a F - target\n")
    assert evaluate_track2(scores, protocol) == found
    protocol = put("trl.txt", "s a bonafide target\ns b bonafide nontarget\ns c A17 spoof\nt a bonafide target\n")
    assert evaluate_track2(scores, protocol) == found


@pytest.mark.parametrize("cut", ["dashes", "no columns"])
def test_track2_of_a_single_system_has_only_the_a_dcf(put: Put, cut: str) -> None:
    rows = [line.split("\t") for line in SASV_SCORES.splitlines()]
    if cut == "dashes":
        lines = ["\t".join(rows[0]), *("\t".join([*row[:2], "-", "-", row[4]]) for row in rows[1:])]
    else:
        lines = ["\t".join([*row[:2], row[4]]) for row in rows]
    found = evaluate_track2(put("scores.tsv", "\n".join(lines) + "\n"), put("keys.tsv", SASV_KEYS))
    assert set(found) == {"a_dcf", "n_target", "n_nontarget", "n_spoof"}


SV_FORMS = {
    "VoxCeleb": SV_TRIALS,
    "Kaldi": "p/1 p/2 target\np/1 q/1 nontarget\nq/1 q/2 target\nq/1 p/1 nontarget\n",
    "Kaldi with digits": "p/1 p/2 1\np/1 q/1 0\nq/1 q/2 1\nq/1 p/1 0\n",
    "header": "label\tenrol\ttest\n1\tp/1\tp/2\n0\tp/1\tq/1\n1\tq/1\tq/2\n0\tq/1\tp/1\n",
    "ASVspoof": "p/1 p/2 F - target\np/1 q/1 F - nontarget\nq/1 q/2 F - target\nq/1 p/1 F - nontarget\n",
}


@pytest.mark.parametrize("form", SV_FORMS)
def test_verification_trials_come_in_many_forms(put: Put, form: str) -> None:
    found = evaluate_sv(put("scores.tsv", SV_SCORES), put("trials", SV_FORMS[form]))
    assert found == {"eer": 0, "min_dcf_0.01": 0, "min_dcf_0.05": 0, "n_target": 2, "n_nontarget": 2}


def test_verification_uses_unit_costs_at_both_priors(put: Put) -> None:
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 2, 400), rng.normal(0, 1, 400).round(1)
    values = values + labels
    scores = put("s", "enrol\ttest\tscore\n" + "".join(f"e{i}\tt{i}\t{value}\n" for i, value in enumerate(values)))
    trials = put("t", "".join(f"{label} e{i} t{i}\n" for i, label in enumerate(labels)))
    found = evaluate_sv(scores, trials)
    positive, negative = values[labels == 1], values[labels == 0]
    assert found["eer"] == metrics.eer(positive, negative)
    assert found["min_dcf_0.01"] == metrics.min_dcf(positive, negative, 0.01, 1, 1)
    assert found["min_dcf_0.05"] == metrics.min_dcf(positive, negative, 0.05, 1, 1)


def test_a_verification_trial_may_repeat_as_often_in_both_files(put: Put) -> None:
    again = "p/1\tp/2\t0.7\n"
    found = evaluate_sv(put("scores.tsv", SV_SCORES + again), put("trials", SV_TRIALS + "1 p/1 p/2\n"))
    assert found["n_target"] == 3
    refused(
        r"scores.tsv:6: 'p/1 p/2' is scored twice",
        evaluate_sv,
        put("scores.tsv", SV_SCORES + again),
        put("t", SV_TRIALS),
    )
    refused(r"t: 'p/1 p/2' has no score in", evaluate_sv, put("s.tsv", SV_SCORES), put("t", SV_TRIALS + "1 p/1 p/2\n"))
    refused(r"t:5: 'p/1 p/2' stands twice", evaluate_sv, put("s.tsv", SV_SCORES), put("t", SV_TRIALS + "0 p/1 p/2\n"))


def refused(message: str, evaluate: Callable[[Path, Path], object], scores: Path, keys: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        evaluate(scores, keys)
    assert "\n" not in str(caught.value)


TRACK1_FAULTS = {
    "score without a key": (SCORES + "e\t1\nf\t1\ng\t1\n", KEYS, r"s.tsv:6: 'e' has no key in \S+k.tsv; .*and 2 more"),
    "key without a score": (
        SCORES,
        KEYS + "e\tspoof\nf\tspoof\n",
        r"k.tsv: 'e' has no score in \S+s.tsv \(and 1 more\)",
    ),
    "other ids altogether": (
        "filename\tcm-score\nx\t1\ny\t2\n",
        KEYS,
        r"s.tsv:2: 'x' has no key in .* do both files belong to the same set\? \(and 1 more faulty lines\)",
    ),
    "score twice": (SCORES + "a\t2.0\n", KEYS, r"s.tsv:6: 'a' is scored twice; remove one of the lines$"),
    "key twice": (
        SCORES,
        KEYS + "a\tbonafide\nb\tspoof\n",
        r"k.tsv:6: 'a' stands twice; .*\(and 1 more faulty lines\)",
    ),
    "NaN": (SCORES.replace("1.5", "nan"), KEYS, r"s.tsv:5: cm-score of 'd' is 'nan', expected a finite number"),
    "infinite": (SCORES.replace("1.5", "-inf"), KEYS, r"s.tsv:5: cm-score of 'd' is '-inf', expected a finite number"),
    "too large": (SCORES.replace("1.5", "1e308"), KEYS, r"s.tsv:5: cm-score of 'd' is '1e308', .* within \+-1e\+30"),
    "no number": (SCORES.replace("1.5", "high"), KEYS, r"s.tsv:5: cm-score of 'd' is 'high', expected a finite number"),
    "empty score": (SCORES.replace("1.5", ""), KEYS, r"s.tsv:5: cm-score of 'd' is '', expected a finite number"),
    "unknown label": (
        SCORES,
        KEYS.replace("d\tspoof", "d\tfake"),
        r"k.tsv:5: label 'fake', expected bonafide or spoof",
    ),
    "no score column": (SCORES.replace("cm-score", "other"), KEYS, r"s.tsv:1: column 'cm-score' is missing"),
    "no label column": (SCORES, KEYS.replace("cm-label", "label"), r"k.tsv:1: column 'cm-label' is missing"),
    "scores without header": (
        "a\tb\n",
        KEYS,
        r"s.tsv:1: 'a\tb' is in none of the forms of a score file; expected a header",
    ),
    "ragged score": (SCORES + "e\n", KEYS, r"s.tsv:6: 1 columns, expected 2"),
    "a long and a short score": (SCORES + "e\t1\t2\nf\n", KEYS, r"s.tsv:6: 3 columns, expected 2: filename cm-score"),
    "one class only": (SCORES, KEYS.replace("spoof", "bonafide"), r"k.tsv: no spoof among 4 trials; every class"),
    "no keys": (SCORES, "filename\tcm-label\n", r"s.tsv:2: 'a' has no key in .*and 3 more"),
    "no scores": ("filename\tcm-score\n", KEYS, r"k.tsv: 'a' has no score in \S+ \(and 3 more\)"),
    "nothing at all": ("filename\tcm-score\n", "filename\tcm-label\n", "k.tsv: no trials"),
    "unknown label in a table with commas": (
        SCORES,
        "file,speaker,label\na.wav,p,bonafide\n",
        "k.tsv:2: label 'bonafide', expected bona-fide or spoof",
    ),
    "empty keys": (SCORES, "", r"k.tsv:1: 0 columns, expected a header with filename, cm-label or utt_id, label"),
    "unknown protocol": (SCORES, "a b c\n", r"k.tsv:1: 3 columns, expected a header with .* 6 \(speaker filename"),
    "ragged protocol": (
        SCORES,
        "E_1 a F - - - - - bonafide -\nE_1 a F - - spoof\n",
        r"k.tsv:2: 6 columns, expected 10: speaker filename",
    ),
    "trials of track 2": (SCORES, "s a F - target\n", r"k.tsv:1: label 'target', expected bonafide or spoof"),
}


@pytest.mark.parametrize("fault", TRACK1_FAULTS)
def test_a_faulty_file_is_one_clear_line(put: Put, fault: str) -> None:
    scores, keys, message = TRACK1_FAULTS[fault]
    refused(message, evaluate_track1, put("s.tsv", scores), put("k.tsv", keys))


TRACK2_FAULTS = {
    "one system's scores missing": (
        SASV_SCORES.replace("asv-score\tsasv", "x\tsasv"),
        SASV_KEYS,
        "'asv-score' is missing",
    ),
    "no joint score": (SASV_SCORES.replace("sasv-score", "x"), SASV_KEYS, "column 'sasv-score' is missing"),
    "dash among numbers": (SASV_SCORES.replace("t\ta\t1", "t\ta\t-"), SASV_KEYS, "s.tsv:5: cm-score of 't a' is '-'"),
    "labels disagree": (
        SASV_SCORES,
        SASV_KEYS.replace("spoof\tspoof", "bonafide\tspoof"),
        "k.tsv:4: cm-label 'bonafide' beside 'spoof', expected 'spoof'",
    ),
    "unknown label": (
        SASV_SCORES,
        SASV_KEYS.replace("\ttarget", "\tgenuine"),
        r"k.tsv:2: label 'genuine', .*and 1 more",
    ),
    "no spk column": (SASV_SCORES, SASV_KEYS.replace("spk", "speaker"), "k.tsv:1: column 'spk' is missing"),
    "twice": (SASV_SCORES + "s\ta\t1\t1\t1\n", SASV_KEYS, "s.tsv:6: 's a' is scored twice"),
    "no nontarget": (SASV_SCORES, SASV_KEYS.replace("nontarget", "target"), "no nontarget among 4 trials"),
    "track 1 keys": (SASV_SCORES, KEYS, "column 'spk' is missing"),
}


@pytest.mark.parametrize("fault", TRACK2_FAULTS)
def test_a_faulty_track2_file_is_one_clear_line(put: Put, fault: str) -> None:
    scores, keys, message = TRACK2_FAULTS[fault]
    refused(message, evaluate_track2, put("s.tsv", scores), put("k.tsv", keys))


SV_FAULTS = {
    "reversed trial": (SV_SCORES, SV_TRIALS.replace("1 p/1 p/2", "1 p/2 p/1"), "s.tsv:2: 'p/1 p/2' has no key"),
    "unknown label": (SV_SCORES, SV_TRIALS.replace("0 p/1", "2 p/1"), "k.tsv:2: label '2', expected 1 or target or 0"),
    "spoof": (SV_SCORES, "p/1 p/2 F A01 spoof\n", "k.tsv:1: label 'spoof', expected 1 or target or 0 or nontarget"),
    "two columns": (SV_SCORES, "p/1 p/2\n", "k.tsv:1: 2 columns"),
}


@pytest.mark.parametrize("fault", SV_FAULTS)
def test_a_faulty_trial_file_is_one_clear_line(put: Put, fault: str) -> None:
    scores, keys, message = SV_FAULTS[fault]
    refused(message, evaluate_sv, put("s.tsv", scores), put("k.tsv", keys))


def test_unreadable_files_are_refused(put: Put, tmp_path: Path) -> None:
    scores, keys, absent = put("s.tsv", SCORES), put("k.tsv", KEYS), tmp_path / "absent"
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\x00\x80\n")
    refused(r"absent: cannot be read \(No such file or directory\); check the path", evaluate_track1, absent, keys)
    refused(r"absent: cannot be read \(No such file or directory\); check the path", evaluate_track1, scores, absent)
    refused(rf"{re.escape(str(tmp_path))}: cannot be read \(Is a directory\)", evaluate_track1, scores, tmp_path)
    refused("binary: is not UTF-8 text", evaluate_track1, scores, binary)
    refused("binary: is not UTF-8 text", evaluate_track1, binary, keys)


def test_warnings_name_what_looks_wrong() -> None:
    assert find_warnings({"eer": 0.5, "min_dcf": 0.3, "act_dcf": 0.4}) == []
    assert find_warnings({"a_dcf": 0.1, "t_eer": 0.02}) == []
    (inverted,) = find_warnings({"eer": 0.684, "min_dcf": 0.99, "act_dcf": 1.6})
    assert "68.4% is worse than chance: are the scores inverted?" in inverted
    (uncalibrated,) = find_warnings({"eer": 0.11, "min_dcf": 0.249, "act_dcf": 1.0})
    assert "actDCF is 1.000 where minDCF is 0.249: the scores are not calibrated" in uncalibrated
    (useless,) = find_warnings({"a_dcf": 1.0})
    assert "a-DCF is 1" in useless
    (tandem,) = find_warnings({"a_dcf": 0.2, "t_eer": 0.6})
    assert "60.0%" in tandem


def test_the_table_shows_error_rates_in_percent(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"eer": 0.03758, "min_dcf": 0.1028, "n_spoof": 542086, "mystery": 0.25}
    print_table(result, title="eval")
    lines = capsys.readouterr().out.splitlines()
    assert "eval" in lines[0]
    assert len({len(line) for line in lines[1:]}) == 1
    for label, value in (("EER %", "3.758"), ("minDCF", "0.1028"), ("spoof trials", "542,086"), ("mystery", "0.2500")):
        assert any(label in line and line.rstrip("│ ").endswith(value) for line in lines)


def test_a_whole_challenge_is_read_in_seconds(tmp_path: Path) -> None:
    count = 680_774
    rng = np.random.default_rng(0)
    bonafide = rng.random(count) < 0.2037
    values = rng.normal(0, 1, count) + np.where(bonafide, 2, -2)
    with (tmp_path / "s").open("w") as scores, (tmp_path / "k").open("w") as keys:
        scores.write("filename\tcm-score\n")
        scores.writelines(f"E_{i:010d}\t{value:.6f}\n" for i, value in enumerate(values))
        keys.writelines(
            f"E_{i % 737:04d} E_{i:010d} F - - - - A17 {'bonafide' if human else 'spoof'} -\n"
            for i, human in enumerate(bonafide)
        )
    start = time.perf_counter()
    found = evaluate_track1(tmp_path / "s", tmp_path / "k")
    assert time.perf_counter() - start < 30
    assert found["n_bonafide"] + found["n_spoof"] == count
    assert found["eer"] == pytest.approx(0.0228, abs=0.001)
