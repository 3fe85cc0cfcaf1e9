"""Two classes, one score: EER, minDCF, actDCF, Cllr and its minimum, and the curve they lie on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from hybrid_pruning.metrics.costs import ASVSPOOF5, DetectionCost
from hybrid_pruning.metrics.ranking import FloatArray, IntArray, Ranking, Steps, checked


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Error rates while the threshold climbs over N trials: N + 1 points each, from accept-all to reject-all.

    Point i rejects the i lowest scores. Among tied scores the positives go first, one by one, so points inside a tie
    lie on the steps and only the first point of a tie belongs to its threshold.

    Args:
        threshold: [N+1] lowest accepted score, ascending; the last is infinity.
        miss: [N+1] fraction of positives rejected, from 0 to 1.
        false_alarm: [N+1] fraction of negatives accepted, from 1 to 0.
    """

    threshold: FloatArray
    miss: FloatArray
    false_alarm: FloatArray


def det_curve(positive: npt.ArrayLike, negative: npt.ArrayLike) -> Curve:
    """Return the miss and false alarm rates at every threshold.

    Args:
        positive: [P] scores of the positive class.
        negative: [N] scores of the negative class.

    Raises:
        ValueError: a class is empty or a score is not finite.
    """
    ranking = rank_detection(positive, negative)
    miss, passed = ranking.count().rates_at(np.arange(ranking.order.size + 1))
    return Curve(np.append(ranking.threshold, np.inf), miss, passed)


def eer(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the equal error rate, a fraction: the mean of both rates at the first point where they are closest.

    Args:
        positive: [P] scores of bona fide speech (or of same-speaker trials).
        negative: [N] scores of spoofs (or of different-speaker trials).

    Raises:
        ValueError: a class is empty or a score is not finite.

    Source: ASVspoof 5 evaluation plan, track 1; ties as its package counts them (see `Curve`).
    """
    return eer_of(rank_detection(positive, negative).count())


def min_dcf(
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    p_target: float = ASVSPOOF5.p_target,
    cost_miss: float = ASVSPOOF5.cost_miss,
    cost_false_alarm: float = ASVSPOOF5.cost_false_alarm,
) -> float:
    """Return the smallest normalised detection cost over all thresholds; 1 is the better of accept-all and reject-all.

    Args:
        positive: [P] scores of the positive class.
        negative: [N] scores of the negative class.
        p_target: prior of the positive class, inside (0, 1); ASVspoof 5's by default, like both costs.
        cost_miss: cost of rejecting a positive trial.
        cost_false_alarm: cost of accepting a negative trial.

    Raises:
        ValueError: a class is empty, a score is not finite, or the operating point is impossible.

    Source: ASVspoof 5 evaluation plan, track 1, minDCF; NIST SRE plans for speaker verification.
    """
    cost = DetectionCost(p_target, cost_miss, cost_false_alarm)
    return min_dcf_of(rank_detection(positive, negative).count(), cost)


def act_dcf(
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    p_target: float = ASVSPOOF5.p_target,
    cost_miss: float = ASVSPOOF5.cost_miss,
    cost_false_alarm: float = ASVSPOOF5.cost_false_alarm,
) -> float:
    """Return the normalised detection cost at the Bayes threshold: the scores must be natural log-likelihood ratios.

    Args: as in `min_dcf`; a miss is score < threshold, a false alarm score >= threshold.

    Raises:
        ValueError: as in `min_dcf`.

    Source: ASVspoof 5 evaluation plan, track 1, actDCF (threshold -log 1.9).
    """
    cost = DetectionCost(p_target, cost_miss, cost_false_alarm)
    miss = np.mean(checked(positive, "positive") < cost.threshold, keepdims=True)
    false_alarm = np.mean(checked(negative, "negative") >= cost.threshold, keepdims=True)
    return float(cost.normalised(miss, false_alarm)[0])


def cllr(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the cost of log-likelihood ratios, in bits: 0 is perfect, 1 knows nothing, more misleads.

    Args:
        positive: [P] natural log-likelihood ratios of the positive class.
        negative: [N] natural log-likelihood ratios of the negative class.

    Raises:
        ValueError: a class is empty or a score is not finite.

    Source: Brümmer & du Preez, "Application-independent evaluation of speaker detection", 2006, C_llr.
    """
    positive_bits = surprise(-checked(positive, "positive"))
    negative_bits = surprise(checked(negative, "negative"))
    return float((positive_bits.mean() + negative_bits.mean()) / 2)


def min_cllr(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the Cllr, in bits, after the best monotone calibration of these very scores (pool adjacent violators).

    Args:
        positive: [P] scores of the positive class.
        negative: [N] scores of the negative class.

    Raises:
        ValueError: a class is empty or a score is not finite.

    Source: Brümmer & du Preez, 2006, minimum C_llr by PAV; no Laplace smoothing.
    """
    return min_cllr_of(rank_detection(positive, negative).count())


def surprise(log_odds_against: FloatArray) -> FloatArray:
    """Return the bits lost where the odds against the truth have the given natural logarithm, stably."""
    bits: FloatArray = np.logaddexp(0.0, log_odds_against) / np.log(2)
    return bits


def rank_detection(positive: npt.ArrayLike, negative: npt.ArrayLike) -> Ranking:
    """Rank the trials of two classes.

    Raises:
        ValueError: a class is empty or a score is not finite.
    """
    return Ranking(checked(positive, "positive"), checked(negative, "negative"))


def eer_of(steps: Steps) -> float:
    """Return the equal error rate of counted trials; as `eer`."""
    miss, passed = steps.rates(steps.rejected)
    run = int(np.searchsorted(miss - passed, 0.0)) - 1  # the rates cross within this one
    within = np.arange(steps.points[run + 1] - steps.points[run] + 1)
    miss, passed = steps.rates_within(np.full_like(within, run), within)
    closest = np.argmin(np.abs(miss - passed))
    return float((miss[closest] + passed[closest]) / 2)


def min_dcf_of(steps: Steps, cost: DetectionCost = ASVSPOOF5) -> float:
    """Return the smallest normalised detection cost of counted trials; as `min_dcf`."""
    return float(cost.normalised(*steps.rates(steps.corners)).min())


def min_cllr_of(steps: Steps) -> float:
    """Return the minimum Cllr of counted trials, in bits; as `min_cllr`.

    Positives followed by negatives are violators, so what lies between two corners is pooled from the start; a tie
    needs no other care, its positives come first.
    """
    levels: IntArray = np.diff(steps.corners, axis=1)
    levels = levels[:, levels.any(axis=0)]
    total = levels.sum(axis=0)
    blocks = isotonic_regression(levels[0] / total, weights=total).blocks[:-1]
    pooled = np.add.reduceat(levels, blocks, axis=1)
    shares = pooled / pooled.sum(axis=1, keepdims=True)
    bits = np.log2(shares.sum(axis=0) / np.where(shares > 0, shares, 1.0))
    return float((shares * bits).sum() / 2)
