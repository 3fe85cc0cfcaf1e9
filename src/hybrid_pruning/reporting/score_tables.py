"""What the runs' scores are worth: every evaluation set with all runs beside each other, intervals and differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hybrid_pruning.data.tracks import SV, TRACK1, Track
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, evaluate
from hybrid_pruning.metrics.bootstrap import Difference
from hybrid_pruning.reporting.run_files import Run
from hybrid_pruning.trees import section

DEV, DEV_SCORES, FOLDER = "dev", "dev_scores.tsv", "evaluation"
UNCALIBRATED = "uncalibrated.txt"
"""Beside the score files: why the model that made them could not be calibrated."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A score file of one run.

    Args:
        name: of the evaluation set.
        run: index of the run.
        scores: the score file.
        keys: what is true of its trials, the first that fits; the score file itself where it has the labels.
        asked: whether the user named it; then a fault is the user's to mend, otherwise the page says it.
        task: what is evaluated.
        speakers: manifest that tells who speaks in verification trials, where it is known and there.
    """

    name: str
    run: int
    scores: Path
    keys: tuple[Path, ...]
    asked: bool = False
    task: Track = TRACK1
    speakers: Path | None = None


@dataclass(slots=True)
class ResultSet:
    """All runs on one evaluation set.

    Args:
        name: of the set.
        evaluations: index of the run -> what its scores are worth.
        differences: index of a run -> metric -> how it differs from the first run of the set, on the same trials.
        notes: what a reader has to know of them, one sentence each.
    """

    name: str
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    differences: dict[int, dict[str, Difference]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The run that the others are compared with."""
        return next(iter(self.evaluations))


def find_scored(runs: Sequence[Run]) -> list[Scored]:
    """Return the score files that lie in the runs' folders: of the dev set, and below evaluation/."""
    found = []
    for index, run in enumerate(runs):
        task = task_of(run)
        if (path := run.folder / DEV_SCORES).exists():
            data = section(run.config, "data")
            known = data.get("dev") if task is TRACK1 else section(data, "trials").get("dev")
            keys = (Path(known), path) if isinstance(known, str) and Path(known).is_file() else (path,)
            found.append(Scored(DEV, index, path, keys, task=task, speakers=_manifest(run, DEV)))
        for path in sorted((run.folder / FOLDER).glob("*.tsv")):
            found.append(Scored(path.stem, index, path, (path,), task=task, speakers=_manifest(run, path.stem)))
    return found


def task_of(run: Run) -> Track:
    """Return what a run's scores are evaluated as."""
    return SV if run.task == "speaker-verification" else TRACK1


def _manifest(run: Run, name: str) -> Path | None:
    """Return the manifest of a set of verification trials, where it is there."""
    data = section(run.config, "data")
    known = data.get(DEV) if name == DEV else section(data, "eval").get(name)
    return Path(known) if task_of(run) is SV and isinstance(known, str) and Path(known).is_file() else None


def pair_up(runs: Sequence[Run], scores: Sequence[str], keys: Sequence[Path]) -> list[Scored]:
    """Give each score file its keys and its run.

    Args:
        runs: the report's.
        scores: score files; `NAME=FILE` says which run a file is of, otherwise those of one set are in the runs' order.
        keys: as many key files, or one for all.

    Raises:
        InputError: they do not fit each other.
    """
    if len(keys) == 1:
        keys = list(keys) * len(scores)
    if len(keys) != len(scores):
        raise InputError(
            f"report: {len(scores)} --scores and {len(keys)} --keys; give keys for each score file, or one for all"
        )
    names, found = _name_sets(keys), list[Scored]()
    for score, key in zip(scores, keys, strict=True):
        index, path = _find_run(runs, score)
        taken = [pair.run for pair in found if pair.name == names[key]]
        if index is None:
            index = next((place for place in range(len(runs)) if place not in taken), None)
        if index is None or index in taken:
            raise InputError(
                f"report: {score}: more score files for {key} than runs; give each run one, in the runs' order or as "
                f"NAME=FILE with NAME of {', '.join(run.name for run in runs)}"
            )
        found.append(Scored(names[key], index, path, (key,), True, task_of(runs[index])))
    return found


def judge(scored: Sequence[Scored], runs: Sequence[Run], rounds: int) -> list[ResultSet]:
    """Evaluate every score file, the sets in the order they come in.

    Args:
        scored: score files; of two for the same set and run the later counts.
        runs: the report's.
        rounds: of resampling for the intervals; 0 for none.

    Raises:
        InputError: a file that the user named is faulty, or the rounds are too few.
    """
    sets: dict[str, ResultSet] = {}
    latest = {(entry.name, entry.run): entry for entry in scored}
    for entry in sorted(latest.values(), key=lambda entry: (entry.name != DEV, entry.run)):
        results = sets.setdefault(entry.name, ResultSet(entry.name))
        if (why := entry.scores.parent / UNCALIBRATED).is_file():
            reason = why.read_text(encoding="utf-8", errors="replace").strip()
            results.notes.append(f"{runs[entry.run].name}: scores of a model that is not calibrated: {reason}")
        try:
            _judge(results, entry, runs, latest, rounds)
        except InputError as error:
            if entry.asked:
                raise
            results.notes.append(f"{runs[entry.run].name}: {error}.")
    return list(sets.values())


def _judge(
    results: ResultSet, entry: Scored, runs: Sequence[Run], latest: dict[tuple[str, int], Scored], rounds: int
) -> None:
    if results.evaluations and rounds:
        first = results.first
        try:
            found = _evaluate(entry, rounds, latest[entry.name, first].scores)
            results.differences[entry.run] = dict(found.differences)
        except InputError:
            found = _evaluate(entry, rounds)
            names = runs[entry.run].name, runs[first].name
            results.notes.append(f"{names[0]} and {names[1]} were scored on different trials: compare with care.")
    else:
        found = _evaluate(entry, rounds)
    results.evaluations[entry.run] = found


def _evaluate(entry: Scored, rounds: int, against: Path | None = None) -> Evaluation:
    """Evaluate by the first keys that fit, and by the manifest's speakers where it fits."""
    evaluated = partial(evaluate, entry.scores, track=entry.task, rounds=rounds or None, against=against)
    manifests = (entry.speakers, None) if entry.speakers and rounds else (None,)
    for speakers, keys in [(speakers, keys) for speakers in manifests for keys in entry.keys][:-1]:
        try:
            return evaluated(keys, speakers=speakers)
        except InputError:  # a manifest that has changed since: the score file's own labels are left
            continue
    return evaluated(entry.keys[-1])


def _find_run(runs: Sequence[Run], text: str) -> tuple[int | None, Path]:
    name, equals, path = text.partition("=")
    for index, run in enumerate(runs):
        if equals and name == run.name:
            return index, Path(path)
    return None, Path(text)


def _name_sets(keys: Sequence[Path]) -> dict[Path, str]:
    """Name evaluation sets by their key files, with as much of the path as tells them apart."""
    stems = {key: key.stem for key in keys}
    again = {stem for stem in stems.values() if list(stems.values()).count(stem) > 1}
    return {key: f"{key.parent.name}/{stem}" if stem in again else stem for key, stem in stems.items()}
