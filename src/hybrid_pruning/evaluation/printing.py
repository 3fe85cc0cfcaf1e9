"""Evaluations as tables for a person: error rates in percent, counts in thousands, the worst group marked."""

from collections.abc import Mapping

import numpy as np

from hybrid_pruning.evaluation.groups import state_rule
from hybrid_pruning.evaluation.result import Evaluation
from hybrid_pruning.terminal import Cell, say, say_table

TITLES = {
    "eer": "EER %",
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr (bits)",
    "min_cllr": "minimum Cllr (bits)",
    "a_dcf": "a-DCF",
    "min_t_dcf": "min t-DCF",
    "min_t_dcf_2019": "min t-DCF (2019)",
    "t_eer": "t-EER %",
    "min_dcf_0.01": "minDCF (p = 0.01)",
    "min_dcf_0.05": "minDCF (p = 0.05)",
    "n_bonafide": "bona fide trials",
    "n_spoof": "spoof trials",
    "n_target": "target trials",
    "n_nontarget": "nontarget trials",
}


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
    say_table(("metric", "value"), rows, title=title)


def find_warnings(result: Mapping[str, float]) -> list[str]:
    """Return what in the metrics a person should look at twice, one sentence each."""
    found = []
    rate = max(result.get("eer", 0.0), result.get("t_eer", 0.0))
    if rate > 0.5:
        found.append(
            f"an equal error rate of {rate:.1%} is worse than chance: are the scores inverted? "
            "A higher score must mean more bona fide, or more the same speaker"
        )
    if result.get("act_dcf", 0.0) >= 1 > result.get("min_dcf", 1.0) and rate <= 0.5:
        found.append(
            f"actDCF is {result['act_dcf']:.3f} where minDCF is {result['min_dcf']:.3f}: the scores are not calibrated "
            "log-likelihood ratios"
        )
    if result.get("a_dcf", 0.0) >= 1:
        found.append("a-DCF is 1, as for a system that knows nothing: are the scores inverted?")
    return found


def _print_metrics(evaluation: Evaluation) -> None:
    if not evaluation.intervals:
        print_table(evaluation.metrics)
        return
    rows = []
    for name, value in evaluation.metrics.items():
        ends = evaluation.intervals.get(name)
        shown = "" if ends is None else f"{show_value(name, ends.low)} to {show_value(name, ends.high)}"
        rows.append((TITLES.get(name, name), show_value(name, value), shown))
    say_table(("metric", "value", "95% interval"), rows)
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
    say_table(headings, rows, title=f"against {evaluation.request.against}")
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
    say_table(headings, rows, len(columns), f"by {' and '.join(columns)}, worst (*) first")
    say(f"by {' and '.join(columns)}: {state_rule(columns, evaluation.task)}")


def _mark(name: str, value: float | None, worst: float | None) -> Cell:
    """Return a group's figure, the worst of all bold and starred; a dash where a class has no trial."""
    if value is None:
        return "-"
    shown = show_value(name, value)
    return (f"* {shown}", "bold") if value == worst else shown


def show_value(name: str, value: float, sign: str = "") -> str:
    """Return a metric as a table shows it; `sign` is the format's, + for differences."""
    if name.startswith("n_"):
        return f"{value:,.0f}"
    return f"{100 * value:{sign}.3f}" if TITLES.get(name, name).endswith("%") else f"{value:{sign}.4f}"
