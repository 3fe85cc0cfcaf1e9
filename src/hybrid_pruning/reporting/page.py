"""The page itself: runs and scores are read, figures and tables made, and one HTML file written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hybrid_pruning.console import visible
from hybrid_pruning.data.tracks import TRACK1
from hybrid_pruning.evaluation import Evaluation
from hybrid_pruning.files import atomic_write
from hybrid_pruning.metrics import ASVSPOOF5, VERIFICATION
from hybrid_pruning.metrics.bootstrap import ROUNDS, check_rounds
from hybrid_pruning.reporting import overview as tables
from hybrid_pruning.reporting.curves import Card, Section, describe_training
from hybrid_pruning.reporting.family import describe_families
from hybrid_pruning.reporting.figures import colour_of, draw_histograms
from hybrid_pruning.reporting.inline import to_inline_svg
from hybrid_pruning.reporting.picture import draw_survivors
from hybrid_pruning.reporting.plots import COLOURS, Scores, draw_det
from hybrid_pruning.reporting.published import Published, draw_sizes, is_known, is_of_set, read_published
from hybrid_pruning.reporting.remaining import Remaining, find_remaining
from hybrid_pruning.reporting.run_files import Run, read_runs
from hybrid_pruning.reporting.score_tables import ResultSet, find_scored, judge, pair_up
from hybrid_pruning.trees import section, without_folders

__all__ = ["ROUNDS", "write_report"]

TEMPLATE = "report.html.j2"


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    scores: Sequence[str] = (),
    keys: Sequence[Path] = (),
    published: str | None = None,
    rounds: int = ROUNDS,
) -> Path:
    """Write one self-contained HTML page on one or more runs; the same input gives the same bytes.

    Args:
        folders: of the runs, finished or not; the first is the one that the others are compared with.
        out: the page.
        scores: score files of further evaluation sets, `NAME=FILE` or in the runs' order.
        keys: a key file for each score file, or one for all.
        published: a corpus whose published systems stand beside the runs; by default the recipe's own.
        rounds: of resampling for the confidence intervals; 0 for none.

    Raises:
        InputError: a folder that is no run, score and key files that do not fit, an unknown corpus, too few rounds, or
            a place that cannot be written to.
    """
    if rounds:
        check_rounds(rounds)
    runs = read_runs(folders)
    corpus = published or _corpus(runs)
    others = read_published(corpus) if corpus else []
    pairs = pair_up(runs, scores, keys)
    with atomic_write(out) as handle:  # opened first: a place that cannot be written to costs no waiting
        sets = judge([*find_scored(runs), *pairs], runs, rounds)
        handle.write(_render(_describe(runs, sets, others)))
    return Path(out)


def _describe(runs: Sequence[Run], sets: Sequence[ResultSet], others: Sequence[Published]) -> dict[str, Any]:
    """Return all that the template shows."""
    remaining = [find_remaining(run) for run in runs]
    return {
        "runs": runs,
        "colours": [f"var(--run-{index % len(COLOURS)})" for index in range(len(runs))],
        "summary": tables.summarise(runs, remaining, sets),
        "warnings": _collect_warnings(runs),
        "groups": [tables.compare_sizes(remaining), *(tables.compare_results(results, runs) for results in sets)],
        "families": describe_families(runs, remaining),
        "results": [_draw_results(results, runs, place) for place, results in enumerate(sets)],
        "left": _draw_remaining(runs, remaining),
        "training": describe_training(runs),
        "published": _compare_published(others, runs, remaining, sets),
        "facts": tables.describe_runs(runs),
        "differing": tables.differing_settings(runs) if len(runs) > 1 else [],
        "optimised": [tables.list_groups(run) for run in runs],
        "versions": tables.compare_versions(runs),
    }


def _render(page: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("hybrid_pruning.reporting", "."),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(page)


def _shown(value: object) -> object:
    """Return text of a page without control characters other than line breaks; markup, and what is no text, stays."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(visible, value.splitlines()))


def _corpus(runs: Sequence[Run]) -> str | None:
    """Return the corpus of the runs' recipes, where it is one that others have published results for."""
    names = {str(section(run.config, "corpus").get("name", "")) for run in runs}
    name = names.pop() if len(names) == 1 else ""
    return name if name and is_known(name) else None


def _collect_warnings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return, run by run, what its checks warned of, which files it left out, and what is missing of it."""
    found = []
    for index, run in enumerate(runs):
        lines = list(run.log.warnings)
        if run.log.skipped:
            first = run.log.skipped.get("first") or []
            lines.append(f"{run.log.skipped.get('files')} training files could not be read and were left out:")
            lines += [str(message) for message in first]
        lines += run.missing
        if lines:
            found.append({"run": index, "lines": list(map(without_folders, lines))})
    return found


def _draw_results(results: ResultSet, runs: Sequence[Run], place: int) -> dict[str, Any]:
    """Return the DET curves of all runs on one set, and each run's histogram."""
    scores = {index: _two_classes(evaluation) for index, evaluation in results.evaluations.items()}
    llrs = all(evaluation.track is TRACK1 for evaluation in results.evaluations.values())
    cards = []
    if scores:
        named = {runs[index].name: pair for index, pair in scores.items()}
        det = draw_det(named, ASVSPOOF5 if llrs else VERIFICATION[0], legend=False, places=list(scores))
        rates = ", ".join(f"{runs[i].name} {e.metrics['eer']:.1%}" for i, e in results.evaluations.items())
        cards.append(
            Card(
                f"Errors traded off; where both are equal: {rates}",
                to_inline_svg(det, f"det-{place}", f"DET curves on {results.name}"),
                "Axes are normal deviates, named in percent. Circle: EER. Diamond: minDCF. Down and left is better.",
                tuple(scores),
            )
        )
    if scores and llrs:  # cosines have no threshold that means anything
        histograms = draw_histograms(named, ASVSPOOF5.threshold)
        cards.append(
            Card(
                f"Accepted at the threshold, bona fide and spoofed: {_tell_accepted(named)}",
                to_inline_svg(histograms, f"scores-{place}", f"Histograms of scores on {results.name}"),
                "The threshold is that of actDCF, for scores that are log-likelihood ratios.",
                classes=True,
            )
        )
    return {"title": tables.name_set(results), "cards": cards, "notes": results.notes}


def _two_classes(evaluation: Evaluation) -> Scores:
    """Return the scores of the class that is to be accepted, and of the other."""
    positive, negative = (evaluation.trials.of(evaluation.track.scores, kind) for kind in evaluation.track.kinds)
    return positive, negative


def _tell_accepted(systems: Mapping[str, Scores]) -> str:
    told = []
    for name, pair in systems.items():
        bonafide, spoof = (float((np.asarray(part) >= ASVSPOOF5.threshold).mean()) for part in pair)
        told.append(f"{name} {bonafide:.0%} and {spoof:.0%}")
    return ", ".join(told)


def _draw_remaining(runs: Sequence[Run], remaining: Sequence[Remaining | str]) -> Section:
    cards, notes = [], []
    for index, (run, left) in enumerate(zip(runs, remaining, strict=True)):
        if isinstance(left, str):
            notes.append(f"{run.name}: {left}")
            continue
        figure = draw_survivors(left.survivors, colour_of(index))
        cards.append(
            Card(
                _tell_remaining(run, left),
                to_inline_svg(figure, f"left-{index}", f"What is left of {run.name}"),
                f"Filled: left. Pale: gone. {left.basis}",
            )
        )
    return Section(cards, notes)


def _tell_remaining(run: Run, left: Remaining) -> str:
    """Say which kinds of units lost most."""
    kept, sizes = left.survivors.kept, left.survivors.sizes
    if dict(kept) == dict(sizes):
        return f"{run.name}: everything is left"
    words = {"conv": "channels", "head": "heads", "interm": "FFN neurons"}
    parts = []
    for unit, word in words.items():
        names = [name for name in sizes if name.startswith(f"{unit}.")]
        total = sum(sizes[name] for name in names)
        if total:
            parts.append(f"{sum(_effective(kept, name) for name in names) / total:.0%} of the {word}")
    return f"{run.name}: {', '.join(parts)} are left"


def _effective(kept: Any, name: str) -> int:
    """Units that are left, none where their whole sub-layer is closed."""
    unit, _, layer = name.partition(".")
    sublayer = {"head": "attlayer", "interm": "ffnlayer"}.get(unit)
    return int(kept[name] if sublayer is None or kept.get(f"{sublayer}.{layer}", 1) else 0)


def _compare_published(
    others: Sequence[Published],
    runs: Sequence[Run],
    remaining: Sequence[Remaining | str],
    sets: Sequence[ResultSet],
) -> list[dict[str, Any]]:
    """Return the published systems beside our runs, evaluation set by evaluation set; none where none are wanted."""
    found = []
    for place, name in enumerate(dict.fromkeys(other.set for other in others)):
        chosen = [other for other in others if other.set == name]
        results = next((results for results in sets if is_of_set(chosen[0], results.name)), None)
        ours = tables.find_ours(runs, remaining, results) if results else []
        found.append(_compare_set(place, chosen, ours, results.name if results and ours else ""))
    return found


def _compare_set(place: int, others: Sequence[Published], ours: Sequence[tables.Measured], name: str) -> dict[str, Any]:
    """Return the published systems of one evaluation set, and ours on what the runs call by a name."""
    figure = draw_sizes(others, [run for run, _, _ in ours])
    return {
        "set": name,
        "theirs": others[0].set,
        "rows": tables.list_published(others, ours),
        "sweep": tables.compare_sweeps(others),
        "sources": tables.list_sources(others),
        "card": Card(
            "Smaller systems make more errors" if not ours else "Our runs among published systems: EER over size",
            to_inline_svg(figure, f"published-{place}", f"EER over parameters, {others[0].set}"),
            "Both axes are logarithmic. Stars: measured here. Systems of unknown size are in the table alone.",
        ),
    }
