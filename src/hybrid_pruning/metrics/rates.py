"""Two classes, one score: EER, minDCF, actDCF, Cllr and its minimum, and the curve they lie on.

`positive` are the scores [P] of bona fide speech or of same-speaker trials, `negative` [N] those of spoofs or of
different-speaker trials.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from hybrid_pruning.metrics.ranking import FloatArray, IntArray, Steps, checked, rank


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
    positives go first, one by one, so points inside a tie lie on the steps and only the first point of a tie belongs to
    its threshold.
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

    Args: the scores, and a `DetectionCost`; by default ASVspoof 5's.

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

    Args: as in `min_dcf`; a miss is score < threshold, a false alarm score >= threshold.

    Source: ASVspoof 5 evaluation plan, track 1, actDCF (threshold -log 1.9).
    """
    cost = DetectionCost(p_target, cost_miss, cost_false_alarm)
    miss = np.mean(checked(positive, "positive") < cost.threshold, keepdims=True)
    false_alarm = np.mean(checked(negative, "negative") >= cost.threshold, keepdims=True)
    return float(cost.normalised(miss, false_alarm)[0])


def cllr(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the cost of natural log-likelihood ratios, in bits: 0 is perfect, 1 knows nothing, more misleads.

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
