"""Detection metrics: EER, DCFs, Cllr, a-DCF, t-DCF and t-EER, each with its unit, convention and source.

Everywhere: a higher score speaks for the positive class; a trial is accepted when its score >= the threshold;
rates and costs are fractions, never percent; scores are finite arrays of one dimension.
"""

from hybrid_pruning.metrics.costs import (
    ASVSPOOF5,
    ASVSPOOF5_ASV,
    ASVSPOOF5_SASV,
    VERIFICATION,
    AsvRates,
    DetectionCost,
    SasvCost,
)
from hybrid_pruning.metrics.ranking import LARGEST_SCORE, FloatArray, IntArray, Ranking, Steps
from hybrid_pruning.metrics.rates import Curve, act_dcf, cllr, det_curve, eer, min_cllr, min_dcf, surprise
from hybrid_pruning.metrics.tandem import a_dcf, asv_rates, t_dcf, t_eer

__all__ = [
    "ASVSPOOF5",
    "ASVSPOOF5_ASV",
    "ASVSPOOF5_SASV",
    "LARGEST_SCORE",
    "VERIFICATION",
    "AsvRates",
    "Curve",
    "DetectionCost",
    "FloatArray",
    "IntArray",
    "Ranking",
    "SasvCost",
    "Steps",
    "a_dcf",
    "act_dcf",
    "asv_rates",
    "cllr",
    "det_curve",
    "eer",
    "min_cllr",
    "min_dcf",
    "surprise",
    "t_dcf",
    "t_eer",
]
