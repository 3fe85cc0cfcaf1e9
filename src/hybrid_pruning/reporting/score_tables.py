"""The scores of the runs, evaluated: each evaluation set with all runs side by side, intervals and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hybrid_pruning.data.tracks import SV, TRACK1
from hybrid_pruning.errors import InputError
from hybrid_pruning.evaluation import Evaluation, evaluate
from hybrid_pruning.metrics.bootstrap import Difference
from hybrid_pruning.reporting.run_files import LoggedRun
from hybrid_pruning.trees import section

DEV = "dev"
UNCALIBRATED = "uncalibrated.txt"
"""Beside the score files: the reason why the model that made them could not be calibrated."""


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


def find_scores(runs: Sequence[LoggedRun]) -> list[RunScores]:
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


def pair_up(runs: Sequence[LoggedRun], scores: Sequence[str], keys: Sequence[Path]) -> list[RunScores]:
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


def evaluate_sets(files: Sequence[RunScores], runs: Sequence[LoggedRun], rounds: int) -> list[ResultSet]:
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
