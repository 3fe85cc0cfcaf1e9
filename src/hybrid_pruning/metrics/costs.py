"""Operating points: priors, costs, and the error rates of the verifier behind a tandem."""

from dataclasses import dataclass

import numpy as np

from hybrid_pruning.metrics.ranking import FloatArray


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
    """Priors and costs of spoofing-robust speaker verification; the defaults are those of every ASVspoof since 2019.

    Args:
        p_target: prior of the target speaker.
        p_nontarget: prior of another human speaker.
        p_spoof: prior of a spoof.
        cost_miss: cost of rejecting a target.
        cost_nontarget: cost of accepting a nontarget.
        cost_spoof: cost of accepting a spoof.

    Source: ASVspoof 2019 evaluation plan, t-DCF (the miss cost of verifier and countermeasure is 1, the false alarm
    cost of both 10); ASVspoof 2021 evaluation plan, table of t-DCF costs and priors; ASVspoof 5 evaluation plan.
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
