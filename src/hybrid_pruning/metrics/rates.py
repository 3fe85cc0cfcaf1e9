"""Error rates of trials ranked by score, and of two classes: EER, minDCF, actDCF, Cllr, its minimum, and the DET curve.

Of two classes, `positive` are the scores [P] of bona fide speech or of same-speaker trials, `negative` [N] those of
spoofs or of different-speaker trials.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LARGEST_SCORE = 1e30
"""Scores lie within +- this: sums and squares of such are numbers still."""


class Ranking:
    """Trials in ascending order of score; among tied scores the classes go in the order given, the positive one first.

    Neighbours of one class form a run: metrics of ranks depend on the number of trials in a run alone. So trials are
    sorted once and counted under any weights, such as the draws of a resample.
    """

    def __init__(self, *classes: FloatArray) -> None:
        pooled = np.concatenate(classes)
        self.order: IntArray = np.argsort(pooled, kind="stable")
        """[N] the place of each trial, lowest first, in the classes put one after another."""
        self.threshold: FloatArray = pooled[self.order]
        self.classes = len(classes)
        ranked = np.repeat(np.arange(len(classes), dtype=np.int8), [scores.size for scores in classes])[self.order]
        starts = np.flatnonzero(np.diff(ranked, prepend=-1))
        self.owner: IntArray = ranked[starts].astype(np.int64)
        self._ends = np.append(starts[1:], self.order.size) - 1
        self._owned = [self.owner == index for index in range(self.classes - 1)]

    def count(self, weights: npt.NDArray[np.integer] | None = None) -> "Steps":
        """Return the number of trials that every threshold rejects, each counting [N] times, lowest score first."""
        below = np.arange(1, self.order.size + 1) if weights is None else np.cumsum(weights, dtype=np.int64)
        points = np.zeros(self._ends.size + 1, dtype=np.int64)
        below.take(self._ends, out=points[1:])
        sizes = np.diff(points)
        rejected = np.zeros((self.classes, points.size), dtype=np.int64)
        rejected[-1] = points
        for index, owned in enumerate(self._owned):
            np.cumsum(sizes * owned, out=rejected[index, 1:])
            rejected[-1] -= rejected[index]
        return Steps(self.owner, rejected, points)


@dataclass(frozen=True, eq=False)
class Steps:
    """Counts while the threshold climbs over runs of trials; within a run every trial is a step of its own.

    Point p, from 0 (accept all) to the number of trials (reject all), rejects the p lowest. `owner` [R] is the class of
    each run, 0 the positive one; `rejected` [classes, R+1] and `points` [R+1] count the trials below each run, and in
    all.
    """

    owner: IntArray
    rejected: IntArray
    points: IntArray

    @cached_property
    def corners(self) -> IntArray:
        """[classes, K] trials below every run of positives, below all and in all: no cost is smallest elsewhere.

        Between two of them stand positives, then others: rejecting the first only costs, the others only pay.
        """
        ends = np.append(self.owner == 0, True)
        ends[0] = True
        return self.rejected[:, ends]

    def rates(self, counts: IntArray) -> FloatArray:
        """Return the fraction of positives rejected and of every other class accepted, [classes, M] like the counts."""
        total = self.rejected[:, -1:]
        accepted = (total - counts) / total
        accepted[0] = counts[0] / total[0]
        return accepted

    def counts_at(self, points: IntArray) -> IntArray:
        """Return the trials [classes, M] rejected at any points [M]."""
        run = np.searchsorted(self.points[:-1], points, side="right") - 1
        return self.counts_within(run, points - self.points[run])

    def counts_within(self, run: IntArray, steps: IntArray) -> IntArray:
        """Return the trials [classes, M] rejected some steps [M] into the runs [M]."""
        counts = self.rejected[:, run]
        counts[self.owner[run], np.arange(run.size)] += steps
        return counts


def rank(**classes: npt.ArrayLike) -> Ranking:
    """Rank the scores of named classes, the positive class first; ValueError where they cannot be measured."""
    return Ranking(*(checked(scores, name) for name, scores in classes.items()))


def checked(scores: npt.ArrayLike, name: str) -> FloatArray:
    """Return the scores of a class as an array; ValueError where they cannot be measured."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} scores: shape {array.shape}, expected one dimension")
    if not array.size:
        raise ValueError(f"{name} scores: none given, expected at least one of every class")
    bad = np.flatnonzero(~(np.abs(array) <= LARGEST_SCORE))
    if bad.size:
        raise ValueError(
            f"{name} scores: {bad.size} of {array.size} are NaN or infinite, or beyond +-{LARGEST_SCORE:g}, "
            f"the first at index {bad[0]}"
        )
    return array


@dataclass(frozen=True, slots=True)
class DetectionCost:
    """An operating point of a two-class detector; ValueError where it is impossible."""

    p_target: float
    cost_miss: float = 1.0
    cost_false_alarm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.p_target < 1:
            raise ValueError(f"p_target {self.p_target}, expected a prior between 0 and 1, both excluded")
        if self.cost_miss <= 0 or self.cost_false_alarm <= 0:
            raise ValueError(f"costs {self.cost_miss} and {self.cost_false_alarm}, expected both above 0")

    @property
    def weights(self) -> tuple[float, float]:
        """Weight of the miss rate and of the false alarm rate in the cost."""
        return self.p_target * self.cost_miss, (1 - self.p_target) * self.cost_false_alarm

    @property
    def threshold(self) -> float:
        """Bayes threshold for scores that are natural log-likelihood ratios."""
        miss, false_alarm = self.weights
        return float(np.log(false_alarm / miss))

    def normalised(self, miss: FloatArray, false_alarm: FloatArray) -> FloatArray:
        """Cost at the given rates, over that of the better of accepting all and rejecting all."""
        weight_miss, weight_false_alarm = self.weights
        return (weight_miss * miss + weight_false_alarm * false_alarm) / min(weight_miss, weight_false_alarm)


ASVSPOOF5 = DetectionCost(p_target=0.95, cost_miss=1.0, cost_false_alarm=10.0)
VERIFICATION = (DetectionCost(p_target=0.01), DetectionCost(p_target=0.05))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Error rates while the threshold climbs over N trials: N + 1 points each, from accept-all to reject-all.

    Point i rejects the i lowest scores; `threshold` is the lowest accepted one, infinity at last. Among tied scores the
    positives go first, one by one, so only the first point of a tie belongs to its threshold.
    """

    threshold: FloatArray
    miss: FloatArray
    false_alarm: FloatArray


def det_curve(positive: npt.ArrayLike, negative: npt.ArrayLike) -> Curve:
    """Return the miss and false alarm rates at every threshold."""
    ranking = rank(positive=positive, negative=negative)
    steps = ranking.count()
    miss, passed = steps.rates(steps.counts_at(np.arange(ranking.order.size + 1)))
    return Curve(np.append(ranking.threshold, np.inf), miss, passed)


def eer(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the equal error rate, a fraction: the mean of both rates at the first point where they are closest.

    Source: ASVspoof 5 evaluation plan, track 1; ties as its package counts them (see `Curve`).
    """
    return eer_of(rank(positive=positive, negative=negative).count())


def eer_threshold(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the lowest score that is accepted where miss and false alarm rate are closest."""
    curve = det_curve(positive, negative)
    return float(curve.threshold[np.abs(curve.miss - curve.false_alarm).argmin()])


def eer_of(steps: Steps) -> float:
    """Return the equal error rate of counted trials."""
    miss, passed = steps.rates(steps.rejected)
    run = int(np.searchsorted(miss - passed, 0.0)) - 1  # the rates cross within this one
    within = np.arange(steps.points[run + 1] - steps.points[run] + 1)
    miss, passed = steps.rates(steps.counts_within(np.full_like(within, run), within))
    closest = np.argmin(np.abs(miss - passed))
    return float((miss[closest] + passed[closest]) / 2)


def min_dcf(
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    p_target: float = ASVSPOOF5.p_target,
    cost_miss: float = ASVSPOOF5.cost_miss,
    cost_false_alarm: float = ASVSPOOF5.cost_false_alarm,
) -> float:
    """Return the smallest normalised detection cost over all thresholds; 1 is the better of accept-all and reject-all.

    Source: ASVspoof 5 evaluation plan, track 1, minDCF; NIST SRE plans for speaker verification.
    """
    cost = DetectionCost(p_target, cost_miss, cost_false_alarm)
    return min_dcf_of(rank(positive=positive, negative=negative).count(), cost)


def min_dcf_of(steps: Steps, cost: DetectionCost = ASVSPOOF5) -> float:
    """Return the smallest normalised detection cost of counted trials."""
    return float(cost.normalised(*steps.rates(steps.corners)).min())


def act_dcf(
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    p_target: float = ASVSPOOF5.p_target,
    cost_miss: float = ASVSPOOF5.cost_miss,
    cost_false_alarm: float = ASVSPOOF5.cost_false_alarm,
) -> float:
    """Return the normalised detection cost at the Bayes threshold: the scores must be natural log-likelihood ratios.

    Source: ASVspoof 5 evaluation plan, track 1, actDCF (threshold -log 1.9).
    """
    cost = DetectionCost(p_target, cost_miss, cost_false_alarm)
    miss = np.mean(checked(positive, "positive") < cost.threshold, keepdims=True)
    false_alarm = np.mean(checked(negative, "negative") >= cost.threshold, keepdims=True)
    return float(cost.normalised(miss, false_alarm)[0])


def cllr(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the cost of natural log-likelihood ratios, in bits: 0 is perfect, 1 that of a constant 0, more misleads.

    Source: Brümmer & du Preez, "Application-independent evaluation of speaker detection", 2006, C_llr.
    """
    positive_bits = log_loss_bits(-checked(positive, "positive"))
    negative_bits = log_loss_bits(checked(negative, "negative"))
    return float((positive_bits.mean() + negative_bits.mean()) / 2)


def log_loss_bits(log_odds_against: FloatArray) -> FloatArray:
    """Return the logarithmic loss in bits of natural log odds against the truth, stably."""
    bits: FloatArray = np.logaddexp(0.0, log_odds_against) / np.log(2)
    return bits


def min_cllr(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the Cllr, in bits, after the best monotone calibration of these very scores (pool adjacent violators).

    Source: Brümmer & du Preez, 2006, minimum C_llr by PAV; no Laplace smoothing.
    """
    return min_cllr_of(rank(positive=positive, negative=negative).count())


def min_cllr_of(steps: Steps) -> float:
    """Return the minimum Cllr of counted trials, in bits.

    Positives followed by negatives are violators, so all trials between two corners are pooled from the start; ties
    need no other care, their positives come first.
    """
    from scipy.optimize import isotonic_regression

    levels: IntArray = np.diff(steps.corners, axis=1)
    levels = levels[:, levels.any(axis=0)]
    total = levels.sum(axis=0)
    blocks = isotonic_regression(levels[0] / total, weights=total).blocks[:-1]
    pooled = np.add.reduceat(levels, blocks, axis=1)
    shares = pooled / pooled.sum(axis=1, keepdims=True)
    bits = np.log2(shares.sum(axis=0) / np.where(shares > 0, shares, 1.0))
    return float((shares * bits).sum() / 2)
