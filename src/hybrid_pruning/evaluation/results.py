"""A score file and its keys -> metrics, with intervals, tables by group and a comparison where they are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.data.keys import read_keys
from hybrid_pruning.data.score_files import Trials, join_scores
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2, Track
from hybrid_pruning.evaluation.clusters import find_resampling
from hybrid_pruning.evaluation.groups import Group, break_down
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.metrics.bootstrap import Difference, Interval, resample, to_difference, to_interval
from hybrid_pruning.metrics.measures import Measures, Sample
from hybrid_pruning.plain import portable

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Request:
    """What to find beside the metrics themselves.

    Args:
        rounds: of resampling for intervals; 0 for none.
        seed: of the resampling.
        by: combinations of key columns to break the metrics down by.
        only: key column -> value that a trial must have to count.
        against: another system's score file of the same trials, to compare with.
        measures: further metrics.
        speakers: manifest of verification trials' recordings and their speakers, for the resampling.
    """

    rounds: int = 0
    seed: int = 0
    by: Sequence[tuple[str, ...]] = ()
    only: Mapping[str, str] = field(default_factory=dict)
    against: Path | None = None
    measures: Measures = field(default_factory=dict)
    speakers: Path | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a system's scores are worth.

    Args:
        task: what was evaluated.
        scores: the score file.
        request: what was asked for.
        trials: the system's.
        metrics: name -> value, fractions or bits, and how many trials there are of each class.
        intervals: metric -> 95% interval, where asked for.
        resampled: what was drawn for them, in words.
        groups: combination of columns -> its groups, the worst first.
        other: the trials of the system compared with.
        other_metrics: its metrics.
        differences: metric -> how much the first system differs, where rounds were asked for.
    """

    task: Track
    scores: Path
    request: Request
    trials: Trials
    metrics: Metrics
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    resampled: str = ""
    groups: Mapping[tuple[str, ...], list[Group]] = field(default_factory=dict)
    other: Trials | None = None
    other_metrics: Metrics = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values: the metrics by their names, the rest beside them."""
        found: dict[str, Any] = dict(self.metrics)
        if self.intervals:
            found["intervals"] = {name: [ends.low, ends.high] for name, ends in self.intervals.items()}
            found["bootstrap"] = {
                "rounds": self.request.rounds,
                "seed": self.request.seed,
                "resampled": self.resampled,
                "percentiles": [2.5, 97.5],
            }
        if self.groups:
            found["by"] = {" x ".join(columns): self._rows(columns) for columns in self.groups}
        if self.other is not None:
            found["against"] = {"scores": portable(str(self.request.against)), **self.other_metrics}
            if self.differences:
                found["against"]["differences"] = {
                    name: {"difference": self.metrics[name] - self.other_metrics[name], **asdict(value)}
                    for name, value in self.differences.items()
                }
        return found

    def _rows(self, columns: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {
                **dict(zip(columns, group.values, strict=True)),
                **{f"n_{kind}": count for kind, count in group.counts.items()},
                **group.metrics,
            }
            for group in self.groups[columns]
        ]


def evaluate(task: Track, scores_path: str | Path, keys_path: str | Path, request: Request | None = None) -> Evaluation:
    """Judge a score file by its keys.

    Args:
        task: what it is: `TRACK1`, `TRACK2` or `SV`.
        scores_path: TSV with the task's trial and score columns.
        keys_path: keys in any of the task's forms.
        request: what to find beside the metrics.

    Raises:
        InputError: a file cannot be read, ids do not match one to one, a score or label is not what it must be, or what
            is asked for cannot be.
    """
    request = request or Request()
    wanted = tuple(dict.fromkeys(name for columns in request.by for name in columns))
    keys = read_keys(keys_path, task, wanted, request.only)
    trials = join_scores(scores_path, keys, task)
    measures = _measures(task, trials, request)
    metrics, other_metrics = _measure(trials, measures, task), {}
    other = None
    if request.against is not None:
        other = join_scores(request.against, keys, task)
        measures = {name: measure for name, measure in measures.items() if name in _measures(task, other, request)}
        other_metrics = Sample(other.scores, other.classes).measure(measures)
    bootstrap = _resample(task, trials, other, measures, request) if request.rounds else {}
    main = {name: measures[name] for name in task.main if name in measures}
    groups = {columns: break_down(trials, columns, task, main) for columns in request.by}
    return Evaluation(
        task,
        Path(scores_path),
        request,
        trials,
        metrics,
        groups=groups,
        other=other,
        other_metrics=other_metrics,
        **bootstrap,
    )


def evaluate_track1(scores_path: str | Path, keys_path: str | Path) -> Metrics:
    """Evaluate a countermeasure: ASVspoof 5, track 1.

    Args:
        scores_path: TSV with the columns filename and cm-score; higher means more bona fide, LLRs where calibrated.
        keys_path: TSV with filename and cm-label; or a manifest; or the protocol of ASVspoof 5 (10 or 6 columns),
            ASVspoof 2019 (5) or ASVspoof 2021 (8 LA, 13 DF, 12 PA); or the metadata of In-the-Wild or SpoofCeleb.

    Returns:
        eer, min_dcf, act_dcf (fractions), cllr, min_cllr (bits), n_bonafide, n_spoof.

    Raises:
        InputError: a file cannot be read, ids do not match one to one, or a score or label is not what it must be.
    """
    return evaluate(TRACK1, scores_path, keys_path).metrics


def evaluate_track2(scores_path: str | Path, keys_path: str | Path) -> Metrics:
    """Evaluate spoofing-robust speaker verification: ASVspoof 5, track 2.

    Args:
        scores_path: TSV with the columns spk, filename, sasv-score and, for a tandem, cm-score and asv-score; a
            single system leaves those two out or fills them with `-`.
        keys_path: TSV with spk, filename and asv-label, and cm-label to be checked; or the trial file of ASVspoof 5 (5
            columns) or ASVspoof 2019 (4).

    Returns:
        a_dcf, for a tandem also min_t_dcf and t_eer (fractions), and n_target, n_nontarget, n_spoof.

    Raises:
        InputError: as in `evaluate_track1`.
    """
    return evaluate(TRACK2, scores_path, keys_path).metrics


def evaluate_sv(scores_path: str | Path, trials_path: str | Path) -> Metrics:
    """Evaluate speaker verification.

    Args:
        scores_path: TSV with the columns enrol, test and score; higher means more the same speaker.
        trials_path: `1 enrol test`, `enrol test target|nontarget`, a TSV with enrol, test and label, or ASVspoof's
            trials without spoofs.

    Returns:
        eer, min_dcf_0.01, min_dcf_0.05 (fractions), n_target, n_nontarget.

    Raises:
        InputError: as in `evaluate_track1`.
    """
    return evaluate(SV, scores_path, trials_path).metrics


def curves(evaluation: Evaluation) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return what a DET curve is drawn of: name -> scores of the positive and of a negative class.

    Each system of the evaluation has a curve; in spoofing-robust verification one for nontargets and one for spoofs.
    """
    task, request = evaluation.task, evaluation.request
    positive, *negatives = task.kinds
    systems = {evaluation.scores: evaluation.trials}
    if evaluation.other is not None and request.against is not None:
        systems[request.against] = evaluation.other
    stems = {path.stem for path in systems}
    found = {}
    for path, trials in systems.items():
        name = path.stem if len(stems) == len(systems) else str(path)
        for kind in negatives:
            label = name if len(negatives) == 1 else f"{name}: {kind}s"
            found[label] = trials.of(task.scores, positive), trials.of(task.scores, kind)
    return found


def _measures(task: Track, trials: Trials, request: Request) -> Measures:
    own = task.tandem_measures if set(task.tandem) & set(trials.scores) else task.measures
    return {**own, **request.measures}


def _measure(trials: Trials, measures: Measures, task: Track) -> Metrics:
    counts = {f"n_{kind}": int(np.count_nonzero(trials.classes == kind)) for kind in task.kinds}
    return Sample(trials.scores, trials.classes).measure(measures) | counts


def _resample(
    task: Track, trials: Trials, other: Trials | None, measures: Measures, request: Request
) -> dict[str, Any]:
    resampling, resampled = find_resampling(trials, task, request.speakers)
    systems = [trials.scores] if other is None else [trials.scores, other.scores]
    values = resample(systems, measures, trials.classes, resampling, request.rounds, request.seed)
    found: dict[str, Any] = {"resampled": resampled}
    found["intervals"] = {name: to_interval(column) for name, column in zip(measures, values[0].T, strict=True)}
    if other is not None:
        both = zip(measures, values[0].T, values[1].T, strict=True)
        found["differences"] = {name: to_difference(ours, theirs) for name, ours, theirs in both}
    return found
