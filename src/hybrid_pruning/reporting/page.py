"""The page itself: runs and scores are read, figures and tables made, and one HTML file written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hybrid_pruning.console import Cell, Table, parts, spans, visible
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import evaluate, pool
from hybrid_pruning.files import atomic_write
from hybrid_pruning.metrics.bootstrap import ROUNDS, check_rounds
from hybrid_pruning.models.size import SECONDS
from hybrid_pruning.reporting import score_tables
from hybrid_pruning.reporting.curves import describe_training
from hybrid_pruning.reporting.inspection import active_units, draw_kept_units
from hybrid_pruning.reporting.plots import COLOURS, Captioned, PageSection, colour_of, to_inline_svg
from hybrid_pruning.reporting.published import UNKNOWN, compare_published, read_published
from hybrid_pruning.reporting.run_files import LoggedRun, ModelSize, Runs, count, count_model, read_runs
from hybrid_pruning.reporting.score_tables import DEV, ResultSet
from hybrid_pruning.training.runs import snapshot_name
from hybrid_pruning.trees import number, portable, section, without_folders

Sizes = Sequence[ModelSize | str]
"""Of the runs' models, or why one is not known."""


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    scores: Sequence[str] = (),
    keys: Sequence[Path] = (),
    published: str | None = None,
    rounds: int = ROUNDS,
) -> Path:
    """Write one self-contained HTML page on one or more runs, and return it; the same input gives the same bytes.

    Args:
        runs: folders of trainings, finished or not; the first is the one that the others are compared with.
        out: the page.
        scores: score files of further evaluation sets, `NAME=FILE` or in the runs' order.
        keys: a key file for each score file, or one for all.
        published: a corpus whose published systems stand beside the runs; by default the recipe's own.
        rounds: of resampling for the confidence intervals; 0 for none.
    """
    if rounds:
        check_rounds(rounds)
    found = read_runs(runs)
    names = {str(section(run.config, "corpus").get("name", "")) for run in found}
    others = read_published(published or (names.pop() if len(names) == 1 else ""), not published)
    pairs = score_tables.pair_up(found, scores, keys)
    environment = Environment(
        loader=PackageLoader("hybrid_pruning.reporting", "."),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_escape_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"parts": parts, "spans": spans}
    with atomic_write(out) as handle:  # opened first: a place that cannot be written to costs no waiting
        sets = score_tables.evaluate_sets([*score_tables.find_scores(found), *pairs], found, rounds)
        sizes = [count_model(run) for run in found]
        content = {
            "runs": found,
            "colours": [f"var(--run-{index % len(COLOURS)})" for index in range(len(found))],
            "summary": [summarise(run, sizes[index], sets, found, index) for index, run in enumerate(found)],
            "warnings": [(run.name, lines) for run in found if (lines := _collect_warnings(run))],
            "comparison": [
                compare_sizes(found, sizes),
                *(_side_by_side(found, score_tables.tabulate(one, found), one.title, one.describe()) for one in sets),
                *compare_over_sets(found, sets),
            ],
            "snapshots": compare_snapshots(found, sizes),
            "results": [(one.title, score_tables.draw_results(one, found, place)) for place, one in enumerate(sets)],
            "kept": _draw_kept(found, sizes),
            "training": describe_training(found),
            "published": compare_published(others, found, sizes, sets),
            "facts": describe_runs(found),
            "differing": _compare(found, [dict(_flatten(run.config)) for run in found], differing=True),
            "groups": [list_groups(run) for run in found],
            "versions": _compare(found, [run.versions for run in found]),
        }
        # all text goes through `_escape_controls` and Jinja's escaping, figures alone are markup
        handle.write(environment.get_template("report.html.j2").render(content))
    return Path(out)


def summarise(run: LoggedRun, size: ModelSize | str, sets: Sequence[ResultSet], runs: Runs, index: int) -> str:
    """Return the results of a run, a sentence or two."""
    sentences = []
    done, planned = run.epochs
    if planned and not run.is_finished:
        progress = f"{done} of {planned} epochs are done" if done else f"epoch 1 of {planned}"
        sentences.append(f"In progress: {progress}.")
    if not isinstance(size, str):
        budget = size.units.budget
        if budget.params == budget.dense_params:
            sentences.append(f"Dense, {count(budget.params)} parameters.")
        else:
            sentences.append(
                f"{float(budget.sparsity):.1%} of the parameters and {float(budget.macs_sparsity):.1%} of "
                f"the multiply-accumulates removed; {count(budget.params)} parameters are kept."
            )
    sentences += [results.summarise(runs, index) for results in sets if index in results.evaluations]
    return " ".join(sentences)


def compare_sizes(runs: Runs, sizes: Sizes) -> Table:
    """Return the sizes of the runs' models."""
    figures: dict[str, Callable[[ModelSize], str]] = {
        "backbone parameters": lambda size: count(size.units.budget.params),
        "removed, %": lambda size: f"{100 * float(size.units.budget.sparsity):.1f}",
        f"backbone MACs, {SECONDS:g} s": lambda size: count(size.units.budget.macs),
        "MACs removed, %": lambda size: f"{100 * float(size.units.budget.macs_sparsity):.1f}",
        "head parameters": lambda size: count(size.head_params),
    }
    rows = {title: [None if isinstance(size, str) else show(size) for size in sizes] for title, show in figures.items()}
    return _side_by_side(runs, rows, "Size")


def compare_over_sets(runs: Runs, sets: Sequence[ResultSet]) -> list[Table]:
    """Return mean and pooled EER over the evaluation sets, if they are two, of the runs that have all of them."""
    shared = [results for results in sets if results.name != DEV]
    scored = [index for index in range(len(runs)) if all(index in results.evaluations for results in shared)]
    if len(shared) < 2 or not scored:
        return []
    found = {index: pool([results.evaluations[index] for results in shared]) for index in scored}
    titles = {"mean_eer": "EER, mean, %", "pooled_eer": "EER, all scores, %"}
    rows: dict[str, list[str | Cell | None]] = {
        title: [f"{100 * found[index][name]:.2f}" if index in found else None for index in range(len(runs))]
        for name, title in titles.items()
    }
    return [_side_by_side(runs, rows, f"over {', '.join(results.name for results in shared)}")]


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
        dense = 0 if isinstance(size, str) else size.units.budget.dense_params
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


def _compare(runs: Runs, found: Sequence[Mapping[str, str]], differing: bool = False) -> Table:
    """Return values of the runs by name, or of these the ones that are not the same in all."""
    rows = {name: [its.get(name) for its in found] for name in dict.fromkeys(name for its in found for name in its)}
    return _side_by_side(runs, {name: row for name, row in rows.items() if not differing or len(set(row)) > 1})


def _escape_controls(value: object) -> object:
    """Return text of a page without control characters other than line breaks; markup, and no text, unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(visible, value.splitlines()))


def _collect_warnings(run: LoggedRun) -> list[str]:
    """Return the warnings of a run's checks, the files it left out, and the parts of it that are missing."""
    lines = list(run.log.warnings)
    if run.log.skipped:
        lines.append(f"{run.log.skipped.get('files')} training files could not be read and were left out:")
        lines += [str(message) for message in run.log.skipped.get("first") or []]
    return [without_folders(line) for line in (*lines, *run.missing)]


def _draw_kept(runs: Runs, sizes: Sizes) -> PageSection:
    """Return a picture of each run's kept units, its title with the kinds of units that lost most."""
    figures, notes = [], []
    for index, (run, size) in enumerate(zip(runs, sizes, strict=True)):
        if isinstance(size, str):
            notes.append(f"{run.name}: {size}")
            continue
        units, shares = size.units, []
        for unit, word in {"conv": "channels", "head": "heads", "interm": "FFN neurons"}.items():
            names = [name for name in units.sizes if name.startswith(f"{unit}.")]
            if total := sum(units.sizes[name] for name in names):
                shares.append(f"{sum(active_units(units, name) for name in names) / total:.0%} of the {word}")
        kept = "everything is kept" if units.kept == units.sizes else f"{', '.join(shares)} are kept"
        svg = to_inline_svg(draw_kept_units(units, colour_of(index)), f"kept-{index}", f"Kept units of {run.name}")
        figures.append(Captioned(f"{run.name}: {kept}", svg, f"Filled: kept. Pale: removed. {size.basis}"))
    return PageSection(figures, notes)


def _side_by_side(
    runs: Runs, rows: Mapping[str, Sequence[str | Cell | None]], title: str = "", note: str = ""
) -> Table:
    """Return a table with a column per run."""
    lines = [(name, *(UNKNOWN if cell is None else cell for cell in cells)) for name, cells in rows.items()]
    return Table(("", *(run.name for run in runs)), lines, title, note)


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
    if not pruning.get("use_pruning_loss") and not run.is_pruned:
        return "no pruning" if run.config else UNKNOWN
    target = f"{number(pruning.get('target_sparsity')):.0%} of the {pruning.get('constraint', 'params')}"
    return target if run.is_pruned else f"{target}, cut before training by {pruning.get('method')}"


def _middle(run: LoggedRun, name: str, form: str) -> str:
    values = run.series(name)[1]
    return form.format(median(values)) if values else UNKNOWN


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
