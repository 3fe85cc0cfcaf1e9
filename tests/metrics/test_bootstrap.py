"""Resampling: every round is the metric of trials repeated as drawn; what is drawn, intervals, differences, speed."""

import threading
import time

import numpy as np
import pytest
from rich.progress import Progress

from hybrid_pruning import metrics
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import bootstrap
from hybrid_pruning.metrics.measures import TRACK1, TRACK2_SINGLE, TRACK2_TANDEM, Sample

TRACK2_MEANS = {"target": (2, 2, 2), "nontarget": (2, -1, -1), "spoof": (-1, 1, -0.5)}


def make_track1(trials, speakers, digits, seed=0):
    """Return classes, scores and speakers; few digits make many ties."""
    rng = np.random.default_rng(seed)
    classes = np.array(["bonafide", "spoof"])[(rng.random(trials) < 0.7).astype(int)]
    scores = np.where(classes == "bonafide", 1.0, -1.0) + rng.normal(0, 1.3, trials)
    return classes, np.round(scores, digits), np.array([f"S{i}" for i in rng.integers(speakers, size=trials)])


def make_track2(trials, digits, seed=0):
    rng = np.random.default_rng(seed)
    classes = np.array(list(TRACK2_MEANS))[rng.integers(3, size=trials)]
    columns = np.array([TRACK2_MEANS[name] for name in classes]) + rng.normal(0, 1.2, (trials, 3))
    return classes, dict(zip(("cm-score", "asv-score", "sasv-score"), columns.T.round(digits), strict=True))


def repeated(classes, column, times, *names):
    return np.repeat(column, times)[np.isin(np.repeat(classes, times), names)]


DRAWS = pytest.mark.parametrize(("digits", "seed"), [(0, 0), (0, 1), (1, 2), (1, 3), (9, 4), (9, 5)])


@DRAWS
def test_a_track1_round_is_the_metric_of_the_trials_repeated(digits, seed):
    classes, scores, speakers = make_track1(300, 20, digits, seed)
    resampling = bootstrap.resample_speakers(classes, speakers)
    weights = resampling.weights(seed, 3)
    times = weights[resampling.unit]
    positive, negative = (repeated(classes, scores, times, name) for name in ("bonafide", "spoof"))
    found = Sample({"cm-score": scores}, classes, resampling.unit).measure(TRACK1, weights)
    assert list(found) == ["eer", "min_dcf", "act_dcf", "cllr", "min_cllr"]
    for name, value in found.items():
        assert value == pytest.approx(getattr(metrics, name)(positive, negative), rel=1e-12, abs=1e-12), name


@DRAWS
def test_a_track2_round_is_the_metric_of_the_trials_repeated(digits, seed, monkeypatch):
    monkeypatch.setattr("hybrid_pruning.metrics.tandem.COARSE_POINTS", 20)
    classes, scores = make_track2(400, digits, seed)
    resampling = bootstrap.resample_trials(classes)
    weights = resampling.weights(seed, 0)
    times = weights[resampling.unit]
    sasv, asv = (
        [repeated(classes, scores[column], times, name) for name in TRACK2_MEANS]
        for column in ("sasv-score", "asv-score")
    )
    human = repeated(classes, scores["cm-score"], times, "target", "nontarget")
    spoof = repeated(classes, scores["cm-score"], times, "spoof")
    found = Sample(scores, classes, resampling.unit).measure(TRACK2_TANDEM, weights)
    assert found["a_dcf"] == metrics.a_dcf(*sasv)
    assert found["min_t_dcf"] == metrics.t_dcf(human, spoof)
    assert found["t_eer"] == metrics.t_eer(human, spoof, *asv)


def test_speakers_are_drawn_whole_and_as_many_as_there_are():
    classes, _, speakers = make_track1(200, 12, 1)
    resampling = bootstrap.resample_speakers(classes, speakers)
    assert (resampling.drawn, resampling.count) == ("speakers", 12)
    draws = np.array([resampling.weights(0, index) for index in range(300)])
    assert (draws.sum(axis=1) == 12).all()
    assert draws.mean(axis=0) == pytest.approx(1, abs=0.2)
    for speaker in np.unique(speakers):
        assert np.unique(resampling.unit[speakers == speaker]).size == 1


def test_trials_are_drawn_class_by_class():
    classes, _, _ = make_track1(200, 12, 1)
    resampling = bootstrap.resample_trials(classes)
    for index in range(20):
        times = resampling.weights(0, index)[resampling.unit]
        assert times[classes == "spoof"].sum() == (classes == "spoof").sum()
        assert times.sum() == classes.size


def test_pairs_count_as_often_as_both_speakers_were_drawn():
    enrol = np.array(["a", "a", "b", "c", "b", "a"])
    test = np.array(["a", "b", "a", "c", "c", "b"])
    classes = np.where(enrol == test, "target", "nontarget")
    resampling = bootstrap.resample_speakers(classes, enrol, test)
    assert (resampling.drawn, resampling.count) == ("speakers", 3)
    seen = set()
    for index in range(50):
        times = resampling.weights(0, index)[resampling.unit]
        one, other = times[0], times[3]  # a's and c's own trials count as often as they were drawn
        seen.add((one, other))
        drawn = {"a": one, "c": other, "b": 3 - one - other}
        expected = [drawn[x] if x == y else drawn[x] * drawn[y] for x, y in zip(enrol, test, strict=True)]
        assert times.tolist() == expected
        assert times[classes == "target"].any()
        assert times[classes == "nontarget"].any()
    assert len(seen) > 3


def test_a_draw_without_a_class_is_drawn_again():
    speakers, classes = np.array(["a", "b", "c"]), np.array(["bonafide", "spoof", "spoof"])
    resampling = bootstrap.resample_speakers(classes, speakers)
    drawn = [resampling.weights(1, index)[resampling.unit] for index in range(50)]
    assert all(times[0] and times[1:].any() for times in drawn)


def test_a_score_at_the_bayes_threshold_is_accepted():
    bayes = metrics.ASVSPOOF5.threshold
    sample = Sample({"cm-score": np.array([bayes, bayes, -9.0])}, np.array(["bonafide", "spoof", "spoof"]))
    assert sample.measure(TRACK1)["act_dcf"] == metrics.act_dcf([bayes], [bayes, -9.0]) == pytest.approx(0.5)


def test_intervals_hold_the_metric_and_shrink_with_more_speakers():
    (classes, scores, _), _ = sets = make_track1(600, 30, 9), make_track1(9600, 480, 9)
    wide, narrow = (
        bootstrap.intervals(TRACK1, kinds, {"cm-score": column}, bootstrap.resample_speakers(kinds, speakers), 200)[0]
        for kinds, column, speakers in sets
    )
    point = Sample({"cm-score": scores}, classes).measure(TRACK1)
    for name, interval in wide.items():
        assert interval.low < point[name] < interval.high, name
        assert narrow[name].high - narrow[name].low < 0.5 * (interval.high - interval.low), name


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """The true EER of two unit normals 2 apart is 15.87%; sixty samples' 95% intervals miss it a few times."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        classes = np.repeat(["bonafide", "spoof"], 200)
        scores = rng.normal(0, 1, 400) + np.repeat([2.0, 0.0], 200)
        drawn = bootstrap.resample_trials(classes)
        found = bootstrap.intervals({"eer": TRACK1["eer"]}, classes, {"cm-score": scores}, drawn, 100, seed)[0]["eer"]
        covered += found.low <= 0.158655 <= found.high
    assert 52 <= covered <= 60


def test_speakers_that_differ_widen_the_interval():
    """Trials drawn as if independent hide that each speaker has an offset."""
    classes, scores, speakers = make_track1(4000, 40, 9)
    offset = np.random.default_rng(1).normal(0, 1.5, 40)
    scores = {"cm-score": scores + offset[np.char.lstrip(speakers, "S").astype(int)]}
    by_speaker, by_trial = (
        bootstrap.intervals(TRACK1, classes, scores, resampling, 200)[0]["eer"]
        for resampling in (bootstrap.resample_speakers(classes, speakers), bootstrap.resample_trials(classes))
    )
    assert by_speaker.high - by_speaker.low > 1.5 * (by_trial.high - by_trial.low)


def test_the_seed_alone_decides(monkeypatch):
    classes, scores, speakers = make_track1(300, 15, 9)
    resampling = bootstrap.resample_speakers(classes, speakers)

    def draw(seed):
        return bootstrap.intervals(TRACK1, classes, {"cm-score": scores}, resampling, 60, seed)[0]

    first = draw(0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert draw(0) == first
    assert draw(1) != first


def test_differences_use_the_same_draws():
    classes, scores, speakers = make_track1(900, 30, 9)
    ours, theirs = {"cm-score": scores}, {"cm-score": scores + np.where(classes == "spoof", 0.3, 0.0)}
    resampling = bootstrap.resample_speakers(classes, speakers)
    found = bootstrap.intervals(TRACK1, classes, ours, resampling, 200, against=theirs)[1]
    alone = bootstrap.intervals(TRACK1, classes, ours, resampling, 200)[0]["eer"]
    gain = Sample(ours, classes).measure(TRACK1)["eer"] - Sample(theirs, classes).measure(TRACK1)["eer"]
    assert found["eer"].low < gain < found["eer"].high < 0
    assert found["eer"].better == 1
    assert found["eer"].high - found["eer"].low < alone.high - alone.low  # the draws' own luck cancels
    same = bootstrap.intervals(TRACK1, classes, ours, resampling, 50, against=ours)[1]["eer"]
    assert same == bootstrap.Difference(low=0.0, high=0.0, better=0.0)


def test_replicas_whose_difference_is_constant_have_it_without_an_interval():
    drawn = np.random.default_rng(0).normal(0.1, 0.02, (2, 200))
    found = bootstrap.over_replicas((drawn + 0.03) - drawn)
    assert (found.low, found.high) == pytest.approx((0.03, 0.03))
    assert bootstrap.over_replicas(drawn - drawn) == bootstrap.Interval(0.0, 0.0)


def test_a_single_replica_has_the_interval_over_speakers():
    classes, scores, speakers = make_track1(300, 15, 9)
    resampling = bootstrap.resample_speakers(classes, speakers)
    spans, _, drawn = bootstrap.intervals(TRACK1, classes, {"cm-score": scores}, resampling, 60)
    assert {name: bootstrap.over_replicas(values[None]) for name, values in drawn.items()} == spans
    assert drawn["eer"].shape == (60,)


def test_the_interval_over_replicas_has_the_variance_of_their_mean():
    """Of R values with sample variance s2, that of their mean is s2 / R; two values are themselves the ends."""
    two = bootstrap.over_replicas(np.array([[0.1], [0.3]]).repeat(400, axis=1))
    assert (two.low, two.high) == pytest.approx((0.1, 0.3))
    values = np.random.default_rng(3).normal(0, 1, 5)
    found = bootstrap.over_replicas(values[:, None].repeat(20_000, axis=1))
    expected = 2 * 1.96 * np.std(values, ddof=1) / np.sqrt(5)
    assert found.high - found.low == pytest.approx(expected, rel=0.06)


def test_replicas_share_the_speakers_of_a_round():
    """As all are measured on the same speakers, more replicas do not make their luck smaller."""
    luck = np.random.default_rng(4).normal(0, 1, 20_000)
    alone, four = bootstrap.over_replicas(luck[None]), bootstrap.over_replicas(luck[None].repeat(4, axis=0))
    assert (four.low, four.high) == pytest.approx((alone.low, alone.high))


def test_unusable_numbers_of_rounds_and_scores_are_refused():
    for rounds in (0, -1, 39, 100_001):
        with pytest.raises(InputError, match=f"bootstrap: {rounds} rounds, expected at least 40, .* at most 100,000"):
            bootstrap.check_rounds(rounds)
    bootstrap.check_rounds(40)
    bootstrap.check_rounds(100_000)
    classes, scores, _ = make_track1(30, 3, 9)
    resampling = bootstrap.resample_trials(classes)
    with pytest.raises(ValueError, match="scores: 1 of"):
        bootstrap.intervals(TRACK1, classes, {"cm-score": np.append(scores[:-1], np.nan)}, resampling, 40)
    with pytest.raises(ValueError, match="none given"):
        bootstrap.intervals(TRACK2_SINGLE, classes, {"sasv-score": scores}, resampling, 40)


def test_rounds_take_less_than_a_sort_of_the_trials():
    """50 rounds in the time of 20 sorts of the same scores; whatever the machine does beside slows both."""
    rng = np.random.default_rng(0)
    classes = np.repeat(["bonafide", "spoof"], [34_672, 135_521])
    scores = rng.normal(0, 1.2, classes.size) + np.repeat([2.0, -2.0], [34_672, 135_521])
    speakers = rng.integers(737, size=classes.size).astype(str)
    resampling = bootstrap.resample_speakers(classes, speakers)
    threads, start = threading.active_count(), time.process_time()
    np.argsort(scores, kind="stable")
    sort = time.process_time() - start
    start = time.process_time()
    found = bootstrap.intervals(TRACK1, classes, {"cm-score": scores}, resampling, 50)[0]
    assert time.process_time() - start < 40 * sort
    assert threading.active_count() == threads
    assert found["eer"].low < 0.052 < found["eer"].high + 0.01


def test_ctrl_c_ends_the_rounds(monkeypatch):
    class Interrupted(Progress):
        def track(self, *_, **__):
            raise KeyboardInterrupt

    drawn = []
    monkeypatch.setattr(bootstrap, "progress_bar", lambda: Interrupted(disable=True))
    classes, scores, _ = make_track1(300, 20, 3)
    resampling = bootstrap.resample_trials(classes)
    weights = bootstrap.Resampling.weights
    monkeypatch.setattr(
        bootstrap.Resampling, "weights", lambda self, *place: drawn.append(place) or weights(self, *place)
    )
    with pytest.raises(KeyboardInterrupt):
        bootstrap.intervals(TRACK1, classes, {"cm-score": scores}, resampling, 4_000)
    assert len(drawn) < 3_000
