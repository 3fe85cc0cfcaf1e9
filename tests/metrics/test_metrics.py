"""Metrics against their definitions, by brute force on random scores with ties; limits, errors, speed.

The official package's numbers are checked in test_evaluation.py, through the files they come in.
"""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_pruning import metrics

TIED = st.lists(st.integers(-4, 4).map(lambda value: value / 2), min_size=1, max_size=12).map(np.array)
EXACT = {"rel": 1e-12, "abs": 1e-12}
TWO_CLASS = (metrics.eer, metrics.min_dcf, metrics.act_dcf, metrics.cllr, metrics.min_cllr, metrics.det_curve)


def thresholds(*classes):
    return [*np.unique(np.concatenate(classes)), math.inf]


def rates(positive, negative, threshold):
    return sum(positive < threshold) / len(positive), sum(negative >= threshold) / len(negative)


@settings(max_examples=60, deadline=None)
@given(TIED, TIED)
def test_min_dcf_is_the_smallest_cost_over_all_thresholds(positive, negative):
    for p_target, cost_miss, cost_false_alarm in ((0.95, 1, 10), (0.01, 1, 1), (0.05, 1, 1), (0.5, 3, 2)):
        weights = p_target * cost_miss, (1 - p_target) * cost_false_alarm
        costs = [np.dot(weights, rates(positive, negative, cut)) for cut in thresholds(positive, negative)]
        found = metrics.min_dcf(positive, negative, p_target, cost_miss, cost_false_alarm)
        assert found == pytest.approx(min(costs) / min(weights), **EXACT)


def steps(positive, negative):
    """Return miss rate, false alarm rate and last score rejected, trial by trial, positives first in ties."""
    ranked = sorted([(score, 0) for score in positive] + [(score, 1) for score in negative])
    found = [(0.0, 1.0, -math.inf)]
    for rejected in range(1, len(ranked) + 1):
        misses = sum(label == 0 for _, label in ranked[:rejected])
        alarms = sum(label == 1 for _, label in ranked[rejected:])
        found.append((misses / len(positive), alarms / len(negative), ranked[rejected - 1][0]))
    return found


@settings(max_examples=60, deadline=None)
@given(TIED, TIED)
def test_eer_is_at_the_closest_rates_with_positives_first_in_ties(positive, negative):
    miss, alarm, _ = min(steps(positive, negative), key=lambda point: abs(point[0] - point[1]))
    assert metrics.eer(positive, negative) == pytest.approx((miss + alarm) / 2, **EXACT)


@settings(max_examples=60, deadline=None)
@given(TIED, TIED)
def test_det_curve_holds_the_rates_of_each_threshold(positive, negative):
    curve = metrics.det_curve(positive, negative)
    assert curve.threshold.size == curve.miss.size == curve.false_alarm.size == positive.size + negative.size + 1
    assert (np.diff(curve.miss) >= 0).all()
    assert (np.diff(curve.false_alarm) <= 0).all()
    for cut in thresholds(positive, negative):
        first = np.searchsorted(curve.threshold, cut)
        assert (curve.miss[first], curve.false_alarm[first]) == pytest.approx(rates(positive, negative, cut), **EXACT)


def test_act_dcf_misses_below_the_bayes_threshold_and_accepts_at_it():
    bayes = metrics.ASVSPOOF5.threshold
    assert bayes == pytest.approx(-math.log(1.9), rel=1e-12)
    assert metrics.act_dcf([1.0, -1.0], [2.0, -2.0, -3.0]) == pytest.approx((0.95 / 2 + 0.05 * 10 / 3) / 0.5)
    assert metrics.act_dcf([bayes], [np.nextafter(bayes, -9)]) == 0
    assert metrics.act_dcf([np.nextafter(bayes, -9)], [-9.0]) == pytest.approx(1.9)
    assert metrics.act_dcf([0.0], [bayes]) == pytest.approx(1)
    assert metrics.eer([1e30], [-1e30]) == 0, "the largest scores"


def test_cllr_is_one_bit_for_scores_that_say_nothing_and_stays_finite():
    assert metrics.cllr(np.zeros(3), np.zeros(5)) == pytest.approx(1)
    bits = math.log2(1 + math.exp(-2)), math.log2(1 + math.exp(1)), math.log2(1 + math.exp(-3))
    assert metrics.cllr([2.0, -1.0], [-3.0]) == pytest.approx(((bits[0] + bits[1]) / 2 + bits[2]) / 2, rel=1e-12)
    assert metrics.cllr([1e4], [-1e4]) == 0
    assert metrics.cllr([-1e4], [1e4]) == pytest.approx(1e4 / math.log(2))


@settings(max_examples=60, deadline=None)
@given(TIED, TIED)
def test_min_cllr_is_the_best_monotone_relabelling(positive, negative):
    """The minimum over all ways to cut the sorted score levels into blocks, each with its own best constant."""
    levels = np.unique(np.concatenate((positive, negative)))
    shares = [(np.mean(positive == level), np.mean(negative == level)) for level in levels]

    def block_cost(start, stop):
        pos, neg = np.sum(shares[start:stop], axis=0)
        return sum(share * math.log2((pos + neg) / share) for share in (pos, neg) if share > 0) / 2

    def odds(start, stop):
        pos, neg = np.sum(shares[start:stop], axis=0)
        return math.atan2(pos, neg)

    best = math.inf
    for mask in range(2 ** (len(levels) - 1)):
        cuts = [0, *(place + 1 for place in range(len(levels) - 1) if mask >> place & 1), len(levels)]
        blocks = list(pairwise(cuts))
        if all(odds(*low) <= odds(*high) + 1e-12 for low, high in pairwise(blocks)):
            best = min(best, sum(block_cost(*block) for block in blocks))
    found = metrics.min_cllr(positive, negative)
    assert found == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert found <= metrics.cllr(positive, negative) + 1e-12


@settings(max_examples=60, deadline=None)
@given(TIED, TIED, TIED)
def test_a_dcf_is_the_smallest_cost_over_all_thresholds(target, nontarget, spoof):
    costs = []
    for cut in thresholds(target, nontarget, spoof):
        miss, alarm = rates(target, nontarget, cut)
        costs.append(0.9405 * miss + 0.0095 * 10 * alarm + 0.05 * 10 * rates(target, spoof, cut)[1])
    assert metrics.a_dcf(target, nontarget, spoof) == pytest.approx(min(costs) / 0.595, **EXACT)


@settings(max_examples=60, deadline=None)
@given(TIED, TIED)
def test_t_dcf_is_the_smallest_cost_over_all_thresholds(bonafide, spoof):
    organisers = metrics.AsvRates(0.01880141010575793, 0.01881016557566423, 0.4607082907604729)
    assert organisers == metrics.ASVSPOOF5_ASV
    asv = metrics.AsvRates(miss=0.02, nontarget_false_alarm=0.03, spoof_false_alarm=0.5)
    own = 0.9405 * 0.02 + 0.0095 * 10 * 0.03
    weights = 0.9405 - own, 0.05 * 10 * 0.5
    costs = [np.dot(weights, rates(bonafide, spoof, cut)) for cut in thresholds(bonafide, spoof)]
    expected = (own + min(costs)) / (own + min(weights))
    assert metrics.t_dcf(bonafide, spoof, asv=asv) == pytest.approx(expected, **EXACT)
    assert metrics.t_dcf(bonafide, spoof, asv=asv, legacy=True) == pytest.approx(min(costs) / min(weights), **EXACT)


@settings(max_examples=60, deadline=None)
@given(TIED, TIED, TIED)
def test_the_verifiers_rates_are_those_at_the_threshold_of_its_eer(target, nontarget, spoof):
    """The threshold is the score of the trial rejected last where the rates are closest, targets first in ties."""
    *_, threshold = min(steps(target, nontarget), key=lambda point: abs(point[0] - point[1]))
    found = metrics.asv_rates(target, nontarget, spoof)
    assert (found.miss, found.nontarget_false_alarm) == rates(target, nontarget, threshold)
    assert found.spoof_false_alarm == rates(target, spoof, threshold)[1]


def slow_t_eer(bonafide, spoof, *asv):
    """Every pair of thresholds at rho = 0.5, ties stepped through class by class; nan where no distance is defined.

    Pairs are often equally close, so the first has to win among equal floating-point numbers: acceptance by the
    countermeasure is a quotient, acceptance by the verifier 1 less one, as in ASVspoof 5's package.
    """

    def rejections(*classes):
        pooled, kinds = np.concatenate(classes), np.repeat(np.arange(len(classes)), [len(one) for one in classes])
        sorted_kinds = kinds[np.argsort(pooled, kind="stable")]
        return np.array([[0, *np.cumsum(sorted_kinds == kind)] for kind in range(len(classes))])

    rejected, passed = rejections(bonafide, spoof)
    cm_miss, cm_passed = rejected / len(bonafide), (len(spoof) - passed) / len(spoof)
    best, value = math.inf, math.nan
    for target, nontarget, attack in rejections(*asv).T:
        miss, alarm, attacked = target / len(asv[0]), 1 - nontarget / len(asv[1]), 1 - attack / len(asv[2])
        if miss >= 0.5 * alarm + 0.5 * attacked:
            continue
        tandem_miss = cm_miss + (1 - cm_miss) * miss
        tandem_alarm = 0.5 * (1 - cm_miss) * alarm + 0.5 * cm_passed * attacked
        pair = np.argmin(np.abs(tandem_miss - tandem_alarm))
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(np.divide(alarm, attacked) - cm_passed[pair] / (1 - cm_miss[pair]))
        if distance < best:
            best, value = distance, attacked * cm_passed[pair]
    return value


@pytest.mark.parametrize("seed", range(40))
def test_t_eer_equals_the_search_over_every_pair_of_thresholds(seed, monkeypatch):
    monkeypatch.setattr("hybrid_pruning.metrics.tandem.COARSE_POINTS", (2, 3, 17, 512)[seed // 10])
    rng = np.random.default_rng(seed)
    digits = (0, 1, 6, 6)[seed % 4]
    quality, most = rng.uniform(0, 3), 300 if seed % 2 else 12
    sizes = rng.integers(50 if seed % 2 else 1, most + 1, 5)
    means = (quality, 0, rng.uniform(0, 4), 0, rng.uniform(0, 3))
    classes = [np.round(rng.normal(mean, 1.2, size), digits) for mean, size in zip(means, sizes, strict=True)]
    assert metrics.t_eer(*classes) == pytest.approx(slow_t_eer(*classes), abs=1e-9)


def test_t_eer_pairs_thresholds_at_equal_numbers_of_nontargets_and_spoofs():
    """Worked by hand: 1/3, where rho = 0 gives 2/3 and rho = 1 a half; then no pair with a defined distance."""
    assert metrics.t_eer([1, 1, 3], [1, 1], [0, 2, 3], [1, -1], [3, 0, 0]) == pytest.approx(1 / 3)
    assert metrics.t_eer([0], [1], [-1], [1], [1]) == 1
    assert metrics.t_eer([0], [3], [2], [0], [3, 0]) == 1, "of two equally close pairs the first"
    assert metrics.t_eer([-1], [-2], [0], [1], [0]) == 0, "a threshold that misses as much as it accepts is out"
    high, low = [2.0, 3.0, 4.0], [-2.0, -3.0, -4.0]
    assert metrics.t_eer(high, low, high, low, high) == 0
    assert metrics.t_eer(low, high, high, low, high) > 0.5, "an inverted countermeasure"


@pytest.mark.parametrize("metric", [metrics.eer, metrics.min_dcf, metrics.min_cllr])
def test_only_the_order_of_scores_matters(metric):
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 200), rng.normal(0, 1, 300)
    assert metric(positive, negative) == metric(np.exp(positive) * 5, np.exp(negative) * 5)


@pytest.mark.parametrize("metric", TWO_CLASS)
def test_unusable_scores_are_refused(metric):
    good = np.arange(3.0)
    for positive, negative, message in (
        (good, [], "negative scores: none given, expected at least one of every class"),
        ([0.0, math.nan, 1.0], good, "positive scores: 1 of 3 are NaN or infinite.*, the first at index 1"),
        (good, [math.inf, -math.inf], "negative scores: 2 of 2 are NaN or infinite.*, the first at index 0"),
        (good, [1.01e30], r"or beyond \+-1e\+30"),
        (good[:, None], good, r"positive scores: shape \(3, 1\), expected one dimension"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(positive, negative)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.a_dcf([0, 1], [], [0, 1]), "nontarget scores: none given"),
        (lambda: metrics.t_eer([0], [1], [0], [1], [math.nan]), "spoof scores: 1 of 1 are NaN"),
        *(
            (lambda prior=prior: metrics.min_dcf([1.0], [0.0], prior), "p_target .* expected a prior between 0 and 1")
            for prior in (0.0, 1.0, -1.0, math.nan)
        ),
        (lambda: metrics.DetectionCost(0.5, cost_miss=0), "costs 0 and 1.0, expected both above 0"),
        (
            lambda: metrics.t_dcf([1.0], [0.0], asv=metrics.AsvRates(miss=1.0)),
            "expected both above 0; check the verifier's rates",
        ),
    ],
)
def test_impossible_scores_priors_costs_and_verifiers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_large_evaluation_set_takes_as_long_as_some_sorts():
    """Measured: 5 and 6 times a sort of as many scores; whatever else the machine does slows both."""
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 1, 34_672), rng.normal(-2, 1.3, 135_521)
    asv = rng.normal(2, 1, 25_000), rng.normal(-2, 1, 50_000), rng.normal(1, 1, 125_000)
    cm = rng.normal(2, 1, 75_000), rng.normal(-1, 1, 125_000)

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    sort = min(seconds(lambda: np.argsort(np.concatenate(cm), kind="stable")) for _ in range(3))
    assert seconds(lambda: [metric(bonafide, spoof) for metric in TWO_CLASS]) < 30 * sort
    assert seconds(lambda: metrics.t_eer(*cm, *asv)) < 30 * sort
