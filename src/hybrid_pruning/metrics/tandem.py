"""Spoofing-robust speaker verification: a-DCF, t-DCF with its verifier's error rates, and the concurrent t-EER.

Of a whole system or a verifier, `target` are the scores [T] of the target speaker, `nontarget` [N] of other human
speakers and `spoof` [S] of spoofs; a countermeasure scores `bonafide` speech, targets and nontargets together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybrid_pruning.metrics.rates import FloatArray, IntArray, Steps, checked, det_curve, rank

COARSE_POINTS, FINE_POINTS = 512, 16  # parts that the t-EER's search cuts thresholds into, first and then: for speed


@dataclass(frozen=True, slots=True)
class SasvCost:
    """Priors and costs of spoofing-robust speaker verification; the defaults are those of every ASVspoof since 2019.

    Source: ASVspoof 2019 evaluation plan, t-DCF (the miss cost of verifier and countermeasure is 1, the false alarm
    cost of both 10); ASVspoof 2021 evaluation plan, table of t-DCF costs and priors; ASVspoof 5 evaluation plan.
    """

    p_target: float = 0.9405
    p_nontarget: float = 0.0095
    p_spoof: float = 0.05
    cost_miss: float = 1.0
    cost_nontarget: float = 10.0
    cost_spoof: float = 10.0

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weight of the rate of targets rejected, of nontargets accepted, and of spoofs accepted."""
        nontarget, spoof = self.p_nontarget * self.cost_nontarget, self.p_spoof * self.cost_spoof
        return self.p_target * self.cost_miss, nontarget, spoof


@dataclass(frozen=True, slots=True)
class AsvRates:
    """Error rates of the fixed speaker verifier behind a t-DCF; the defaults are the organisers' of ASVspoof 5."""

    miss: float = 0.01880141010575793
    nontarget_false_alarm: float = 0.01881016557566423
    spoof_false_alarm: float = 0.4607082907604729


ASVSPOOF5_SASV, ASVSPOOF5_ASV = SasvCost(), AsvRates()


def a_dcf(
    target: npt.ArrayLike, nontarget: npt.ArrayLike, spoof: npt.ArrayLike, cost: SasvCost = ASVSPOOF5_SASV
) -> float:
    """Return the smallest normalised architecture-agnostic detection cost over all thresholds.

    Source: Shim et al., "a-DCF: an architecture agnostic metric", Odyssey 2024, a-DCF and its normalisation.
    """
    return a_dcf_of(rank(target=target, nontarget=nontarget, spoof=spoof).count(), cost)


def a_dcf_of(steps: Steps, cost: SasvCost = ASVSPOOF5_SASV) -> float:
    """Return the a-DCF of counted trials: targets, nontargets, spoofs."""
    miss, nontarget_passed, spoof_passed = steps.rates(steps.corners)
    weight_miss, weight_nontarget, weight_spoof = cost.weights
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

    `asv` are the verifier's rates at its own threshold; ValueError where they leave a weight below 0. `legacy` leaves
    out the verifier's own errors, as the first version (ASVspoof 2019) did.

    Source: Kinnunen et al., "Tandem assessment of spoofing countermeasures and automatic speaker verification:
    fundamentals", TASLP 2020, the cost, C0 to C2 and the normalisation; legacy: Kinnunen et al., Odyssey 2018.
    """
    return t_dcf_of(rank(positive=bonafide, negative=spoof).count(), cost, asv, legacy)


def t_dcf_of(
    steps: Steps, cost: SasvCost = ASVSPOOF5_SASV, asv: AsvRates = ASVSPOOF5_ASV, legacy: bool = False
) -> float:
    """Return the t-DCF of counted trials: bona fide, spoofs."""
    miss, spoof_passed = steps.rates(steps.corners)
    miss_weight, nontarget_weight, spoof_weight = cost.weights
    verifier = miss_weight * asv.miss + nontarget_weight * asv.nontarget_false_alarm
    weight_miss, weight_spoof = miss_weight - verifier, spoof_weight * asv.spoof_false_alarm
    if weight_miss <= 0 or weight_spoof <= 0:
        raise ValueError(
            f"t-DCF weights {weight_miss:g} and {weight_spoof:g}, expected both above 0; check the verifier's rates"
        )
    floor = 0.0 if legacy else verifier
    costs = floor + weight_miss * miss + weight_spoof * spoof_passed
    return float(costs.min() / (floor + min(weight_miss, weight_spoof)))


def asv_rates(target: npt.ArrayLike, nontarget: npt.ArrayLike, spoof: npt.ArrayLike) -> AsvRates:
    """Return the error rates of a verifier at the threshold of its EER, for the t-DCF of a countermeasure beside it.

    Of targets and nontargets alone: the highest score rejected where both rates are closest, which then counts as
    accepted, as in ASVspoof's packages of 2019 and 2021.

    Source: ASVspoof 2019 and 2021 evaluation plans, the fixed verifier of the t-DCF.
    """
    target, nontarget, spoof = checked(target, "target"), checked(nontarget, "nontarget"), checked(spoof, "spoof")
    curve = det_curve(target, nontarget)
    closest = int(np.argmin(np.abs(curve.miss - curve.false_alarm)))
    threshold = curve.threshold[closest - 1] if closest else -np.inf
    return AsvRates(
        float(np.mean(target < threshold)), float(np.mean(nontarget >= threshold)), float(np.mean(spoof >= threshold))
    )


def t_eer(
    cm_bonafide: npt.ArrayLike,
    cm_spoof: npt.ArrayLike,
    asv_target: npt.ArrayLike,
    asv_nontarget: npt.ArrayLike,
    asv_spoof: npt.ArrayLike,
) -> float:
    """Return the concurrent tandem equal error rate, a fraction: miss, nontarget and spoof false alarm rate agree.

    Every verifier threshold that misses less than it falsely accepts is paired with the first countermeasure threshold
    that brings the tandem's miss and false alarm rates closest, where nontargets and spoofs are equally frequent
    (rho = 0.5). Of the pairs, the first where nontargets pass most nearly as often as spoofs counts, by its spoof false
    alarm rate. In small sets many pairs are equally close: rho and all rounding are those of ASVspoof 5's package.
    Where no pair has a defined distance, the package fails; here the first threshold's rate is returned.

    Source: Kinnunen et al., "t-EER: parameter-free tandem evaluation of countermeasures and biometric comparators",
    TPAMI 2023, the tandem's rates and the concurrent t-EER; ASVspoof 5 evaluation package, rho.
    """
    cm = rank(positive=cm_bonafide, negative=cm_spoof).count()
    return t_eer_of(cm, rank(target=asv_target, nontarget=asv_nontarget, spoof=asv_spoof).count())


def t_eer_of(cm: Steps, asv: Steps) -> float:
    """Return the t-EER of counted trials, cm: bona fide, spoofs; asv: targets, nontargets, spoofs.

    Along the verifier's thresholds every rate is monotone, those of the paired countermeasure point too. So two points
    bound all between them, and only stretches that may hold the closest pair are cut finer, down to single points.
    """

    def is_useless(points: IntArray) -> npt.NDArray[np.bool_]:
        miss, nontarget_passed, spoof_passed = _verifier_rates(asv, points)
        useless: npt.NDArray[np.bool_] = miss >= (nontarget_passed + spoof_passed) / 2
        return useless

    low = np.zeros(1, dtype=np.int64)
    high = _first(low, asv.points[-1:], is_useless) - 1  # point 0 always is of use
    parts, best = COARSE_POINTS, (np.inf, np.inf, np.nan)
    while low.size:
        points = low[:, None] + (high - low)[:, None] * np.arange(parts + 1) // parts
        rates = _tandem_rates(cm, asv, points.ravel()).reshape(-1, *points.shape)
        distances = _distances(rates)
        nearest = np.lexsort((points.ravel(), distances.ravel()))[0]
        _, spoof_passed, _, cm_passed = rates.reshape(4, -1)[:, nearest]
        best = min(best, (distances.flat[nearest], points.flat[nearest], spoof_passed * cm_passed))
        promising = (_smallest_distances(rates) <= best[0]) & (np.diff(points) > 1)
        low, high, parts = points[:, :-1][promising], points[:, 1:][promising], FINE_POINTS
    return float(best[2])


def _verifier_rates(asv: Steps, points: IntArray) -> FloatArray:
    """Return the rates [3, M] at points [M]; acceptance as 1 less rejection, rounded as in the package."""
    rejected: FloatArray = asv.counts_at(points) / asv.rejected[:, -1:]
    rejected[1:] = 1 - rejected[1:]
    return rejected


def _tandem_rates(cm: Steps, asv: Steps, points: IntArray) -> FloatArray:
    """Return the rates [4, M] at the verifier's points [M] and the countermeasure points that pair with them.

    Nontargets and spoofs that pass the verifier; bona fide speech that the countermeasure misses, spoofs that pass it.
    """
    asv_miss, nontarget_passed, spoof_passed = _verifier_rates(asv, points)

    def difference(rates: FloatArray) -> FloatArray:
        miss, passed = rates
        return miss + (1 - miss) * asv_miss - ((1 - miss) * nontarget_passed + passed * spoof_passed) / 2

    def within(step: IntArray) -> FloatArray:
        return cm.rates(cm.counts_within(run, step))

    start = np.zeros(points.size, dtype=np.int64)
    run = _first(start, start + cm.owner.size, lambda end: difference(cm.rates(cm.rejected[:, end])) >= 0) - 1
    above = _first(start, np.diff(cm.points)[run], lambda step: difference(within(step)) >= 0)
    low, high = within(above - 1), within(above)
    paired = np.where(np.abs(difference(low)) <= np.abs(difference(high)), low, high)
    return np.stack([nontarget_passed, spoof_passed, *paired])


def _first(low: IntArray, high: IntArray, holds: Callable[[IntArray], npt.NDArray[np.bool_]]) -> IntArray:
    """Return the first of low..high [M] where a condition that never turns false again holds; it holds at high."""
    for _ in range(int(np.max(high - low, initial=0)).bit_length()):
        middle = (low + high) // 2
        found = holds(middle)
        low, high = np.where(found, low, middle + 1), np.where(found, middle, high)
    return high


def _distances(rates: FloatArray) -> FloatArray:
    """Return the distance of nontargets and spoofs from passing the tandem equally often, [..., M]."""
    nontarget_passed, spoof_passed, cm_miss, cm_passed = rates
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(nontarget_passed / spoof_passed - cm_passed / (1 - cm_miss))
    return np.where(np.isnan(distance), np.inf, distance)


def _smallest_distances(rates: FloatArray) -> FloatArray:
    """Return lower bounds of the distances between neighbouring points [..., M], [..., M-1]."""
    nontarget_passed, spoof_passed, cm_miss, cm_passed = rates
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_low = nontarget_passed[..., 1:] / spoof_passed[..., :-1]
        ratio_high = nontarget_passed[..., :-1] / spoof_passed[..., 1:]
        wanted_low = cm_passed[..., :-1] / (1 - cm_miss[..., 1:])
        wanted_high = cm_passed[..., 1:] / (1 - cm_miss[..., :-1])
        gap = np.fmax(ratio_low - wanted_high, wanted_low - ratio_high)  # where one is not defined, the other bounds
    return np.where(np.isnan(gap), 0.0, gap - 1e-12)
