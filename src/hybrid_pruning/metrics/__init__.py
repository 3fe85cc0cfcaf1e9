"""Detection metrics: EER, DCFs, Cllr, a-DCF, t-DCF and t-EER, each with its unit, convention and source.

Everywhere: a higher score speaks for the positive class; a trial is accepted when its score >= the threshold; rates and
costs are fractions, never percent; scores are finite arrays of one dimension, one for each class. Every metric raises
ValueError where a class is empty or a score is not finite. A metric whose name ends in `_of` takes counted trials.
"""

from hybrid_pruning.metrics.rates import (
    ASVSPOOF5,
    LARGEST_SCORE,
    VERIFICATION,
    Curve,
    DetectionCost,
    FloatArray,
    IntArray,
    act_dcf,
    cllr,
    det_curve,
    eer,
    min_cllr,
    min_dcf,
)
from hybrid_pruning.metrics.tandem import (
    ASVSPOOF5_ASV,
    ASVSPOOF5_SASV,
    AsvRates,
    SasvCost,
    a_dcf,
    asv_rates,
    t_dcf,
    t_eer,
)

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
    "SasvCost",
    "a_dcf",
    "act_dcf",
    "asv_rates",
    "cllr",
    "det_curve",
    "eer",
    "min_cllr",
    "min_dcf",
    "t_dcf",
    "t_eer",
]
