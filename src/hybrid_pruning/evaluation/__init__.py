"""A score file and its keys -> metrics and tables; scores -> log-likelihood ratios, by calibration and fusion."""

from hybrid_pruning.evaluation.groups import Group
from hybrid_pruning.evaluation.results import (
    TRACKS,
    Evaluation,
    curves,
    evaluate,
    operating_point,
    pool,
    print_evaluation,
    print_scores,
    tabulate,
)

__all__ = [
    "TRACKS",
    "Evaluation",
    "Group",
    "curves",
    "evaluate",
    "operating_point",
    "pool",
    "print_evaluation",
    "print_scores",
    "tabulate",
]
