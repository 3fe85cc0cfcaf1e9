"""Score columns of the same trials side by side: how well each is calibrated, and how well it could be."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from hybrid_pruning.evaluation.printing import TITLES, show_value
from hybrid_pruning.evaluation.tasks import Task
from hybrid_pruning.evaluation.trials import Trials
from hybrid_pruning.metrics import VERIFICATION, FloatArray
from hybrid_pruning.metrics.costs import ASVSPOOF5
from hybrid_pruning.metrics.measures import Column, Measures, Sample, detection
from hybrid_pruning.terminal import console as terminal


def calibration_measures(task: Task) -> Measures:
    """Return the metrics that calibration changes, each beside the least it could become without changing the order."""
    cost = VERIFICATION[0] if task.repeats else ASVSPOOF5
    column = Column(task.scores, tuple((kind,) for kind in task.kinds))
    measures = detection(column, cost)
    return {name: measures[name] for name in ("eer", "min_dcf", "act_dcf", "min_cllr", "cllr")}


def measure_scores(task: Task, trials: Trials, scores: FloatArray) -> dict[str, float]:
    """Return those metrics of other scores of the same trials."""
    return Sample({task.scores: scores}, trials.classes).measure(calibration_measures(task))


def print_scores(rows: Mapping[tuple[str, str], Mapping[str, float]], console: Console = terminal) -> None:
    """Print metrics of several score columns: (what was scored, by what) -> metrics."""
    table = Table("trials", "scores")
    for name in next(iter(rows.values())):
        table.add_column(TITLES[name], justify="right")
    for labels, metrics in rows.items():
        table.add_row(*labels, *(show_value(name, value) for name, value in metrics.items()))
    console.print(table)
