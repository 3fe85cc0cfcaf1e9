"""The tables of a report: all runs beside each other, in size, figures and recipe, and beside what others published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from hybrid_pruning.evaluation import Evaluation
from hybrid_pruning.metrics.bootstrap import Difference
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting.published import Ours, Published
from hybrid_pruning.reporting.remaining import Remaining
from hybrid_pruning.reporting.run_files import Run
from hybrid_pruning.reporting.score_tables import DEV, ResultSet
from hybrid_pruning.trees import number, portable, section

UNKNOWN = "–"
METRICS: Mapping[str, tuple[str, float, int]] = {
    "eer": ("EER, %", 100, 2),
    "min_dcf": ("minDCF", 1, 3),
    "min_dcf_0.01": ("minDCF, P(target) 0.01", 1, 3),
    "min_dcf_0.05": ("minDCF, P(target) 0.05", 1, 3),
    "act_dcf": ("actDCF", 1, 3),
    "cllr": ("Cllr, bits", 1, 3),
}
"""Metric -> its title, what it is multiplied by, and its decimals."""
MIN_DCFS = {"min_dcf", "min_dcf_0.01"}
"""Of anti-spoofing, and of speaker verification, where the usual P(target) is 0.01."""
WORDS = {"bonafide": "bona fide", "spoof": "spoof", "target": "target", "nontarget": "nontarget"}


Measured = tuple[Ours, Remaining, Evaluation]
"""One of our runs on an evaluation set, with what is left of its model."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a table.

    Args:
        value: as it is shown.
        interval: its 95% confidence interval, where there is one.
        difference: from the first run, and its interval, where there is one.
        sure: whether that interval leaves 0 out.
    """

    value: str
    interval: str = ""
    difference: tuple[str, ...] = ()
    sure: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: its title and a cell per run."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of a table that belong together."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def compare_sizes(remaining: Sequence[Remaining | str]) -> Group:
    """Return how large the runs' models are."""
    rows: dict[str, Callable[[Remaining], str]] = {
        "backbone parameters": lambda left: count(left.survivors.budget.params),
        "removed, %": lambda left: f"{100 * float(left.survivors.budget.sparsity):.1f}",
        f"backbone MACs, {SECONDS:g} s": lambda left: count(left.survivors.budget.macs),
        "MACs removed, %": lambda left: f"{100 * float(left.survivors.budget.macs_sparsity):.1f}",
        "head parameters": lambda left: count(left.head_params),
    }
    return Group(
        "Size",
        [
            Row(title, [Cell(UNKNOWN if isinstance(x, str) else tell(x)) for x in remaining])
            for title, tell in rows.items()
        ],
    )


def compare_results(results: ResultSet, runs: Sequence[Run]) -> Group:
    """Return one evaluation set's figures of all runs."""
    rows = [
        Row(title, [_result(results, index, metric) for index in range(len(runs))])
        for metric, (title, _, _) in METRICS.items()
        if any(metric in evaluation.metrics for evaluation in results.evaluations.values())
    ]
    return Group(name_set(results), rows, [*results.notes, *_describe_trials(results)])


def name_set(results: ResultSet) -> str:
    """Return the evaluation set's name for a title."""
    return "dev, after the last validation" if results.name == DEV else results.name


def summarise(runs: Sequence[Run], remaining: Sequence[Remaining | str], sets: Sequence[ResultSet]) -> list[str]:
    """Return what the report comes to, a sentence or two per run."""
    return [
        " ".join(filter(None, (_tell_state(run), _tell_size(left), *_tell_results(index, runs, sets))))
        for index, (run, left) in enumerate(zip(runs, remaining, strict=True))
    ]


def describe_runs(runs: Sequence[Run]) -> list[Row]:
    """Return what the trainings were: origin, length, pace."""
    rows: dict[str, Callable[[Run], str]] = {
        "epochs": _tell_epochs,
        "steps": lambda run: f"{number(run.log.steps[-1].get('step')):,.0f}" if run.log.steps else UNKNOWN,
        "encoder": _tell_encoder,
        "target": _tell_target,
        "seed": lambda run: str(run.config.get("seed", UNKNOWN)),
        "audio per second": lambda run: _middle(run, "audio_seconds_per_second", "{:.0f} s"),
        "padding": lambda run: _middle(run, "padding", "{:.1%}"),
        "files left out": lambda run: f"{number(run.log.skipped.get('files')):,.0f}" if run.log.skipped else "none",
    }
    return [Row(title, [Cell(tell(run)) for run in runs]) for title, tell in rows.items()]


def list_groups(run: Run) -> list[Mapping[str, str]]:
    """Return what the optimisers were given, group by group."""
    return [
        {
            "name": str(group.get("name", UNKNOWN)),
            "parameters": f"{number(group.get('parameters')):,.0f}",
            "rate": f"{number(group.get('peak_learning_rate')):g}",
            "decay": f"{number(group.get('weight_decay')):g}",
        }
        for group in run.log.groups
        if isinstance(group, Mapping)
    ]


def differing_settings(runs: Sequence[Run]) -> list[Row]:
    """Return the settings that are not the same in all runs."""
    flat = [_flatten(run.config) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    return [
        Row(name, [Cell(settings.get(name, UNKNOWN)) for settings in flat])
        for name in names
        if len({settings.get(name) for settings in flat}) > 1
    ]


def compare_versions(runs: Sequence[Run]) -> list[Row]:
    """Return the versions of what computed, run by run."""
    names = dict.fromkeys(name for run in runs for name in run.versions)
    return [Row(name, [Cell(run.versions.get(name, UNKNOWN)) for run in runs]) for name in names]


def find_ours(runs: Sequence[Run], remaining: Sequence[Remaining | str], results: ResultSet) -> list[Measured]:
    """Return our runs on an evaluation set that others have published results for, the largest first."""
    found = []
    for index, evaluation in results.evaluations.items():
        left = remaining[index]
        if not isinstance(left, str):
            params = (int(left.survivors.budget.params) + left.head_params) / 1e6
            found.append((Ours(runs[index].name, index, params, evaluation.metrics["eer"]), left, evaluation))
    return sorted(found, key=lambda entry: -entry[0].params_m)


def list_published(published: Sequence[Published], ours: Sequence[Measured]) -> list[Mapping[str, Any]]:
    """Return the rows of the published table: ours first, then the others as their sources have them."""
    sources = list_sources(published)
    rows: list[Mapping[str, Any]] = []
    for run, left, evaluation in ours:
        budget = left.survivors.budget
        rows.append(
            {
                "system": run.name,
                "run": run.system,
                "source": "measured here",
                "cells": (
                    f"{100 * float(budget.sparsity):.0f}",
                    f"{run.params_m:.1f}",
                    f"{int(budget.macs) / 1e9:.1f}",
                    f"{100 * run.eer:.2f}",
                    f"{evaluation.metrics[min(set(evaluation.metrics) & MIN_DCFS)]:.3f}",
                ),
            }
        )
    for other in published:
        if not other.derived:
            cells = (
                _given(other.sparsity, "{:.0f}", 100),
                _given(other.params_m, "{:.1f}"),
                _given(other.flops_g, "{:.1f}"),
                f"{100 * other.eer:.2f}",
                _given(other.min_dcf, "{:.3f}"),
            )
            source = f"[{sources.index(other.source) + 1}]"
            rows.append({"system": other.system, "run": None, "source": source, "cells": cells})
    return rows


def list_sources(published: Sequence[Published]) -> list[str]:
    """Return where published figures are from, in the order of their numbers."""
    return list(dict.fromkeys(other.source for other in published))


def compare_sweeps(published: Sequence[Published]) -> dict[str, Any] | None:
    """Return the EER of methods that were published at every sparsity: a row per sparsity, a column per method."""
    swept = [other for other in published if other.derived]
    families = list(dict.fromkeys(other.family for other in swept))
    rates = {(other.sparsity, other.family): f"{100 * other.eer:.2f}" for other in swept}
    sparsities = sorted({other.sparsity for other in swept if other.sparsity is not None})
    rows = [
        Row(f"{100 * sparsity:.0f}", [Cell(rates.get((sparsity, family), UNKNOWN)) for family in families])
        for sparsity in sparsities
    ]
    sources = list_sources(published)
    numbers = sorted({sources.index(other.source) + 1 for other in swept})
    return {"families": families, "rows": rows, "numbers": numbers} if swept else None


def count(value: Any) -> str:
    """Return 94381936 as '94.38 M', which no line breaks."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            digits = 2 if value < 100 * factor else 1
            return f"{value / factor:.{digits}f}\N{NO-BREAK SPACE}{suffix}"
    return str(int(value))


def _result(results: ResultSet, index: int, metric: str) -> Cell:
    evaluation = results.evaluations.get(index)
    if evaluation is None or metric not in evaluation.metrics:
        return Cell(UNKNOWN)
    _, factor, digits = METRICS[metric]
    value = f"{factor * evaluation.metrics[metric]:.{digits}f}"
    ends = evaluation.intervals.get(metric)
    interval = f"{factor * ends.low:.{digits}f}–{factor * ends.high:.{digits}f}" if ends else ""
    found = results.differences.get(index, {}).get(metric)
    return Cell(value, interval, _difference(results, index, metric), found is not None and _is_sure(found))


def _difference(results: ResultSet, index: int, metric: str) -> tuple[str, ...]:
    found = results.differences.get(index, {}).get(metric)
    if found is None:
        return ()
    _, factor, digits = METRICS[metric]
    change = results.evaluations[index].metrics[metric] - results.evaluations[results.first].metrics[metric]
    value, low, high = (_signed(factor * part, digits) for part in (change, found.low, found.high))
    return value, f"({low}, {high})"


def _is_sure(found: Difference) -> bool:
    """Whether a difference's interval leaves 0 out."""
    return found.low > 0 or found.high < 0


def _given(value: float | None, form: str, factor: float = 1) -> str:
    return UNKNOWN if value is None else form.format(factor * value)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _describe_trials(results: ResultSet) -> list[str]:
    """How many trials there were, and what the intervals come from."""
    notes = []
    for evaluation in results.evaluations.values():
        counts = (f"{evaluation.metrics[f'n_{kind}']:,.0f} {WORDS[kind]}" for kind in evaluation.track.kinds)
        trials = f"{' and '.join(counts)} trials"
        if evaluation.resampled:
            rounds = f"{evaluation.rounds:,}"
            trials += f"; intervals: 95%, by {rounds} resamples of {evaluation.resampled}"
        notes.append(f"{trials}.")
    return list(dict.fromkeys(notes))


def _tell_state(run: Run) -> str:
    done, planned = run.epochs
    if run.is_finished or not planned:
        return ""
    return f"In progress: {done} of {planned} epochs are done." if done else f"In progress: epoch 1 of {planned}."


def _tell_size(left: Remaining | str) -> str:
    if isinstance(left, str):
        return ""
    budget = left.survivors.budget
    if budget.params == budget.dense_params:
        return f"Dense, {count(budget.params)} parameters."
    return (
        f"{float(budget.sparsity):.1%} of the parameters and {float(budget.macs_sparsity):.1%} of the "
        f"multiply-accumulates removed; {count(budget.params)} parameters are left."
    )


def _tell_results(index: int, runs: Sequence[Run], sets: Sequence[ResultSet]) -> list[str]:
    told = []
    for results in sets:
        evaluation = results.evaluations.get(index)
        if evaluation is None:
            continue
        text = f"EER on {results.name} {evaluation.metrics['eer']:.1%}"
        found = results.differences.get(index, {}).get("eer")
        if found is not None:
            first = runs[results.first].name
            change = 100 * (evaluation.metrics["eer"] - results.evaluations[results.first].metrics["eer"])
            sure = "more than chance" if _is_sure(found) else "may be chance"
            text += f", {_signed(change, 1)} points from {first} ({sure})"
        told.append(f"{text}.")
    return told


def _tell_epochs(run: Run) -> str:
    done, planned = run.epochs
    return f"{done} of {planned}" if planned else str(done)


def _tell_encoder(run: Run) -> str:
    backbone = section(run.config, "backbone")
    source = portable(str(backbone.get("source", UNKNOWN)))
    return f"{source}, fresh weights" if backbone.get("random") else source


def _tell_target(run: Run) -> str:
    pruning = section(run.config, "pruning")
    if not run.is_pruned:
        return "no pruning" if run.config else UNKNOWN
    return f"{number(pruning.get('target_sparsity')):.0%} of the {pruning.get('constraint', 'params')}"


def _middle(run: Run, name: str, form: str) -> str:
    values = run.series(name)[1]
    return form.format(median(values)) if values else UNKNOWN


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat
