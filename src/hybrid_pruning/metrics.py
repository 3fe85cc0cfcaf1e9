"""Detection metrics: EER, DCFs, Cllr, a-DCF, t-DCF and t-EER, each with its unit, convention and source.

Everywhere: a higher score speaks for the positive class; a trial is accepted when its score >= the threshold;
rates and costs are fractions, never percent; scores are finite arrays of one dimension.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DetectionCost:
    """An operating point of a two-class detector.

    Args:
        p_target: prior of the positive class, inside (0, 1).
        cost_miss: cost of rejecting a positive trial.
        cost_false_alarm: cost of accepting a negative trial.

    Raises:
        ValueError: the prior lies outside (0, 1) or a cost is not positive.
    """

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


@dataclass(frozen=True, slots=True)
class SasvCost:
    """Priors and costs of spoofing-robust speaker verification; the defaults are those of ASVspoof 5.

    Args:
        p_target: prior of the target speaker.
        p_nontarget: prior of another human speaker.
        p_spoof: prior of a spoof.
        cost_miss: cost of rejecting a target.
        cost_nontarget: cost of accepting a nontarget.
        cost_spoof: cost of accepting a spoof.
    """

    p_target: float = 0.9405
    p_nontarget: float = 0.0095
    p_spoof: float = 0.05
    cost_miss: float = 1.0
    cost_nontarget: float = 10.0
    cost_spoof: float = 10.0


@dataclass(frozen=True, slots=True)
class AsvRates:
    """Error rates of the fixed speaker verifier behind a t-DCF; the defaults are the organisers' of ASVspoof 5.

    Args:
        miss: fraction of targets rejected.
        nontarget_false_alarm: fraction of nontargets accepted.
        spoof_false_alarm: fraction of spoofs accepted.
    """

    miss: float = 0.01880141010575793
    nontarget_false_alarm: float = 0.01881016557566423
    spoof_false_alarm: float = 0.4607082907604729


ASVSPOOF5 = DetectionCost(p_target=0.95, cost_miss=1.0, cost_false_alarm=10.0)
VERIFICATION = (DetectionCost(p_target=0.01), DetectionCost(p_target=0.05))
ASVSPOOF5_SASV = SasvCost()
ASVSPOOF5_ASV = AsvRates()


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
    threshold, (miss, passed) = _sweep(_checked(positive, "positive"), _checked(negative, "negative"))
    return Curve(threshold, miss, passed)


def eer(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return the equal error rate, a fraction: the mean of both rates at the first point where they are closest.

    Args:
        positive: [P] scores of bona fide speech (or of same-speaker trials).
        negative: [N] scores of spoofs (or of different-speaker trials).

    Raises:
        ValueError: a class is empty or a score is not finite.

    Source: ASVspoof 5 evaluation plan, track 1; ties as its package counts them (see `Curve`).
    """
    curve = det_curve(positive, negative)
    closest = np.argmin(np.abs(curve.miss - curve.false_alarm))
    return float((curve.miss[closest] + curve.false_alarm[closest]) / 2)


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
    curve = det_curve(positive, negative)
    return float(DetectionCost(p_target, cost_miss, cost_false_alarm).normalised(curve.miss, curve.false_alarm).min())


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
    miss = np.mean(_checked(positive, "positive") < cost.threshold, keepdims=True)
    false_alarm = np.mean(_checked(negative, "negative") >= cost.threshold, keepdims=True)
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
    positive_bits = surprise(-_checked(positive, "positive"))
    negative_bits = surprise(_checked(negative, "negative"))
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
    classes = _checked(positive, "positive"), _checked(negative, "negative")
    level = np.unique(np.concatenate(classes), return_inverse=True)[1]
    positives = np.bincount(level[: classes[0].size], minlength=level.max() + 1)
    negatives = np.bincount(level[classes[0].size :], minlength=level.max() + 1)
    pooled = _pool_adjacent_violators(positives, negatives)
    shares = pooled / pooled.sum(axis=1, keepdims=True)
    bits = np.log2(shares.sum(axis=0) / np.where(shares > 0, shares, 1.0))
    return float((shares * bits).sum() / 2)


def a_dcf(
    target: npt.ArrayLike, nontarget: npt.ArrayLike, spoof: npt.ArrayLike, cost: SasvCost = ASVSPOOF5_SASV
) -> float:
    """Return the smallest normalised architecture-agnostic detection cost over all thresholds.

    Args:
        target: [P] scores of the whole system for the target speaker.
        nontarget: [N] for other human speakers.
        spoof: [S] for spoofs.
        cost: priors and costs.

    Raises:
        ValueError: a class is empty or a score is not finite.

    Source: Shim et al., "a-DCF: an architecture agnostic metric", Odyssey 2024, a-DCF and its normalisation.
    """
    _, (miss, nontarget_passed, spoof_passed) = _sweep(*_checked_sasv(target, nontarget, spoof))
    weight_miss = cost.p_target * cost.cost_miss
    weight_nontarget = cost.p_nontarget * cost.cost_nontarget
    weight_spoof = cost.p_spoof * cost.cost_spoof
    costs = weight_miss * miss + weight_nontarget * nontarget_passed + weight_spoof * spoof_passed
    return float(costs.min() / min(weight_miss, weight_nontarget + weight_spoof))


def t_dcf(
    bonafide: npt.ArrayLike,
    spoof: npt.ArrayLike,
    cost: SasvCost = ASVSPOOF5_SASV,
    asv: AsvRates = ASVSPOOF5_ASV,
    legacy: bool = False,
) -> float:
    """Return the smallest normalised tandem detection cost over the countermeasure's thresholds, the verifier fixed.

    Args:
        bonafide: [P] countermeasure scores of bona fide speech, targets and nontargets together.
        spoof: [S] countermeasure scores of spoofs.
        cost: priors and costs.
        asv: error rates of the verifier at its own threshold.
        legacy: leave out the verifier's own errors, as the first version (ASVspoof 2019) did.

    Raises:
        ValueError: a class is empty, a score is not finite, or the verifier is too poor for a tandem to make sense.

    Source: Kinnunen et al., "Tandem assessment of spoofing countermeasures and automatic speaker verification:
    fundamentals", TASLP 2020, the cost, C0 to C2 and the normalisation; legacy: Kinnunen et al., Odyssey 2018.
    """
    curve = det_curve(bonafide, spoof)
    verifier = (
        cost.p_target * cost.cost_miss * asv.miss + cost.p_nontarget * cost.cost_nontarget * asv.nontarget_false_alarm
    )
    weight_miss = cost.p_target * cost.cost_miss - verifier
    weight_spoof = cost.p_spoof * cost.cost_spoof * asv.spoof_false_alarm
    if weight_miss <= 0 or weight_spoof <= 0:
        raise ValueError(
            f"t-DCF weights {weight_miss:g} and {weight_spoof:g}, expected both above 0; check the verifier's rates"
        )
    floor = 0.0 if legacy else verifier
    costs = floor + weight_miss * curve.miss + weight_spoof * curve.false_alarm
    return float(costs.min() / (floor + min(weight_miss, weight_spoof)))


def t_eer(
    cm_bonafide: npt.ArrayLike,
    cm_spoof: npt.ArrayLike,
    asv_target: npt.ArrayLike,
    asv_nontarget: npt.ArrayLike,
    asv_spoof: npt.ArrayLike,
) -> float:
    """Return the concurrent tandem equal error rate, a fraction: all three error rates agree, whatever the spoof prior.

    Every verifier threshold that misses less than it lets spoofs pass is paired with the countermeasure threshold
    that brings the tandem's miss and spoof false alarm rates closest; of these pairs the one where nontargets pass
    most nearly as often as spoofs is taken, and its spoof false alarm rate returned.

    Args:
        cm_bonafide: [P] countermeasure scores of bona fide speech, targets and nontargets together.
        cm_spoof: [S] countermeasure scores of spoofs.
        asv_target: [T] verifier scores of targets.
        asv_nontarget: [N] verifier scores of nontargets.
        asv_spoof: [S] verifier scores of spoofs.

    Raises:
        ValueError: a class is empty or a score is not finite.

    Source: Kinnunen et al., "t-EER: parameter-free tandem evaluation of countermeasures and biometric comparators",
    TPAMI 2023, the tandem's rates and the concurrent t-EER.
    """
    cm = det_curve(cm_bonafide, cm_spoof)
    _, asv_rates = _sweep(*_checked_sasv(asv_target, asv_nontarget, asv_spoof))
    usable = asv_rates[0] < asv_rates[2]
    miss, nontarget_passed, spoof_passed = (rate[usable] for rate in asv_rates)
    paired = _closest_points(cm, miss, spoof_passed)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = cm.false_alarm[paired] / (1 - cm.miss[paired])
        distance = np.abs(nontarget_passed / spoof_passed - wanted)
    best = np.argmin(np.where(np.isnan(distance), np.inf, distance))
    return float(spoof_passed[best] * cm.false_alarm[paired[best]])


def surprise(log_odds_against: FloatArray) -> FloatArray:
    """Return the bits lost where the odds against the truth have the given natural logarithm, stably."""
    bits: FloatArray = np.logaddexp(0.0, log_odds_against) / np.log(2)
    return bits


def _checked(scores: npt.ArrayLike, name: str) -> FloatArray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} scores: shape {array.shape}, expected one dimension")
    if not array.size:
        raise ValueError(f"{name} scores: none given, expected at least one of every class")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name} scores: {bad.size} of {array.size} are NaN or infinite, the first at index {bad[0]}")
    return array


def _checked_sasv(target: npt.ArrayLike, nontarget: npt.ArrayLike, spoof: npt.ArrayLike) -> list[FloatArray]:
    return [_checked(target, "target"), _checked(nontarget, "nontarget"), _checked(spoof, "spoof")]


def _sweep(positive: FloatArray, *negatives: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """Return thresholds and, at each, the fraction of positives rejected and of every other class accepted."""
    classes = positive, *negatives
    pooled = np.concatenate(classes)
    order = np.argsort(pooled, kind="stable")
    owner = np.repeat(np.arange(len(classes), dtype=np.int8), [scores.size for scores in classes])[order]
    rejected = [np.concatenate(([0], np.cumsum(owner == index))) for index in range(len(classes))]
    passed = [(count[-1] - count) / count[-1] for count in rejected[1:]]
    return np.append(pooled[order], np.inf), [rejected[0] / rejected[0][-1], *passed]


def _pool_adjacent_violators(positives: IntArray, negatives: IntArray) -> IntArray:
    """Merge neighbouring levels until the share of positives rises strictly: counts [2, blocks]."""
    blocks: list[tuple[int, int]] = []
    for positive, negative in zip(positives.tolist(), negatives.tolist(), strict=True):
        block = (positive, negative)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            below = blocks.pop()
            block = (below[0] + block[0], below[1] + block[1])
        blocks.append(block)
    return np.array(blocks, dtype=np.int64).T


def _closest_points(cm: Curve, asv_miss: FloatArray, asv_spoof: FloatArray) -> IntArray:
    """Return, for each verifier point, the first countermeasure point with the closest tandem miss and false alarm.

    Their difference rises along the countermeasure's curve, so a bisection finds it: memory stays linear.
    """

    def difference(point: IntArray) -> FloatArray:
        miss = cm.miss[point]
        return miss + (1 - miss) * asv_miss - cm.false_alarm[point] * asv_spoof

    low = np.zeros(asv_miss.size, dtype=np.int64)
    high = np.full(asv_miss.size, cm.miss.size - 1)
    for _ in range(cm.miss.size.bit_length()):
        middle = (low + high) // 2
        crossed = difference(middle) >= 0
        low, high = np.where(crossed, low, middle + 1), np.where(crossed, middle, high)
    before = np.maximum(high - 1, 0)
    return np.where(np.abs(difference(before)) <= np.abs(difference(high)), before, high)
