"""Evaluations as tables for the terminal: error rates in percent, counts in thousands, the worst group marked."""

from collections.abc import Mapping

import numpy as np

from hybrid_pruning.console import Spans, Table, say, say_table
from hybrid_pruning.evaluation.groups import state_rule
from hybrid_pruning.evaluation.results import Evaluation
from hybrid_pruning.metrics.measures import TITLES, show_value


def print_evaluation(evaluation: Evaluation) -> None:
    """Print an evaluation: metrics, comparison, and groups."""
    _print_metrics(evaluation)
    phases = np.unique(evaluation.trials.columns.get("phase", np.empty(0, dtype=np.str_)))
    if phases.size > 1:
        say(f"phases {', '.join(phases)} together; challenges report one: --only phase=eval")
    if evaluation.against is not None:
        _print_comparison(evaluation)
    for columns in evaluation.groups:
        _print_groups(evaluation, columns)


def print_scores(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
    """Print metrics of several score columns of the same trials: (trials, scores) -> metrics."""
    headings = ("trials", "scores", *(TITLES[name] for name in next(iter(rows.values()))))
    shown = [(*labels, *(show_value(*metric) for metric in metrics.items())) for labels, metrics in rows.items()]
    say_table(Table(headings, shown, left=2))


def _print_metrics(evaluation: Evaluation) -> None:
    rows = []
    for name, value in evaluation.metrics.items():
        ends = evaluation.intervals.get(name)
        shown = "" if ends is None else f"{show_value(name, ends.low)} to {show_value(name, ends.high)}"
        rows.append((TITLES.get(name, name), show_value(name, value), shown))
    if evaluation.intervals:
        say_table(Table(("metric", "value", "95% interval"), rows))
        say(f"intervals: {evaluation.rounds:,} resamples of {evaluation.resampled}; seed {evaluation.seed}")
    else:
        say_table(Table(("metric", "value"), [row[:2] for row in rows]))


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
    say_table(Table(headings, rows, f"against {evaluation.against}"))
    if differences:
        say("better in: share of the resamples, the same for both, in which this system's metric is smaller")


def _print_groups(evaluation: Evaluation, columns: tuple[str, ...]) -> None:
    groups, together = evaluation.groups[columns], " and ".join(columns)
    names = [name for name in evaluation.track.main if name in evaluation.metrics]
    worst = {name: max((group.metrics[name] for group in groups if group.metrics), default=None) for name in names}

    def figure(name: str, value: float | None) -> Spans:
        if value is None:  # a class has no trial
            return "-"
        shown = show_value(name, value)
        return (f"* {shown}", "bold") if value == worst[name] else shown

    rows = []
    for group in groups:
        counts = [f"{count:,}" for count in group.counts.values()]
        rows.append((*group.values, *counts, *(figure(name, group.metrics.get(name)) for name in names)))
    headings = (*columns, *evaluation.track.kinds, *(TITLES[name] for name in names))
    say_table(Table(headings, rows, f"by {together}, worst (*) first", left=len(columns)))
    say(f"by {together}: {state_rule(columns, evaluation.track)}")
    if rates := [group.metrics[names[0]] for group in groups if group.metrics]:
        say(f"mean over {together}: {TITLES[names[0]]} {show_value(names[0], float(np.mean(rates)))}")
