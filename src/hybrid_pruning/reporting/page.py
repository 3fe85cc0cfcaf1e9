"""The page itself: runs and scores are read, figures and tables made, and one HTML file written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hybrid_pruning.console import parts, spans, visible
from hybrid_pruning.data.tracks import TRACK1
from hybrid_pruning.files import atomic_write
from hybrid_pruning.metrics import ASVSPOOF5, VERIFICATION
from hybrid_pruning.metrics.bootstrap import ROUNDS, check_rounds
from hybrid_pruning.reporting import overview as tables
from hybrid_pruning.reporting.curves import Captioned, PageSection, describe_training
from hybrid_pruning.reporting.figures import active_units, draw_kept_units
from hybrid_pruning.reporting.plots import COLOURS, colour_of, draw_det, draw_histograms, to_inline_svg
from hybrid_pruning.reporting.published import Published, draw_sizes, is_known, is_of_set, read_published
from hybrid_pruning.reporting.run_files import LoggedRun, ModelSize, count_model, read_runs
from hybrid_pruning.reporting.score_tables import ResultSet, evaluate_sets, find_scores, pair_up
from hybrid_pruning.trees import section, without_folders

Runs = Sequence[LoggedRun]
Sizes = Sequence[ModelSize | str]


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
    own = names.pop() if len(names) == 1 else ""
    corpus = published or (own if own and is_known(own) else None)
    others = read_published(corpus) if corpus else []
    pairs = pair_up(found, scores, keys)
    environment = Environment(
        loader=PackageLoader("hybrid_pruning.reporting", "."),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"parts": parts, "spans": spans}
    with atomic_write(out) as handle:  # opened first: a place that cannot be written to costs no waiting
        sets = evaluate_sets([*find_scores(found), *pairs], found, rounds)
        # all text goes through `_shown` and Jinja's escaping, figures alone are markup
        handle.write(environment.get_template("report.html.j2").render(_describe(found, sets, others)))
    return Path(out)


def _describe(runs: Runs, sets: Sequence[ResultSet], others: Sequence[Published]) -> dict[str, Any]:
    sizes = [count_model(run) for run in runs]
    return {
        "runs": runs,
        "colours": [f"var(--run-{index % len(COLOURS)})" for index in range(len(runs))],
        "summary": tables.summarise(runs, sizes, sets),
        "warnings": [(run.name, lines) for run in runs if (lines := _collect_warnings(run))],
        "comparison": [tables.compare_sizes(runs, sizes), *(tables.compare_results(runs, found) for found in sets)],
        "snapshots": tables.compare_snapshots(runs, sizes),
        "results": [(tables.name_set(found), _draw_results(runs, found, place)) for place, found in enumerate(sets)],
        "kept": _draw_kept(runs, sizes),
        "training": describe_training(runs),
        "published": _compare_published(others, runs, sizes, sets),
        "facts": tables.describe_runs(runs),
        "differing": tables.differing_settings(runs),
        "groups": [tables.list_groups(run) for run in runs],
        "versions": tables.compare_versions(runs),
    }


def _shown(value: object) -> object:
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


def _draw_results(runs: Runs, results: ResultSet, place: int) -> PageSection:
    """Return the DET curves of all runs on one set, and the histograms of each."""
    evaluations = results.evaluations
    if not evaluations:
        return PageSection(notes=results.notes)
    scores = {}
    for index, found in evaluations.items():
        positive, negative = (found.trials.of(found.track.scores, kind) for kind in found.track.kinds)
        scores[runs[index].name] = positive, negative
    llrs = all(found.track is TRACK1 for found in evaluations.values())
    det = draw_det(scores, ASVSPOOF5 if llrs else VERIFICATION[0], legend=False, places=list(evaluations))
    rates = ", ".join(f"{runs[index].name} {found.metrics['eer']:.1%}" for index, found in evaluations.items())
    svg = to_inline_svg(det, f"det-{place}", f"DET curves on {results.name}")
    caption = "Axes are normal deviates, named in percent. Circle: EER. Diamond: minDCF. Down and left is better."
    figures = [Captioned(f"Errors traded off; where both are equal: {rates}", svg, caption, tuple(evaluations))]
    if llrs:  # cosines have no threshold that means anything
        accepted = []
        for name, pair in scores.items():
            bonafide, spoof = (float((np.asarray(part) >= ASVSPOOF5.threshold).mean()) for part in pair)
            accepted.append(f"{name} {bonafide:.0%} and {spoof:.0%}")
        histograms = draw_histograms(scores, ASVSPOOF5.threshold)
        svg = to_inline_svg(histograms, f"scores-{place}", f"Histograms of scores on {results.name}")
        title = f"Accepted at the threshold, bona fide and spoofed: {', '.join(accepted)}"
        caption = "The threshold is that of actDCF, for scores that are log-likelihood ratios."
        figures.append(Captioned(title, svg, caption, classes=True))
    return PageSection(figures)


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


def _compare_published(
    others: Sequence[Published], runs: Runs, sizes: Sizes, sets: Sequence[ResultSet]
) -> list[dict[str, Any]]:
    """Return published systems beside our runs, evaluation set by evaluation set."""
    found = []
    for place, name in enumerate(dict.fromkeys(other.set for other in others)):
        chosen = [other for other in others if other.set == name]
        results = next((results for results in sets if is_of_set(chosen[0], results.name)), None)
        ours = tables.find_ours(runs, sizes, results) if results else []
        title = "Our runs among published systems: EER over size" if ours else "Smaller systems make more errors"
        figure = draw_sizes(chosen, [run for run, _, _ in ours])
        svg = to_inline_svg(figure, f"published-{place}", f"EER over parameters, {name}")
        caption = "Both axes are logarithmic. Stars: measured here. Systems of unknown size are in the table alone."
        compared = {
            "set": results.name if results and ours else "",
            "theirs": name,
            "table": tables.list_published(chosen, ours),
            "ours": [run.system for run, _, _ in ours],
            "sweep": tables.compare_sweeps(chosen),
            "sources": tables.list_sources(chosen),
            "figure": Captioned(title, svg, caption),
        }
        found.append(compared)
    return found
