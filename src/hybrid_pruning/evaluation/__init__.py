"""A score file and a key file -> metrics: every id joined exactly, every fault one clear line, tables to read."""

from hybrid_pruning.data.keys import Keys, Pairs, read_keys, read_pairs
from hybrid_pruning.data.score_files import Trials, join_scores, join_systems, read_trials
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2, Track
from hybrid_pruning.evaluation.clusters import find_resampling
from hybrid_pruning.evaluation.comparison import measure_scores, print_scores
from hybrid_pruning.evaluation.groups import Group, break_down
from hybrid_pruning.evaluation.results import (
    Evaluation,
    Metrics,
    Request,
    curves,
    evaluate,
    evaluate_sv,
    evaluate_track1,
    evaluate_track2,
)
from hybrid_pruning.evaluation.show import print_evaluation, print_table
from hybrid_pruning.evaluation.verifier import read_verifier_2019, read_verifier_2021
from hybrid_pruning.metrics.titles import find_warnings

__all__ = [
    "SV",
    "TRACK1",
    "TRACK2",
    "Evaluation",
    "Group",
    "Keys",
    "Metrics",
    "Pairs",
    "Request",
    "Track",
    "Trials",
    "break_down",
    "curves",
    "evaluate",
    "evaluate_sv",
    "evaluate_track1",
    "evaluate_track2",
    "find_resampling",
    "find_warnings",
    "join_scores",
    "join_systems",
    "measure_scores",
    "print_evaluation",
    "print_scores",
    "print_table",
    "read_keys",
    "read_pairs",
    "read_trials",
    "read_verifier_2019",
    "read_verifier_2021",
]
