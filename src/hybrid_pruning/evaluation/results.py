"""A score file and its keys -> metrics, and on request intervals, tables by group and a comparison; printed as tables.

Source of the organisers' verifier behind a t-DCF: evaluation plans of ASVspoof 2019 and 2021, and their score files.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.console import Spans, Table, say, say_table
from hybrid_pruning.data.tables import Text, read_lines
from hybrid_pruning.data.tracks import SV, TRACK1, TRACK2, Track
from hybrid_pruning.data.trials import Trials, join_scores, read_keys, require_known
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation.groups import Group, break_down, find_resampling, state_rule
from hybrid_pruning.files import digest_file
from hybrid_pruning.metrics import ASVSPOOF5, VERIFICATION, AsvRates, DetectionCost, FloatArray, asv_rates, eer, t_dcf
from hybrid_pruning.metrics.bootstrap import PERCENTILES, Difference, Interval, check_rounds, intervals
from hybrid_pruning.metrics.measures import (
    COUNTERMEASURE,
    TITLES,
    Column,
    Measures,
    Sample,
    errors_at,
    fixed_verifier,
    show_value,
)
from hybrid_pruning.metrics.rates import eer_threshold
from hybrid_pruning.models.artifact import versions
from hybrid_pruning.trees import portable

TRACKS: Mapping[str, Track] = {"track1": TRACK1, "track2": TRACK2, "sv": SV}
SCORES_2019 = ("source", "kind", "score")  # bonafide target 36.78691, or A07 spoof 27.07672
SCORES_2021 = ("spk", "filename", "score")
KEYS_2021 = ("spk", "filename", "codec", "transmission", "attack", "kind", "trim", "phase")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of a system's scores: fractions or bits, and the number of trials of each class.

    On request: 95% intervals from resamples of the units `resampled`, and the metrics in each resample, [rounds];
    groups by combination of columns, the worst first; another system's trials and metrics, with intervals of this
    system's less its. `command` is the command line that gives the same.
    """

    track: Track
    scores: Path
    keys: Path
    trials: Trials
    metrics: dict[str, float]
    command: Sequence[str]
    rounds: int | None = None
    seed: int = 0
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    resampled: str = ""
    drawn: Mapping[str, FloatArray] = field(default_factory=dict)
    groups: Mapping[tuple[str, ...], list[Group]] = field(default_factory=dict)
    threshold: float | None = None
    """Of the groups' miss and false alarm rates: that of the EER of all trials."""
    against: Path | None = None
    other: Trials | None = None
    other_metrics: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain values: the metrics by their names, the rest beside them."""
        found: dict[str, Any] = dict(self.metrics)
        files = {"scores": self.scores, "keys": self.keys}
        found["provenance"] = {
            "command": shlex.join(portable([*self.command])),
            **{name: portable(str(path)) for name, path in files.items()},
            **{f"{name}_sha256": digest_file(path) for name, path in files.items()},
            "versions": versions(),
        }
        if self.intervals:
            found["intervals"] = {name: [ends.low, ends.high] for name, ends in self.intervals.items()}
            drawn = {"rounds": self.rounds, "seed": self.seed, "resampled": self.resampled}
            found["bootstrap"] = drawn | {"percentiles": [*PERCENTILES]}
        if self.groups:
            rows = {columns: [group.as_json(columns) for group in groups] for columns, groups in self.groups.items()}
            found["by"] = {" x ".join(columns): row for columns, row in rows.items()}
            found |= {} if self.threshold is None else {"by_threshold": self.threshold}
        if self.against is not None:
            found["against"] = {"scores": portable(str(self.against)), **self.other_metrics}
            if self.differences:
                found["against"]["differences"] = {
                    name: {"difference": self.metrics[name] - self.other_metrics[name], **asdict(value)}
                    for name, value in self.differences.items()
                }
        return found


def evaluate(
    scores: str | Path,
    keys: str | Path,
    track: str | Track,
    *,
    rounds: int | None = None,
    seed: int = 0,
    by: Sequence[str] = (),
    only: Mapping[str, str] | None = None,
    against: str | Path | None = None,
    speakers: str | Path | None = None,
    tdcf2019: str | Path | None = None,
    tdcf2021: tuple[str | Path, str | Path] | None = None,
) -> Evaluation:
    """Evaluate a score file by its keys.

    Higher scores mean more bona fide, or more the same speaker; actDCF and Cllr take them as log-likelihood ratios.

    Args:
        scores: with the columns filename and cm-score (`track1`); spk, filename, sasv-score and, of a tandem, cm-score
            and asv-score (`track2`); enrol, test and score (`sv`); or in a form without a header.
        keys: a manifest, a table with a label for each trial, or the protocol or trial list of a corpus.
        track: `track1` (EER, minDCF, actDCF, Cllr and its minimum), `track2` (a-DCF, of a tandem also t-DCF and
            t-EER) or `sv` (EER, minDCF at both priors).
        rounds: of resampling for 95% intervals; none by default.
        seed: of the resampling.
        by: columns of the keys to break the metrics down by, each one column or several: `attack`, `codec,attack`.
        only: column of the keys -> value that a trial must have to count, such as phase -> eval.
        against: another system's score file of the same trials, measured on the same resamples.
        speakers: of `sv`, a manifest with the speakers of the recordings, for the resampling.
        tdcf2019: of `track1`, the organisers' verifier scores of ASVspoof 2019, for the t-DCF beside that verifier.
        tdcf2021: of `track1`, the organisers' verifier scores of ASVspoof 2021 and their keys.
    """
    if isinstance(track, str):
        if track not in TRACKS:
            raise InputError(f"evaluate: track '{track}', expected {' or '.join(TRACKS)}")
        track = TRACKS[track]
    if (tdcf2019 or tdcf2021) and track is not TRACK1:
        raise InputError("evaluate: --tdcf2019 and --tdcf2021 go with --track1, the countermeasure's scores")
    if speakers and (track is not SV or rounds is None):
        raise InputError("evaluate: --speakers goes with --sv and --bootstrap, which resamples them")
    if rounds is not None:
        check_rounds(rounds)
    further = _fixed_verifiers(tdcf2019, tdcf2021, only)
    combinations = [tuple(columns.split(",")) for columns in by]
    columns = tuple(dict.fromkeys(column for combination in combinations for column in combination))
    known = read_keys(keys, track, columns, only)
    trials = join_scores(scores, known, track)
    measures = {**_measures(track, trials), **further}
    metrics = Sample(trials.scores, trials.classes).measure(measures)
    counts = {f"n_{kind}": int(np.count_nonzero(trials.classes == kind)) for kind in track.kinds}
    found: dict[str, Any] = {}
    if against is not None:
        other = join_scores(against, known, track)
        shared = {**_measures(track, other), **further}
        measures = {name: measure for name, measure in measures.items() if name in shared}
        other_metrics = Sample(other.scores, other.classes).measure(measures)
        found |= {"against": Path(against), "other": other, "other_metrics": other_metrics}
    if rounds is not None:
        resampling, found["resampled"] = find_resampling(trials, track, speakers)
        beside = found["other"].scores if against is not None else None
        drawn = intervals(measures, trials.classes, trials.scores, resampling, rounds, seed, beside)
        found["intervals"], found["differences"], found["drawn"] = drawn
    main = {name: measures[name] for name in track.main if name in measures}
    if combinations and len(track.kinds) == 2:
        found["threshold"] = eer_threshold(*(trials.of(track.scores, kind) for kind in track.kinds))
        main |= errors_at(Column(track.scores, tuple((kind,) for kind in track.kinds)), found["threshold"])
    groups = {combination: break_down(trials, combination, track, main) for combination in combinations}
    name = next(name for name, known in TRACKS.items() if known.scores == track.scores)
    options: dict[str, Any] = {"bootstrap": rounds, "seed": seed or None, "against": against, "speakers": speakers}
    options |= {"tdcf2019": tdcf2019, "tdcf2021": tdcf2021, "by": [*by], "only": [*map("=".join, (only or {}).items())]}
    command = ["hybrid-pruning", "evaluate", str(scores), str(keys), f"--{name}", *_spell(options)]
    return Evaluation(
        track, Path(scores), Path(keys), trials, metrics | counts, command, rounds, seed, groups=groups, **found
    )


def _spell(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options and their values as the command line has them."""
    for name, value in options.items():
        if isinstance(value, tuple):
            yield from (f"--{name}", *map(str, value))
        else:
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                yield from (f"--{name}", str(one))


def pool(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return over evaluations of one system the mean of their EERs, and the EER of all scores at one threshold."""
    track = evaluations[0].track
    scores = [np.concatenate([one.trials.of(track.scores, kind) for one in evaluations]) for kind in track.kinds]
    return {"mean_eer": float(np.mean([one.metrics["eer"] for one in evaluations])), "pooled_eer": eer(*scores)}


def tabulate(evaluations: Mapping[str, Evaluation]) -> Table:
    """Return the metrics of several test sets as a table: a row a set, then their mean, then all trials together.

    Where the pooled error is above the mean, the sets' scores lie apart: no one threshold suits them all.
    """
    found = [*evaluations.values()]
    track, trials = found[0].track, [one.trials for one in found]
    measures = {name: measure for name, measure in _measures(track, trials[0]).items() if name in found[0].metrics}
    counts = {f"n_{kind}": kind for kind in track.kinds}
    classes = np.concatenate([one.classes for one in trials])
    columns = {name: np.concatenate([one.scores[name] for one in trials]) for name in trials[0].scores}
    pooled = Sample(columns, classes).measure(measures)
    pooled |= {name: int(np.count_nonzero(classes == kind)) for name, kind in counts.items()}
    mean = {name: float(np.mean([one.metrics[name] for one in found])) for name in measures}
    rows, sets = [], {title: one.metrics for title, one in evaluations.items()}
    for title, metrics in {**sets, "mean": mean, "pooled": pooled}.items():
        cells = [show_value(name, metrics[name]) if name in metrics else "" for name in (*counts, *measures)]
        if title in evaluations and (ends := evaluations[title].intervals.get(next(iter(measures)))):
            low, high = (show_value(next(iter(measures)), end) for end in astuple(ends))
            cells[len(counts)] += f" ({low} to {high})"
        rows.append((title, *cells))
    return Table(("set", *(TITLES[name] for name in (*counts, *measures))), rows)


def curves(evaluation: Evaluation) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return the scores behind each DET curve: name -> those of the positive and of a negative class.

    Each system of the evaluation has a curve; in spoofing-robust verification one for nontargets and one for spoofs.
    """
    track = evaluation.track
    positive, *negatives = track.kinds
    systems = {evaluation.scores: evaluation.trials}
    if evaluation.against is not None and evaluation.other is not None:
        systems[evaluation.against] = evaluation.other
    stems = {path.stem for path in systems}
    found = {}
    for path, trials in systems.items():
        name = path.stem if len(stems) == len(systems) else str(path)
        for kind in negatives:
            label = name if len(negatives) == 1 else f"{name}: {kind}s"
            found[label] = trials.of(track.scores, positive), trials.of(track.scores, kind)
    return found


def operating_point(track: Track) -> DetectionCost:
    """Return the detection cost of a track's first minDCF."""
    return VERIFICATION[0] if track.repeats else ASVSPOOF5


def _measures(track: Track, trials: Trials) -> Measures:
    return track.tandem_measures if set(track.tandem) & set(trials.scores) else track.measures


def _fixed_verifiers(
    tdcf2019: str | Path | None, tdcf2021: tuple[str | Path, str | Path] | None, only: Mapping[str, str] | None
) -> Measures:
    """Return the t-DCF beside the organisers' verifier."""
    if tdcf2019 and tdcf2021:
        raise InputError("evaluate: choose one of --tdcf2019 and --tdcf2021")
    if tdcf2021:
        return {"min_t_dcf": fixed_verifier(COUNTERMEASURE, read_verifier_2021(*tdcf2021, only))}
    if not tdcf2019:
        return {}
    rates = read_verifier_2019(tdcf2019)
    legacy = fixed_verifier(COUNTERMEASURE, rates, legacy=True)
    return {"min_t_dcf": fixed_verifier(COUNTERMEASURE, rates), "min_t_dcf_2019": legacy}


def read_verifier_2019(path: str | Path) -> AsvRates:
    """Return the error rates from ASVspoof2019.LA.asv.*.gi.trl.scores.txt."""
    text = read_lines(path)
    cells = text.take(SCORES_2019, ("kind", "score"), None)
    return _find_rates(text, cells["kind"], cells["score"])


def read_verifier_2021(scores: str | Path, keys: str | Path, only: Mapping[str, str] | None = None) -> AsvRates:
    """Return the error rates from ASV/ASVtorch_kaldi/score.txt and ASV/trial_metadata.txt of the keys of 2021 LA.

    Only trials with the given values in columns of the keys count, such as phase -> eval.
    """
    table, text, wanted = read_lines(scores), read_lines(keys), only or {}
    scored, known = table.take(SCORES_2021, SCORES_2021, None), text.take(KEYS_2021, KEYS_2021, None)
    require_known(text.path, KEYS_2021, list(wanted))
    score = dict(zip(zip(scored["spk"], scored["filename"], strict=True), scored["score"], strict=True))
    trials = list(zip(known["spk"], known["filename"], strict=True))
    rows = [row for row in range(len(trials)) if all(known[name][row] == value for name, value in wanted.items())]
    missing = [row for row in rows if trials[row] not in score]
    text.refuse([(row, f"'{' '.join(trials[row])}' has no score in {scores}") for row in missing])
    return _find_rates(text, [known["kind"][row] for row in rows], [score[trials[row]] for row in rows])


def _find_rates(text: Text, kinds: Sequence[str], cells: Sequence[str]) -> AsvRates:
    try:
        scores, kind = np.array(cells, dtype=np.float64), np.array(kinds, dtype=np.str_)
        rates = asv_rates(*(scores[kind == name] for name in TRACK2.kinds))
        t_dcf([1.0], [0.0], asv=rates)  # whether a tandem with it makes sense
    except ValueError as error:
        raise InputError(f"{text.path}: is no score file of a verifier ({error})") from error
    return rates


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
    measured = [group.metrics for group in groups if group.metrics]
    names = list(measured[0] if measured else evaluation.track.main[:1])
    values = {name: [metrics[name] for metrics in measured] for name in names}

    def figure(name: str, metrics: Mapping[str, float]) -> Spans:
        if name not in metrics:  # a class has no trial
            return "-"
        shown = show_value(name, metrics[name])
        return (f"* {shown}", "bold") if metrics[name] == max(values[name]) > min(values[name]) else shown

    rows = []
    for group in groups:
        counts = [f"{count:,}" for count in group.counts.values()]
        rows.append((*group.values, *counts, *(figure(name, group.metrics) for name in names)))
    headings = (*columns, *evaluation.track.kinds, *(TITLES[name] for name in names))
    say_table(Table(headings, rows, f"by {together}, worst (*) first", left=len(columns)))
    say(f"by {together}: {state_rule(columns, evaluation.track)}")
    if measured:
        say(f"mean over {together}: {TITLES[names[0]]} {show_value(names[0], float(np.mean(values[names[0]])))}")
    if measured and evaluation.threshold is not None:
        gaps = [f"{TITLES[name]} {show_value(name, float(np.ptp(values[name])))}" for name in ("miss", "false_alarm")]
        say(f"gaps at one threshold for all, {evaluation.threshold:.4f} (the EER's): {', '.join(gaps)}")
