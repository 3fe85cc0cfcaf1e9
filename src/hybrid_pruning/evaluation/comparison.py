"""Score columns of the same trials side by side: how well each is calibrated, and how well it could be."""

from collections.abc import Mapping

from hybrid_pruning.console import Table, say_table
from hybrid_pruning.data.score_files import Trials
from hybrid_pruning.data.tracks import Track
from hybrid_pruning.metrics import VERIFICATION, FloatArray
from hybrid_pruning.metrics.costs import ASVSPOOF5
from hybrid_pruning.metrics.measures import Column, Measures, Sample, detection
from hybrid_pruning.metrics.titles import TITLES, show_value


def calibration_measures(task: Track) -> Measures:
    """Return the metrics that calibration changes, each beside the least it could become without changing the order."""
    cost = VERIFICATION[0] if task.repeats else ASVSPOOF5
    column = Column(task.scores, tuple((kind,) for kind in task.kinds))
    measures = detection(column, cost)
    return {name: measures[name] for name in ("eer", "min_dcf", "act_dcf", "min_cllr", "cllr")}


def measure_scores(task: Track, trials: Trials, scores: FloatArray) -> dict[str, float]:
    """Return those metrics of other scores of the same trials."""
    return Sample({task.scores: scores}, trials.classes).measure(calibration_measures(task))


def print_scores(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
    """Print metrics of several score columns: (what was scored, by what) -> metrics."""
    headings = ("trials", "scores", *(TITLES[name] for name in next(iter(rows.values()))))
    shown = [(*labels, *(show_value(*metric) for metric in metrics.items())) for labels, metrics in rows.items()]
    say_table(Table(headings, shown, left=2))
