"""The scores of the runs: each evaluation set with the metrics, intervals, differences and curves of all runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hybrid_pruning.console import Cell
from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, evaluate, operating_point
from hybrid_pruning.metrics import ASVSPOOF5
from hybrid_pruning.metrics.bootstrap import Difference
from hybrid_pruning.reporting.plots import Captioned, PageSection, draw_det, draw_histograms, to_inline_svg
from hybrid_pruning.reporting.run_files import LoggedRun, Runs
from hybrid_pruning.trees import section

DEV = "dev"
UNCALIBRATED = "uncalibrated.txt"
"""Beside the score files: the reason why the model that made them could not be calibrated."""
METRICS: Mapping[str, tuple[str, float, int]] = {
    "eer": ("EER, %", 100, 2),
    "min_dcf": ("minDCF", 1, 3),
    "min_dcf_0.01": ("minDCF, P(target) 0.01", 1, 3),
    "min_dcf_0.05": ("minDCF, P(target) 0.05", 1, 3),
    "act_dcf": ("actDCF", 1, 3),
    "cllr": ("Cllr, bits", 1, 3),
}
"""Metric -> its title, its factor in a table, and its decimals."""
WORDS = {"bonafide": "bona fide", "spoof": "spoof", "target": "target", "nontarget": "nontarget"}


@dataclass(frozen=True, slots=True)
class RunScores:
    """A score file of one run on the set `name`.

    Args:
        keys: key files of its trials, the first that fits; the score file itself where it has the labels.
        named: by the user: then a fault is an error, otherwise a note on the page.
        speakers: manifest with the speakers of verification trials, where it is known and there.
    """

    name: str
    run: int
    scores: Path
    keys: tuple[Path, ...]
    named: bool = False
    speakers: Path | None = None


@dataclass(slots=True)
class ResultSet:
    """All runs on one evaluation set, by their index; differences are those from its first run, on the same trials."""

    name: str
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    differences: dict[int, Mapping[str, Difference]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The run that the others are compared with."""
        return next(iter(self.evaluations))

    @property
    def title(self) -> str:
        """The set's name for a title."""
        return "dev, after the last validation" if self.name == DEV else self.name

    def change(self, run: int, metric: str) -> float:
        """Return the difference of a run's metric from the first run's."""
        return self.evaluations[run].metrics[metric] - self.evaluations[self.first].metrics[metric]

    def describe(self) -> str:
        """Return the numbers of trials, how their intervals were found, and all notes."""
        lines = []
        for evaluation in self.evaluations.values():
            counts = (f"{evaluation.metrics[f'n_{kind}']:,.0f} {WORDS[kind]}" for kind in evaluation.track.kinds)
            by = f"; intervals: 95%, by {evaluation.rounds or 0:,} resamples of {evaluation.resampled}"
            lines.append(f"{' and '.join(counts)} trials{by if evaluation.resampled else ''}.")
        return "\n".join([*self.notes, *dict.fromkeys(lines)])

    def summarise(self, runs: Runs, index: int) -> str:
        """Return a run's EER, and its difference from the set's first run."""
        text = f"EER on {self.name} {self.evaluations[index].metrics['eer']:.1%}"
        if (found := self.differences.get(index, {}).get("eer")) is not None:
            sure = "more than chance" if found.low > 0 or found.high < 0 else "may be chance"
            text += f", {signed(100 * self.change(index, 'eer'), 1)} points from {runs[self.first].name} ({sure})"
        return f"{text}."


def find_scores(runs: Runs) -> list[RunScores]:
    """Return the score files in the runs' folders: of the dev set, and below evaluation/."""
    found = []
    for index, run in enumerate(runs):
        data = section(run.config, "data")
        manifests = {**section(data, "eval"), DEV: data.get(DEV)} if run.track is SV else {}
        if (path := run.files.dev_scores).exists():
            known = _file(data.get(DEV) if run.track is TRACK1 else section(data, "trials").get(DEV))
            keys = (known, path) if known else (path,)
            found.append(RunScores(DEV, index, path, keys, speakers=_file(manifests.get(DEV))))
        for path in sorted(run.files.evaluation.glob("*.tsv")):
            found.append(RunScores(path.stem, index, path, (path,), speakers=_file(manifests.get(path.stem))))
    return found


def pair_up(runs: Runs, scores: Sequence[str], keys: Sequence[Path]) -> list[RunScores]:
    """Give each score file its keys, its own or one for all, and its run: `NAME=FILE`, or in the runs' order."""
    if len(keys) == 1:
        keys = list(keys) * len(scores)
    if len(keys) != len(scores):
        raise InputError(
            f"report: {len(scores)} --scores and {len(keys)} --keys; give keys for each score file, or one for all"
        )
    stems = {key: key.stem for key in keys}
    again = {stem for stem in stems.values() if list(stems.values()).count(stem) > 1}
    sets = {key: f"{key.parent.name}/{stem}" if stem in again else stem for key, stem in stems.items()}
    names = {run.name: index for index, run in enumerate(runs)}
    found: list[RunScores] = []
    for score, key in zip(scores, keys, strict=True):
        name, _, path = score.partition("=")
        taken = [pair.run for pair in found if pair.name == sets[key]]
        free = next((index for index in range(len(runs)) if index not in taken), None)
        index, path = (names[name], path) if path and name in names else (free, score)
        if index is None or index in taken:
            raise InputError(
                f"report: {score}: more score files for {key} than runs; give each run one, in the runs' order or as "
                f"NAME=FILE with NAME of {', '.join(names)}"
            )
        found.append(RunScores(sets[key], index, Path(path), (key,), named=True))
    return found


def evaluate_sets(files: Sequence[RunScores], runs: Runs, rounds: int) -> list[ResultSet]:
    """Evaluate every score file, set by set; of two for the same set and run the later counts."""
    sets: dict[str, ResultSet] = {}
    latest = {(file.name, file.run): file for file in files}
    for file in sorted(latest.values(), key=lambda file: (file.name != DEV, file.run)):
        run, results = runs[file.run], sets.setdefault(file.name, ResultSet(file.name))
        if (why := file.scores.parent / UNCALIBRATED).is_file():
            reason = why.read_text(encoding="utf-8", errors="replace").strip()
            results.notes.append(f"{run.name}: scores of a model that is not calibrated: {reason}")
        try:
            if results.evaluations and rounds:
                try:
                    found = _evaluate(run, file, rounds, latest[file.name, results.first].scores)
                    results.differences[file.run] = found.differences
                except InputError:
                    found = _evaluate(run, file, rounds)
                    pair = f"{run.name} and {runs[results.first].name}"
                    results.notes.append(f"{pair} were scored on different trials: compare with care.")
            else:
                found = _evaluate(run, file, rounds)
            results.evaluations[file.run] = found
        except InputError as error:
            if file.named:
                raise
            results.notes.append(f"{run.name}: {error}.")
    return list(sets.values())


def tabulate(results: ResultSet, runs: Runs) -> dict[str, list[Cell | None]]:
    """Return the title of each metric on one evaluation set -> the runs' values, intervals and differences."""
    known = [name for name in METRICS if any(name in found.metrics for found in results.evaluations.values())]
    return {METRICS[name][0]: [_cell(results, index, name) for index in range(len(runs))] for name in known}


def draw_results(results: ResultSet, runs: Runs, place: int) -> PageSection:
    """Return the DET curves of all runs on one set, and of detectors the histograms."""
    evaluations = results.evaluations
    if not evaluations:
        return PageSection(notes=results.notes)
    scores = {}
    for index, found in evaluations.items():
        positive, negative = (found.trials.of(found.track.scores, kind) for kind in found.track.kinds)
        scores[runs[index].name] = positive, negative
    track = next((found.track for found in evaluations.values() if found.track is not TRACK1), TRACK1)
    det = draw_det(scores, operating_point(track), legend=False, places=list(evaluations))
    rates = ", ".join(f"{runs[index].name} {found.metrics['eer']:.1%}" for index, found in evaluations.items())
    svg = to_inline_svg(det, f"det-{place}", f"DET curves on {results.name}")
    caption = "Axes are normal deviates, named in percent. Circle: EER. Diamond: minDCF. Down and left is better."
    figures = [Captioned(f"Errors traded off; where both are equal: {rates}", svg, caption, tuple(evaluations))]
    if track is TRACK1:  # cosines have no threshold that means anything
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


def _cell(results: ResultSet, index: int, metric: str) -> Cell | None:
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
    change = results.change(index, metric)
    shown, low, high = (signed(factor * part, digits) for part in (change, found.low, found.high))
    difference = f"{shown} ({low},\N{NO-BREAK SPACE}{high})"
    return Cell(value, interval, (difference, "bold") if found.low > 0 or found.high < 0 else difference)


def signed(value: float, digits: int) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _evaluate(run: LoggedRun, file: RunScores, rounds: int, against: Path | None = None) -> Evaluation:
    """Evaluate by the first keys that fit, and by the manifest's speakers where it fits."""
    evaluated = partial(evaluate, file.scores, track=run.track, rounds=rounds or None, against=against)
    manifests = (file.speakers, None) if file.speakers and rounds else (None,)
    for speakers, keys in [(speakers, keys) for speakers in manifests for keys in file.keys][:-1]:
        try:
            return evaluated(keys, speakers=speakers)
        except InputError:  # a manifest that has changed since: the score file's own labels remain
            continue
    return evaluated(file.keys[-1])


def _file(path: object) -> Path | None:
    return Path(path) if isinstance(path, str) and Path(path).is_file() else None
