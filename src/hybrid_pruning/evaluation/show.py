"""Evaluations as tables for a person: error rates in percent, counts in thousands, the worst group marked."""

from collections.abc import Mapping

import numpy as np

from hybrid_pruning.console import Spans, Table, say, say_table
from hybrid_pruning.evaluation.groups import state_rule
from hybrid_pruning.evaluation.results import Evaluation
from hybrid_pruning.metrics.titles import TITLES, show_value


def print_evaluation(evaluation: Evaluation) -> None:
    """Print an evaluation: metrics, comparison, and groups."""
    _print_metrics(evaluation)
    phases = np.unique(evaluation.trials.columns.get("phase", np.empty(0, dtype=np.str_)))
    if phases.size > 1:
        say(f"phases {', '.join(phases)} together; challenges report one: --only phase=eval")
    if evaluation.other is not None:
        _print_comparison(evaluation)
    for columns in evaluation.groups:
        _print_groups(evaluation, columns)


def print_table(result: Mapping[str, float], title: str = "") -> None:
    """Print metrics alone."""
    rows = [(TITLES.get(name, name), show_value(name, value)) for name, value in result.items()]
    say_table(Table(("metric", "value"), rows, title))


def _print_metrics(evaluation: Evaluation) -> None:
    if not evaluation.intervals:
        print_table(evaluation.metrics)
        return
    rows = []
    for name, value in evaluation.metrics.items():
        ends = evaluation.intervals.get(name)
        shown = "" if ends is None else f"{show_value(name, ends.low)} to {show_value(name, ends.high)}"
        rows.append((TITLES.get(name, name), show_value(name, value), shown))
    say_table(Table(("metric", "value", "95% interval"), rows))
    request = evaluation.request
    say(f"intervals: {request.rounds:,} resamples of {evaluation.resampled}; seed {request.seed}")


def _print_comparison(evaluation: Evaluation) -> None:
    differences = evaluation.differences
    headings = ["metric", "this", "other", "difference", *(("95% interval", "better in") if differences else ())]
    rows = []
    for name, other in evaluation.other_metrics.items():
        value = evaluation.metrics[name]
        cells = [show_value(name, value), show_value(name, other), show_value(name, value - other, "+")]
        if differences:
            found = differences[name]
            ends = f"{show_value(name, found.low, '+')} to {show_value(name, found.high, '+')}"
            cells += [ends, f"{found.better:.1%}"]
        rows.append((TITLES.get(name, name), *cells))
    say_table(Table(headings, rows, f"against {evaluation.request.against}"))
    if differences:
        say("better in: share of the resamples, the same for both, in which this system's metric is smaller")


def _print_groups(evaluation: Evaluation, columns: tuple[str, ...]) -> None:
    groups = evaluation.groups[columns]
    names = [name for name in evaluation.task.main if name in evaluation.metrics]
    headings = (*columns, *evaluation.task.kinds, *(TITLES[name] for name in names))
    rows = []
    worst = {name: max((group.metrics[name] for group in groups if group.metrics), default=None) for name in names}
    for group in groups:
        counts = (f"{count:,}" for count in group.counts.values())
        figures = (_mark(name, group.metrics.get(name), worst[name]) for name in names)
        rows.append((*group.values, *counts, *figures))
    say_table(Table(headings, rows, f"by {' and '.join(columns)}, worst (*) first", left=len(columns)))
    say(f"by {' and '.join(columns)}: {state_rule(columns, evaluation.task)}")


def _mark(name: str, value: float | None, worst: float | None) -> Spans:
    """Return a group's figure, the worst of all bold and starred; a dash where a class has no trial."""
    if value is None:
        return "-"
    shown = show_value(name, value)
    return (f"* {shown}", "bold") if value == worst else shown
