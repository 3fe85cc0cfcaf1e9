"""Thresholds from one's own recordings: bounds that hold as often as they say, and the command line's way to them."""

import json

import numpy as np
import pytest
import soundfile

import hybrid_pruning as hp
from corpus import SAMPLE_RATE_HZ, noise, tiny_detector
from damage import refused
from hybrid_pruning.jobs.own_files import bound_above, bound_below
from speakers import tiny_verifier, write_speakers


@pytest.mark.parametrize(("count", "rate"), [(59, 0.05), (500, 0.02)])
def test_the_false_alarm_rate_is_bounded_as_often_as_said(count, rate):
    rng = np.random.default_rng(0)
    alarms = np.array([bound_below(rng.random(count), rate, 0.95, "x").threshold for _ in range(2000)])
    assert 0.94 < np.mean(alarms <= rate) < 0.985, "of uniform scores the threshold is the rate of alarms"


def test_too_few_recordings_for_a_bound_are_refused_with_the_number_needed():
    scores = np.arange(298.0)
    with refused("298 recordings; a false-alarm rate of at most 1.00% at a confidence of 95% takes 299"):
        bound_below(scores, 0.01, 0.95, "genuine")
    bound = bound_below(np.append(scores, -7.0), 0.01, 0.95, "genuine")
    assert (bound.threshold, bound.found, bound.scores) == (-7.0, 0.0, 299)


def test_the_false_accept_rate_is_bounded_over_people():
    """Scores with an effect of each person: as if independent, the threshold would hold half as often as said."""
    rng, held, threshold = np.random.default_rng(1), 0, 3.09 * np.sqrt(1 + 2 * 0.5)  # that 0.1% exceed
    one, other = np.triu_indices(40, 1)
    people = np.array([f"p{index}" for index in range(40)])
    for _ in range(40):
        effect = rng.normal(size=40) * np.sqrt(0.5)
        scores = rng.normal(size=one.size) + effect[one] + effect[other]
        bound = bound_above(scores, (people[one], people[other]), 0.01, 0.95, rounds=200)
        assert bound.found <= 0.011
        assert bound.threshold < threshold * 1.5
        held += bound.threshold >= 2.326 * np.sqrt(2)
    assert held >= 34


def test_a_detector_with_genuine_recordings_alone(cli, tmp_path):
    tiny_detector(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    for index in range(24):
        soundfile.write(tmp_path / f"{index:02d}.wav", noise(1600, index), SAMPLE_RATE_HZ)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    options = ["--bonafide", ".", "--rate", "0.2", "--json", "t.json"]
    before = (tmp_path / "model/config.json").read_bytes()
    found = cli("calibrate", "model", *options)
    assert found.code == 0
    assert "broken.wav" in found.err
    bound = json.loads((tmp_path / "t.json").read_text())
    assert "at most 20.00% false alarms at a confidence of 95%" in found.out
    assert f"hybrid-pruning detect FILE --model model --threshold {bound['threshold']:.4f}" in found.out
    assert (tmp_path / "model/config.json").read_bytes() == before
    scores = sorted(one.llr for one in hp.detect(tmp_path / "model", sorted(tmp_path.glob("??.wav"))))
    assert bound["threshold"] == scores[1], "Beta(2, 23) has 0.952 below 0.2, Beta(3, 22) 0.885"
    assert "takes 299" in cli("calibrate", "model", "--bonafide", ".").err


def test_a_verifier_with_people_in_folders(cli, tmp_path):
    tiny_verifier(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    write_speakers(tmp_path / "people", 6, 3)
    (tmp_path / "people/id00000/02.wav").write_bytes(b"RIFF")
    found = cli("calibrate", "model", "--enrol", "people", "--out", "calibrated", "--json", "t.json", "--rate", "0.1")
    assert found.code == 0, found.err
    fit = hp.SpeechModel.from_pretrained(tmp_path / "calibrated").calibration.fits[-1]
    assert (fit.positives, fit.negatives) == (1 + 5 * 3, 15 * 9 - 5 * 3), "of every pair, the broken recording left out"
    bound = json.loads((tmp_path / "t.json").read_text())
    assert bound["people"] == 6
    assert bound["found"] <= 0.1
    assert "6 people are few" in " ".join(found.err.split())
    assert f"verify TEST ENROL --model calibrated --threshold {bound['threshold']:.4f}" in found.out
    one, other = (tmp_path / f"people/id0000{name}.wav" for name in ("1/00", "2/00"))
    assert hp.verify(tmp_path / "calibrated", one, [other]).kind == "LLR"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "give SCORES and KEYS, or --enrol DIR, or --bonafide DIR"),
        (["--enrol", "a", "--bonafide", "b"], "give SCORES and KEYS, or --enrol DIR, or --bonafide DIR"),
        (["--bonafide", "nowhere"], "nowhere: is no folder here"),
        (["--bonafide", ".", "--out", "x"], "--bonafide changes no model"),
        (["--bonafide", ".", "--rate", "1.5"], "--rate 1.5, expected a share between 0 and 1"),
        (["--enrol", "."], "holds 0 recordings in folders of 0 people; 5 people are needed"),
        (["--enrol", ".", "--replace"], "--check and --replace go with SCORES and KEYS"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(cli, options, expected):
    found = cli("calibrate", "model", *options)
    assert (found.code, found.out) == (2, "")
    assert expected in " ".join(found.err.split())
