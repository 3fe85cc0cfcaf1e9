"""Score and key files: the official vectors, every form of keys, every fault in one clear line, a whole challenge."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from hybrid_pruning import InputError, evaluate, metrics
from hybrid_pruning.metrics.measures import find_warnings, show_value

VECTORS = Path(__file__).parents[3] / "shared" / "reference" / "metrics"
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
def put(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(message, track, scores, keys):
    with pytest.raises(InputError, match=message) as caught:
        evaluate(scores, keys, track)
    assert "\n" not in str(caught.value)


OFFICIAL = [f"track1_{name}" for name in ("gauss", "ties", "softmax", "perfect", "inverted", "tiny")]
OFFICIAL += ["track2_gauss", "track2_ties"]


@needs_vectors
@pytest.mark.parametrize("vector", OFFICIAL)
def test_metrics_equal_the_official_package(vector):
    expected = json.loads((VECTORS / "expected.json").read_text())
    assert set(expected) == set(OFFICIAL)
    found = evaluate(VECTORS / f"{vector}.scores.tsv", VECTORS / f"{vector}.keys.tsv", vector.partition("_")[0]).metrics
    for metric, value in expected[vector].items():
        if metric == "t_eer_percent":
            assert found["t_eer"] == pytest.approx(value / 100, abs=1e-11)
        else:
            assert found[metric] == pytest.approx(value, abs=1e-9), metric


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
def test_track1_keys_come_in_many_forms(put, form):
    found = evaluate(put("scores.tsv", SCORES), put("keys", KEY_FORMS[form]), "track1").metrics
    names = ("eer", "min_dcf", "act_dcf", "cllr", "min_cllr")
    expected = {name: getattr(metrics, name)([2.0, 1.0], [-1.0, 1.5]) for name in names}
    assert found == expected | {"n_bonafide": 2, "n_spoof": 2}


def test_track2_reads_the_trial_file_of_asvspoof5(put):
    scores = put("scores.tsv", SASV_SCORES)
    found = evaluate(scores, put("keys.tsv", SASV_KEYS), "track2").metrics
    assert (found["n_target"], found["n_nontarget"], found["n_spoof"]) == (2, 1, 1)
    assert found["a_dcf"] == found["t_eer"] == 0
    for trials in (
        "s a F bonafide target\ns b F bonafide nontarget\ns c F A17 spoof\nt a F - target\n",
        "s a bonafide target\ns b bonafide nontarget\ns c A17 spoof\nt a bonafide target\n",
    ):
        assert evaluate(scores, put("trial.tsv", trials), "track2").metrics == found


@pytest.mark.parametrize("cut", ["dashes", "no columns"])
def test_track2_of_a_single_system_has_only_the_a_dcf(put, cut):
    header, *rows = (line.split("\t") for line in SASV_SCORES.splitlines())
    if cut == "dashes":
        lines = [header, *([*row[:2], "-", "-", row[4]] for row in rows)]
    else:
        lines = [[*row[:2], row[4]] for row in (header, *rows)]
    scores = put("scores.tsv", "".join("\t".join(line) + "\n" for line in lines))
    found = evaluate(scores, put("keys.tsv", SASV_KEYS), "track2").metrics
    assert set(found) == {"a_dcf", "n_target", "n_nontarget", "n_spoof"}


SV_FORMS = {
    "VoxCeleb": SV_TRIALS,
    "Kaldi": "p/1 p/2 target\np/1 q/1 nontarget\nq/1 q/2 target\nq/1 p/1 nontarget\n",
    "Kaldi with digits": "p/1 p/2 1\np/1 q/1 0\nq/1 q/2 1\nq/1 p/1 0\n",
    "header": "label\tenrol\ttest\n1\tp/1\tp/2\n0\tp/1\tq/1\n1\tq/1\tq/2\n0\tq/1\tp/1\n",
    "ASVspoof": "p/1 p/2 F - target\np/1 q/1 F - nontarget\nq/1 q/2 F - target\nq/1 p/1 F - nontarget\n",
}


@pytest.mark.parametrize("form", SV_FORMS)
def test_verification_trials_come_in_many_forms(put, form):
    found = evaluate(put("scores.tsv", SV_SCORES), put("trials", SV_FORMS[form]), "sv").metrics
    assert found == {"eer": 0, "min_dcf_0.01": 0, "min_dcf_0.05": 0, "n_target": 2, "n_nontarget": 2}


def test_verification_uses_unit_costs_at_both_priors(put):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    values = rng.normal(0, 1, 400).round(1) + labels
    scores = put("s", "enrol\ttest\tscore\n" + "".join(f"e{i}\tt{i}\t{value}\n" for i, value in enumerate(values)))
    trials = put("t", "".join(f"{label} e{i} t{i}\n" for i, label in enumerate(labels)))
    found = evaluate(scores, trials, "sv").metrics
    positive, negative = values[labels == 1], values[labels == 0]
    assert found["eer"] == metrics.eer(positive, negative)
    assert found["min_dcf_0.01"] == metrics.min_dcf(positive, negative, 0.01, 1, 1)
    assert found["min_dcf_0.05"] == metrics.min_dcf(positive, negative, 0.05, 1, 1)


def test_a_verification_trial_may_repeat_as_often_in_both_files(put):
    once, twice = put("s.tsv", SV_SCORES), put("scores.tsv", SV_SCORES + "p/1\tp/2\t0.7\n")
    assert evaluate(twice, put("trials", SV_TRIALS + "1 p/1 p/2\n"), "sv").metrics["n_target"] == 3
    refused(r"scores.tsv:6: 'p/1 p/2' is scored twice", "sv", twice, put("t", SV_TRIALS))
    refused(r"t: 'p/1 p/2' has no score in", "sv", once, put("t", SV_TRIALS + "1 p/1 p/2\n"))
    refused(r"t:5: 'p/1 p/2' stands twice", "sv", once, put("t", SV_TRIALS + "0 p/1 p/2\n"))


FAULTS = {}
FAULTS["track1"] = [
    (SCORES + "e\t1\nf\t1\ng\t1\n", KEYS, r"s.tsv:6: 'e' has no key in \S+k.tsv; .*and 2 more"),
    (SCORES, KEYS + "e\tspoof\nf\tspoof\n", r"k.tsv: 'e' has no score in \S+s.tsv \(and 1 more\)"),
    (
        "filename\tcm-score\nx\t1\ny\t2\n",
        KEYS,
        r"s.tsv:2: 'x' has no key in .* do both files belong to the same set\? \(and 1 more faulty lines\)",
    ),
    (SCORES + "a\t2.0\n", KEYS, r"s.tsv:6: 'a' is scored twice; remove one of the lines$"),
    (SCORES, KEYS + "a\tbonafide\nb\tspoof\n", r"k.tsv:6: 'a' stands twice; .*\(and 1 more faulty lines\)"),
    *(
        (SCORES.replace("1.5", cell), KEYS, rf"s.tsv:5: cm-score of 'd' is '{cell}', expected a finite .* \+-1e\+30")
        for cell in ("nan", "-inf", "1e308", "high", "")
    ),
    (SCORES, KEYS.replace("d\tspoof", "d\tfake"), r"k.tsv:5: label 'fake', expected bonafide or spoof"),
    (SCORES.replace("cm-score", "other"), KEYS, r"s.tsv:1: column 'cm-score' is missing"),
    (SCORES, KEYS.replace("cm-label", "label"), r"k.tsv:1: column 'cm-label' is missing"),
    ("a\tb\n", KEYS, r"s.tsv:1: 'a\tb' is in none of the forms of a score file; expected a header"),
    (SCORES + "e\n", KEYS, r"s.tsv:6: 1 columns, expected 2"),
    (SCORES + "e\t1\t2\nf\n", KEYS, r"s.tsv:6: 3 columns, expected 2: filename cm-score"),
    (SCORES, KEYS.replace("spoof", "bonafide"), r"k.tsv: no spoof among 4 trials; every class"),
    (SCORES, "filename\tcm-label\n", r"s.tsv:2: 'a' has no key in .*and 3 more"),
    ("filename\tcm-score\n", KEYS, r"k.tsv: 'a' has no score in \S+ \(and 3 more\)"),
    ("filename\tcm-score\n", "filename\tcm-label\n", "k.tsv: no trials"),
    (SCORES, "file,speaker,label\na.wav,p,bonafide\n", "k.tsv:2: label 'bonafide', expected bona-fide or spoof"),
    (SCORES, "", r"k.tsv:1: 0 columns, expected a header with filename, cm-label or utt_id, label"),
    (SCORES, "a b c\n", r"k.tsv:1: 3 columns, expected a header with .* 6 \(speaker filename"),
    (SCORES, "E_1 a F - - - - - bonafide -\nE_1 a F - - spoof\n", r"k.tsv:2: 6 columns, expected 10: speaker filename"),
    (SCORES, "s a F - target\n", r"k.tsv:1: label 'target', expected bonafide or spoof"),
]

FAULTS["track2"] = [
    (SASV_SCORES.replace("asv-score\tsasv", "x\tsasv"), SASV_KEYS, "'asv-score' is missing"),
    (SASV_SCORES.replace("sasv-score", "x"), SASV_KEYS, "column 'sasv-score' is missing"),
    (SASV_SCORES.replace("t\ta\t1", "t\ta\t-"), SASV_KEYS, "s.tsv:5: cm-score of 't a' is '-'"),
    (
        SASV_SCORES,
        SASV_KEYS.replace("spoof\tspoof", "bonafide\tspoof"),
        "k.tsv:4: cm-label 'bonafide' beside 'spoof', expected 'spoof'",
    ),
    (SASV_SCORES, SASV_KEYS.replace("\ttarget", "\tgenuine"), r"k.tsv:2: label 'genuine', .*and 1 more"),
    (SASV_SCORES, SASV_KEYS.replace("spk", "speaker"), "k.tsv:1: column 'spk' is missing"),
    (SASV_SCORES + "s\ta\t1\t1\t1\n", SASV_KEYS, "s.tsv:6: 's a' is scored twice"),
    (SASV_SCORES, SASV_KEYS.replace("nontarget", "target"), "no nontarget among 4 trials"),
    (SASV_SCORES, KEYS, "column 'spk' is missing"),
]

FAULTS["sv"] = [
    (SV_SCORES, SV_TRIALS.replace("1 p/1 p/2", "1 p/2 p/1"), "s.tsv:2: 'p/1 p/2' has no key"),
    (SV_SCORES, SV_TRIALS.replace("0 p/1", "2 p/1"), "k.tsv:2: label '2', expected 1 or target or 0"),
    (SV_SCORES, "p/1 p/2 F A01 spoof\n", "k.tsv:1: label 'spoof', expected 1 or target or 0 or nontarget"),
    (SV_SCORES, "p/1 p/2\n", "k.tsv:1: 2 columns"),
]
FAULTS["track3"] = [(SCORES, KEYS, "track 'track3', expected track1 or track2 or sv")]


@pytest.mark.parametrize(("track", "scores", "keys", "message"), [(t, *one) for t in FAULTS for one in FAULTS[t]])
def test_a_faulty_file_is_one_clear_line(put, track, scores, keys, message):
    refused(message, track, put("s.tsv", scores), put("k.tsv", keys))


def test_warnings_name_implausible_results():
    assert find_warnings({"eer": 0.5, "min_dcf": 0.3, "act_dcf": 0.4}) == []
    assert find_warnings({"a_dcf": 0.1, "t_eer": 0.02}) == []
    for found, expected in (
        ({"eer": 0.684, "min_dcf": 0.99, "act_dcf": 1.6}, "68.4% is worse than chance: are the scores inverted?"),
        ({"eer": 0.11, "min_dcf": 0.249, "act_dcf": 1.0}, "actDCF is 1.000 where minDCF is 0.249: the scores are not"),
        ({"a_dcf": 1.0}, "a-DCF is 1"),
        ({"a_dcf": 0.2, "t_eer": 0.6}, "60.0%"),
    ):
        (warning,) = find_warnings(found)
        assert expected in warning


def test_a_table_shows_error_rates_in_percent():
    shown = {"eer": "3.758", "min_dcf": "0.1028", "n_spoof": "542,086", "mystery": "0.2500"}
    found = {"eer": 0.03758, "min_dcf": 0.1028, "n_spoof": 542086, "mystery": 0.25}
    assert {name: show_value(name, value) for name, value in found.items()} == shown
    assert (show_value("t_eer", 0.01, "+"), show_value("a_dcf", -0.5, "+")) == ("+1.000", "-0.5000")


def test_a_large_evaluation_set_is_read_in_seconds(tmp_path):
    count = 80_000
    rng = np.random.default_rng(0)
    bonafide = rng.random(count) < 0.2037
    values = rng.normal(0, 1, count) + np.where(bonafide, 2, -2)
    labels = np.where(bonafide, "bonafide", "spoof")
    scores = (f"E_{i:010d}\t{value:.6f}\n" for i, value in enumerate(values))
    (tmp_path / "s").write_text("filename\tcm-score\n" + "".join(scores))
    (tmp_path / "k").write_text(
        "".join(f"E_{i % 737:04d} E_{i:010d} F - - - - A17 {k} -\n" for i, k in enumerate(labels))
    )
    start = time.process_time()
    found = evaluate(tmp_path / "s", tmp_path / "k", "track1").metrics
    assert time.process_time() - start < 4
    assert found["n_bonafide"] + found["n_spoof"] == count
    assert found["eer"] == pytest.approx(0.0228, abs=0.002)
