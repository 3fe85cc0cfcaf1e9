"""A score file and its key file -> metrics: every id joined exactly, every fault one clear line, a table to read."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from math import isfinite
from pathlib import Path
from sys import intern

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from hybrid_pruning import metrics
from hybrid_pruning.errors import InputError
from hybrid_pruning.manifest import UNKNOWN, read_rows
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.terminal import console as terminal

Metrics = dict[str, float]
CM_LABEL = {"bonafide": "bonafide", "target": "bonafide", "nontarget": "bonafide", "spoof": "spoof"}
TITLES = {
    "eer": "EER %",
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr (bits)",
    "min_cllr": "minimum Cllr (bits)",
    "a_dcf": "a-DCF",
    "min_t_dcf": "min t-DCF",
    "t_eer": "t-EER %",
    "min_dcf_0.01": "minDCF (p = 0.01)",
    "min_dcf_0.05": "minDCF (p = 0.05)",
    "n_bonafide": "bona fide trials",
    "n_spoof": "spoof trials",
    "n_target": "target trials",
    "n_nontarget": "nontarget trials",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What one kind of evaluation reads.

    Args:
        trial: the columns that name a trial.
        classes: the class each label stands for.
        headers: column names of key files with a header, the trial's first and the label last.
        layouts: column names of key files without one, separated by spaces, the label's column called `label`.
        repeats: whether a trial may stand several times, as often in the keys as in the scores.
    """

    trial: tuple[str, ...]
    classes: dict[str, str]
    headers: tuple[tuple[str, ...], ...]
    layouts: tuple[tuple[str, ...], ...]
    repeats: bool = False


TRACK1 = Task(
    trial=("filename",),
    classes={"bonafide": "bonafide", "spoof": "spoof"},
    headers=(("filename", "cm-label"), ("utt_id", "label")),
    layouts=(
        ("speaker", "filename", "gender", "codec", "codec_q", "codec_seed", "attack_tag", "attack", "label", "tmp"),
        ("speaker", "filename", "gender", "attack_tag", "attack", "label"),
        ("speaker", "filename", "environment", "attack", "label"),
    ),
)
TRACK2 = Task(
    trial=("spk", "filename"),
    classes={"target": "target", "nontarget": "nontarget", "spoof": "spoof"},
    headers=(("spk", "filename", "cm-label", "asv-label"),),
    layouts=(("spk", "filename", "gender", "attack", "label"),),
)
SV = Task(
    trial=("enrol", "test"),
    classes={"1": "target", "target": "target", "0": "nontarget", "nontarget": "nontarget"},
    headers=(("enrol", "test", "label"),),
    layouts=(("enrol", "test", "label"), ("label", "enrol", "test"), ("enrol", "test", "gender", "attack", "label")),
    repeats=True,
)


@dataclass(slots=True)
class _Keys:
    place: dict[str, int] = field(default_factory=dict)
    repeated: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    classes: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Scores and what is true of them, in the order of the keys.

    Args:
        scores: the named score columns, [N] each.
        classes: [N] class names.
        speakers: [N] speaker names; `-` where not known.
    """

    scores: dict[str, FloatArray]
    classes: npt.NDArray[np.str_]
    speakers: npt.NDArray[np.str_]

    def of(self, column: str, *classes: str) -> FloatArray:
        """Return the scores of one column that belong to any of the classes."""
        return self.scores[column][np.isin(self.classes, classes)]


class _Faults:
    """Counts the faulty lines of a file; the first one is told in full."""

    def __init__(self) -> None:
        self.first = ""
        self.count = 0

    def add(self, where: str, message: str) -> None:
        self.first = self.first or f"{where}: {message}"
        self.count += 1

    def finish(self) -> None:
        if self.count:
            more = f" (and {self.count - 1} more faulty lines)" if self.count > 1 else ""
            raise InputError(self.first + more)


def evaluate_track1(scores_path: str | Path, keys_path: str | Path) -> Metrics:
    """Evaluate a countermeasure: ASVspoof 5, track 1.

    Args:
        scores_path: TSV with the columns filename and cm-score; higher means more bona fide, LLRs where calibrated.
        keys_path: TSV with filename and cm-label; or a manifest; or the protocol of ASVspoof 5 (10 or 6 columns) or
            ASVspoof 2019 LA (5 columns).

    Returns:
        eer, min_dcf, act_dcf (fractions), cllr, min_cllr (bits), n_bonafide, n_spoof.

    Raises:
        InputError: a file cannot be read, ids do not match one to one, or a score or label is not what it must be.
    """
    trials = read_trials(scores_path, keys_path, TRACK1, ("cm-score",))
    bonafide, spoof = trials.of("cm-score", "bonafide"), trials.of("cm-score", "spoof")
    return {
        "eer": metrics.eer(bonafide, spoof),
        "min_dcf": metrics.min_dcf(bonafide, spoof),
        "act_dcf": metrics.act_dcf(bonafide, spoof),
        "cllr": metrics.cllr(bonafide, spoof),
        "min_cllr": metrics.min_cllr(bonafide, spoof),
        "n_bonafide": bonafide.size,
        "n_spoof": spoof.size,
    }


def evaluate_track2(scores_path: str | Path, keys_path: str | Path) -> Metrics:
    """Evaluate spoofing-robust speaker verification: ASVspoof 5, track 2.

    Args:
        scores_path: TSV with the columns spk, filename, sasv-score and, for a tandem, cm-score and asv-score; a
            single system leaves those two out or fills them with `-`.
        keys_path: TSV with spk, filename, cm-label and asv-label; or the trial file of ASVspoof 5 (5 columns).

    Returns:
        a_dcf, for a tandem also min_t_dcf and t_eer (fractions), and n_target, n_nontarget, n_spoof.

    Raises:
        InputError: as in `evaluate_track1`.
    """
    columns = _sasv_columns(Path(scores_path))
    trials = read_trials(scores_path, keys_path, TRACK2, columns)
    target, nontarget, spoof = (trials.of("sasv-score", name) for name in ("target", "nontarget", "spoof"))
    result: Metrics = {"a_dcf": metrics.a_dcf(target, nontarget, spoof)}
    if "cm-score" in columns:
        countermeasure = trials.of("cm-score", "target", "nontarget"), trials.of("cm-score", "spoof")
        verifier = (trials.of("asv-score", name) for name in ("target", "nontarget", "spoof"))
        result["min_t_dcf"] = metrics.t_dcf(*countermeasure)
        result["t_eer"] = metrics.t_eer(*countermeasure, *verifier)
    return result | {"n_target": target.size, "n_nontarget": nontarget.size, "n_spoof": spoof.size}


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
    trials = read_trials(scores_path, trials_path, SV, ("score",))
    positive, negative = trials.of("score", "target"), trials.of("score", "nontarget")
    result: Metrics = {"eer": metrics.eer(positive, negative)}
    for cost in metrics.VERIFICATION:
        result[f"min_dcf_{cost.p_target:g}"] = metrics.min_dcf(positive, negative, *astuple(cost))
    return result | {"n_target": positive.size, "n_nontarget": negative.size}


def find_warnings(result: Mapping[str, float]) -> list[str]:
    """Return what in the metrics a person should look at twice, one sentence each."""
    found = []
    rate = max(result.get("eer", 0.0), result.get("t_eer", 0.0))
    if rate > 0.5:
        found.append(
            f"an equal error rate of {rate:.1%} is worse than chance: are the scores inverted? "
            "A higher score must mean more bona fide, or more the same speaker"
        )
    if result.get("act_dcf", 0.0) >= 1 > result.get("min_dcf", 1.0) and rate <= 0.5:
        found.append(
            f"actDCF is {result['act_dcf']:.3f} where minDCF is {result['min_dcf']:.3f}: the scores are not calibrated "
            "log-likelihood ratios"
        )
    if result.get("a_dcf", 0.0) >= 1:
        found.append("a-DCF is 1, as for a system that knows nothing: are the scores inverted?")
    return found


def print_table(result: Mapping[str, float], title: str = "", console: Console = terminal) -> None:
    """Print metrics for a person: error rates in percent, counts in thousands."""
    table = Table("metric", title=title or None)
    table.add_column("value", justify="right")
    for name, value in result.items():
        label = TITLES.get(name, name)
        if name.startswith("n_"):
            table.add_row(label, f"{value:,.0f}")
        else:
            table.add_row(label, f"{100 * value:.3f}" if label.endswith("%") else f"{value:.4f}")
    console.print(table)


def read_trials(scores_path: str | Path, keys_path: str | Path, task: Task, columns: tuple[str, ...]) -> Trials:
    """Read a score file's columns and its keys, and join them; each trial must stand in both.

    Raises:
        InputError: as in `evaluate_track1`.
    """
    scores_path, keys_path = Path(scores_path), Path(keys_path)
    keys = _read_keys(keys_path, task)
    scores = _read_scores(scores_path, keys_path, task, columns, keys)
    unscored = np.flatnonzero(np.isnan(scores[:, 0]))
    if unscored.size:
        names = {index: name for name, index in keys.place.items()} | {
            index: name for name, indices in keys.repeated.items() for index in indices
        }
        more = f" (and {unscored.size - 1} more)" if unscored.size > 1 else ""
        raise InputError(
            f"{keys_path}: '{names[int(unscored[0])]}' has no score in {scores_path}{more}; "
            "score every trial of the keys, or give the keys of the scored set"
        )
    trials = Trials(
        {column: scores[:, index] for index, column in enumerate(columns)},
        np.array(keys.classes),
        np.array(keys.speakers),
    )
    for name in dict.fromkeys(task.classes.values()):
        if not (trials.classes == name).any():
            raise InputError(f"{keys_path}: no {name} among {len(keys.classes)} trials; every class is needed")
    return trials


def _read_keys(path: Path, task: Task) -> _Keys:
    keys, faults = _Keys(), _Faults()
    for line, trial, label, row in _key_rows(path, task):
        where = f"{path}:{line}"
        kind = task.classes.get(label)
        if kind is None:
            faults.add(where, f"label '{label}', expected {' or '.join(task.classes)}")
            continue
        if row.get("cm-label", CM_LABEL[kind]) != CM_LABEL[kind]:
            faults.add(where, f"cm-label '{row['cm-label']}' beside '{label}', expected '{CM_LABEL[kind]}'")
        index = len(keys.classes)
        earlier = keys.place.setdefault(trial, index)
        if earlier != index:
            if not task.repeats or keys.classes[earlier] != kind:
                faults.add(where, f"'{trial}' stands twice; remove one of the lines")
            keys.repeated[trial].append(index)
        keys.classes.append(kind)
        keys.speakers.append(intern(_speaker(row)))
    faults.finish()
    return keys


def _key_rows(path: Path, task: Task) -> Iterator[tuple[int, str, str, Mapping[str, str]]]:
    """Yield line, trial name, label and named cells of a key file in any of the task's forms."""
    _, text = next(_lines(path), (1, ""))
    first = text.split("\t")
    header = max(task.headers, key=lambda names: len(set(names) & set(first)))
    if set(header) & set(first):
        trial, label, rows = header[: len(task.trial)], header[-1], read_rows(path, header)
    else:
        trial, label, rows = task.trial, "label", _layout_rows(path, _layout(path, text.split(), task))
    for line, row in rows:
        yield line, " ".join([row[column] for column in trial]), row[label], row


def _layout(path: Path, first: list[str], task: Task) -> tuple[str, ...]:
    fitting = [names for names in task.layouts if len(names) == len(first)]
    if not fitting:
        widths = ", ".join(f"{len(names)} ({' '.join(names)})" for names in task.layouts)
        raise InputError(
            f"{path}:1: {len(first)} columns, expected a header with {' or '.join(map(', '.join, task.headers))} "
            f"separated by tabs, or columns separated by spaces: {widths}"
        )
    return next((names for names in fitting if first[names.index("label")] in task.classes), fitting[0])


def _layout_rows(path: Path, names: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    for line, text in _lines(path):
        cells = text.split()
        if len(cells) != len(names):
            raise InputError(f"{path}:{line}: {len(cells)} columns, expected {len(names)}: {' '.join(names)}")
        yield line, dict(zip(names, cells, strict=True))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as handle:
            for line, text in enumerate(handle, start=1):
                if not text.isspace():
                    yield line, text.rstrip("\r\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; is this a key file?") from error


def _read_scores(path: Path, keys_path: Path, task: Task, columns: tuple[str, ...], keys: _Keys) -> FloatArray:
    """Return the scores [trials, columns] in the order of the keys, NaN where a trial has none."""
    scores, taken, faults = np.full((len(keys.classes), len(columns)), np.nan), bytearray(len(keys.classes)), _Faults()
    spare = {trial: list(indices) for trial, indices in keys.repeated.items()}
    for line, row in read_rows(path, task.trial + columns):
        trial = " ".join([row[column] for column in task.trial])
        index = keys.place.get(trial, -1)
        if index < 0:
            faults.add(f"{path}:{line}", f"'{trial}' has no key in {keys_path}; do both files belong to the same set?")
            continue
        if taken[index] and spare.get(trial):
            index = spare[trial].pop(0)
        if taken[index]:
            faults.add(f"{path}:{line}", f"'{trial}' is scored twice; remove one of the lines")
        taken[index] = 1
        for position, column in enumerate(columns):
            scores[index, position] = value = _score(row[column])
            if not isfinite(value):
                faults.add(f"{path}:{line}", f"{column} of '{trial}' is '{row[column]}', expected a finite number")
    faults.finish()
    return scores


def _score(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _sasv_columns(path: Path) -> tuple[str, ...]:
    """Return the score columns to read: a single system has no cm-score and asv-score, or only dashes there."""
    for _, row in read_rows(path, (*TRACK2.trial, "sasv-score")):
        if {row.get("cm-score", UNKNOWN), row.get("asv-score", UNKNOWN)} == {UNKNOWN}:
            return ("sasv-score",)
        break
    return ("cm-score", "asv-score", "sasv-score")


def _speaker(row: Mapping[str, str]) -> str:
    """Return the trial's speaker where the file tells it; VoxCeleb's utterances start with theirs."""
    if "enrol" in row:
        speaker, slash, _ = row["enrol"].partition("/")
        return speaker if slash else UNKNOWN
    return row.get("speaker") or row.get("spk") or UNKNOWN
