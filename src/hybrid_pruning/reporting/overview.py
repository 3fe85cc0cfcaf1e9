"""The tables of a report: runs side by side in size, metrics and recipe, and beside published systems."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from hybrid_pruning.console import Cell, Table
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, evaluate
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting.published import Ours, Published
from hybrid_pruning.reporting.run_files import LoggedRun, ModelSize
from hybrid_pruning.reporting.score_tables import DEV, ResultSet
from hybrid_pruning.training.runs import snapshot_name
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
"""Metric -> its title, its factor in a table, and its decimals."""
MIN_DCFS = {"min_dcf", "min_dcf_0.01"}
"""Of anti-spoofing, and of speaker verification, where the usual P(target) is 0.01."""
WORDS = {"bonafide": "bona fide", "spoof": "spoof", "target": "target", "nontarget": "nontarget"}
Runs = Sequence[LoggedRun]
Sizes = Sequence[ModelSize | str]
"""Of the runs' models, or why one is not known."""
Measured = tuple[Ours, ModelSize, Evaluation]
"""One of our runs on an evaluation set, with the size of its model."""


def compare_sizes(runs: Runs, sizes: Sizes) -> Table:
    """Return the sizes of the runs' models."""
    figures: dict[str, Callable[[ModelSize], str]] = {
        "backbone parameters": lambda size: count(size.budget.params),
        "removed, %": lambda size: f"{100 * float(size.budget.sparsity):.1f}",
        f"backbone MACs, {SECONDS:g} s": lambda size: count(size.budget.macs),
        "MACs removed, %": lambda size: f"{100 * float(size.budget.macs_sparsity):.1f}",
        "head parameters": lambda size: count(size.head_params),
    }
    rows = {title: [None if isinstance(size, str) else show(size) for size in sizes] for title, show in figures.items()}
    return _side_by_side(runs, rows, "Size")


def compare_results(runs: Runs, results: ResultSet) -> Table:
    """Return the metrics of all runs on one evaluation set, with their intervals and differences."""
    there = [name for name in METRICS if any(name in found.metrics for found in results.evaluations.values())]
    rows = {METRICS[name][0]: [_result(results, index, name) for index in range(len(runs))] for name in there}
    notes = []
    for evaluation in results.evaluations.values():
        counts = (f"{evaluation.metrics[f'n_{kind}']:,.0f} {WORDS[kind]}" for kind in evaluation.track.kinds)
        trials = f"{' and '.join(counts)} trials"
        if evaluation.resampled:
            trials += f"; intervals: 95%, by {evaluation.rounds:,} resamples of {evaluation.resampled}"
        notes.append(f"{trials}.")
    return _side_by_side(runs, rows, name_set(results), "\n".join([*results.notes, *dict.fromkeys(notes)]))


def name_set(results: ResultSet) -> str:
    """Return the evaluation set's name for a title."""
    return "dev, after the last validation" if results.name == DEV else results.name


def summarise(runs: Runs, sizes: Sizes, sets: Sequence[ResultSet]) -> list[str]:
    """Return the results of the report, a sentence or two per run."""
    summaries = []
    for index, (run, size) in enumerate(zip(runs, sizes, strict=True)):
        parts = []
        done, planned = run.epochs
        if planned and not run.is_finished:
            progress = f"{done} of {planned} epochs are done" if done else f"epoch 1 of {planned}"
            parts.append(f"In progress: {progress}.")
        if not isinstance(size, str) and size.budget.params == size.budget.dense_params:
            parts.append(f"Dense, {count(size.budget.params)} parameters.")
        elif not isinstance(size, str):
            parts.append(
                f"{float(size.budget.sparsity):.1%} of the parameters and {float(size.budget.macs_sparsity):.1%} of "
                f"the multiply-accumulates removed; {count(size.budget.params)} parameters are kept."
            )
        parts += [_summarise_errors(runs, results, index) for results in sets if index in results.evaluations]
        summaries.append(" ".join(parts))
    return summaries


def compare_snapshots(runs: Runs, sizes: Sizes) -> list[tuple[int, Table]]:
    """Return a table of the models of each run that has left snapshots, its last model included when finished."""
    tables = []
    for index, (run, size) in enumerate(zip(runs, sizes, strict=True)):
        if not run.log.snapshots:
            continue
        figures = {str(snapshot.get("name")): snapshot for snapshot in run.log.snapshots}
        folders = {name: run.files.evaluation / name for name in figures}
        if run.is_finished:
            last = snapshot_name(number(section(run.config, "pruning").get("target_sparsity")))
            figures[last] = section(run.log.validations[-1], "dev")
            folders[last] = run.files.evaluation
        rates = {name: dict(_rates(run, figures[name], folder)) for name, folder in folders.items()}
        sets = list(dict.fromkeys(name for found in rates.values() for name in found))
        dense = 0 if isinstance(size, str) else size.budget.dense_params
        rows = []
        for name, found in rates.items():
            params, macs = (number(figures[name].get(part)) for part in ("sparsity", "macs_sparsity"))
            kept = count(round(dense * (1 - params))) if dense else UNKNOWN
            cells = (f"{100 * found[one]:.2f}" if one in found else UNKNOWN for one in sets)
            rows.append((name, kept, f"{100 * params:.1f}", f"{100 * macs:.1f}", *cells))
        headings = ("model", "parameters", "removed, %", "MACs removed, %", *(f"EER on {name}, %" for name in sets))
        tables.append((index, Table(headings, rows)))
    return tables


def describe_runs(runs: Runs) -> Table:
    """Return origin, length and throughput of the trainings."""
    rows: dict[str, Callable[[LoggedRun], str]] = {
        "epochs": lambda run: " of ".join(map(str, run.epochs)) if run.epochs[1] else str(run.epochs[0]),
        "steps": lambda run: f"{number(run.log.steps[-1].get('step')):,.0f}" if run.log.steps else UNKNOWN,
        "encoder": _describe_encoder,
        "target": _describe_target,
        "seed": lambda run: str(run.config.get("seed", UNKNOWN)),
        "audio per second": lambda run: _middle(run, "audio_seconds_per_second", "{:.0f} s"),
        "padding": lambda run: _middle(run, "padding", "{:.1%}"),
        "files left out": lambda run: f"{number(run.log.skipped.get('files')):,.0f}" if run.log.skipped else "none",
    }
    return _side_by_side(runs, {title: [describe(run) for run in runs] for title, describe in rows.items()})


def list_groups(run: LoggedRun) -> Table:
    """Return the parameter groups of a training's optimisers."""
    rows = []
    for group in run.log.groups:
        if isinstance(group, Mapping):
            params, *rates = (number(group.get(name)) for name in ("parameters", "peak_learning_rate", "weight_decay"))
            rows.append((str(group.get("name", UNKNOWN)), f"{params:,.0f}", *(f"{rate:g}" for rate in rates)))
    return Table(("group", "parameters", "peak learning rate", "weight decay"), rows)


def differing_settings(runs: Runs) -> Table:
    """Return the settings that are not the same in all runs."""
    flat = [dict(_flatten(run.config)) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    found = {name: [settings.get(name) for settings in flat] for name in names}
    return _side_by_side(runs, {name: values for name, values in found.items() if len(set(values)) > 1})


def compare_versions(runs: Runs) -> Table:
    """Return the versions of Python and of the libraries, run by run."""
    names = dict.fromkeys(name for run in runs for name in run.versions)
    return _side_by_side(runs, {name: [run.versions.get(name) for run in runs] for name in names})


def find_ours(runs: Runs, sizes: Sizes, results: ResultSet) -> list[Measured]:
    """Return our runs on an evaluation set that others have published results for, the largest first."""
    found = []
    for index, evaluation in results.evaluations.items():
        size = sizes[index]
        if not isinstance(size, str):
            params = (int(size.budget.params) + size.head_params) / 1e6
            found.append((Ours(runs[index].name, index, params, evaluation.metrics["eer"]), size, evaluation))
    return sorted(found, key=lambda entry: -entry[0].params_m)


def list_published(published: Sequence[Published], ours: Sequence[Measured]) -> Table:
    """Return our runs, then the others as their sources have them."""
    sources = list_sources(published)
    rows: list[tuple[str, ...]] = []
    for run, size, evaluation in ours:
        min_dcf = evaluation.metrics[min(set(evaluation.metrics) & MIN_DCFS)]
        removed, macs = 100 * float(size.budget.sparsity), int(size.budget.macs) / 1e9
        figures = (f"{removed:.0f}", f"{run.params_m:.1f}", f"{macs:.1f}", f"{100 * run.eer:.2f}", f"{min_dcf:.3f}")
        rows.append((run.name, *figures, "measured here"))
    for other in published:
        if not other.derived:
            gone = None if other.sparsity is None else 100 * other.sparsity
            known = (gone, ".0f"), (other.params_m, ".1f"), (other.flops_g, ".1f"), (100 * other.eer, ".2f")
            cells = [
                UNKNOWN if value is None else f"{value:{form}}" for value, form in (*known, (other.min_dcf, ".3f"))
            ]
            rows.append((other.system, *cells, f"[{sources.index(other.source) + 1}]"))
    return Table(("system", "removed, %", "parameters, M", "G for 4 s", "EER, %", "minDCF", "source"), rows)


def list_sources(published: Sequence[Published]) -> list[str]:
    """Return the sources of published figures, in the order of their numbers."""
    return list(dict.fromkeys(other.source for other in published))


def compare_sweeps(published: Sequence[Published]) -> Table | None:
    """Return the EER of methods that were published at every sparsity: a row per sparsity, a column per method."""
    swept = [other for other in published if other.derived]
    if not swept:
        return None
    methods = list(dict.fromkeys(other.family for other in swept))
    rates = {(other.sparsity, other.family): f"{100 * other.eer:.2f}" for other in swept}
    sparsities = sorted({other.sparsity for other in swept if other.sparsity is not None})
    rows = [[f"{100 * part:.0f}", *(rates.get((part, method), UNKNOWN) for method in methods)] for part in sparsities]
    numbers = sorted({list_sources(published).index(other.source) + 1 for other in swept})
    title = f"Published EER, %, at every sparsity [{', '.join(map(str, numbers))}]"
    return Table(("removed, %", *methods), rows, title)


def count(value: Any) -> str:
    """Return 94381936 as '94.38 M', which no line breaks."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            digits = 2 if value < 100 * factor else 1
            return f"{value / factor:.{digits}f}\N{NO-BREAK SPACE}{suffix}"
    return str(int(value))


def _side_by_side(
    runs: Runs, rows: Mapping[str, Sequence[str | Cell | None]], title: str = "", note: str = ""
) -> Table:
    """Return a table with a column per run."""
    lines = [(name, *(UNKNOWN if cell is None else cell for cell in cells)) for name, cells in rows.items()]
    return Table(("", *(run.name for run in runs)), lines, title, note)


def _result(results: ResultSet, index: int, metric: str) -> Cell | None:
    evaluation = results.evaluations.get(index)
    if evaluation is None or metric not in evaluation.metrics:
        return None
    _, factor, digits = METRICS[metric]
    value = f"{factor * evaluation.metrics[metric]:.{digits}f}"
    ends = evaluation.intervals.get(metric)
    interval = f"{factor * ends.low:.{digits}f}–{factor * ends.high:.{digits}f}" if ends else ""
    found = results.differences.get(index, {}).get(metric)
    if found is None:
        return Cell(value, interval)
    change = evaluation.metrics[metric] - results.evaluations[results.first].metrics[metric]
    shown, low, high = (_signed(factor * part, digits) for part in (change, found.low, found.high))
    difference = f"{shown} ({low},\N{NO-BREAK SPACE}{high})"
    return Cell(value, interval, (difference, "bold") if found.low > 0 or found.high < 0 else difference)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _summarise_errors(runs: Runs, results: ResultSet, index: int) -> str:
    """Return a run's EER on one evaluation set, and its difference from the set's first run."""
    rate = results.evaluations[index].metrics["eer"]
    text = f"EER on {results.name} {rate:.1%}"
    found = results.differences.get(index, {}).get("eer")
    if found is not None:
        change = 100 * (rate - results.evaluations[results.first].metrics["eer"])
        sure = "more than chance" if found.low > 0 or found.high < 0 else "may be chance"
        text += f", {_signed(change, 1)} points from {runs[results.first].name} ({sure})"
    return f"{text}."


def _rates(run: LoggedRun, figures: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, float]]:
    """Yield EERs by evaluation set: of the validation during training, and of the scores in a folder."""
    yield DEV, number(figures.get("eer"))
    for path in sorted(folder.glob("*.tsv")):
        try:
            yield path.stem, evaluate(path, path, run.track).metrics["eer"]
        except InputError:  # the page states it of the run's own scores
            continue


def _describe_encoder(run: LoggedRun) -> str:
    backbone = section(run.config, "backbone")
    source = portable(str(backbone.get("source", UNKNOWN)))
    return f"{source}, fresh weights" if backbone.get("random") else source


def _describe_target(run: LoggedRun) -> str:
    pruning = section(run.config, "pruning")
    if not run.is_pruned:
        return "no pruning" if run.config else UNKNOWN
    return f"{number(pruning.get('target_sparsity')):.0%} of the {pruning.get('constraint', 'params')}"


def _middle(run: LoggedRun, name: str, form: str) -> str:
    values = run.series(name)[1]
    return form.format(median(values)) if values else UNKNOWN


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
