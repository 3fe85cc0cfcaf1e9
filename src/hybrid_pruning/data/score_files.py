"""A score file and its key file -> trials: every id joined exactly, every fault one clear line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_pruning.data.keys import (
    AGAIN,
    Keys,
    find_repeated,
    join_names,
    number_names,
    plain_name,
    read_keys,
    stem_trial,
)
from hybrid_pruning.data.manifest import UNKNOWN
from hybrid_pruning.data.names import Register
from hybrid_pruning.data.protocols import Task
from hybrid_pruning.data.tables import (
    SEPARATORS,
    Fault,
    Text,
    raise_first,
    read_lines,
    require_columns,
    split,
    take_columns,
)
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import LARGEST_SCORE, FloatArray, IntArray
from hybrid_pruning.metrics.measures import Names

SAME = "do both files belong to the same set?"


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Scores and what is true of them, in the order of the keys.

    Args:
        scores: the named score columns, [N] each.
        classes: [N] class names.
        columns: what else was asked of the keys, [N] each; `keys.ALWAYS` where they have it.
        names: [N] the trials' names; of several parts, with a tab between them.
    """

    scores: dict[str, FloatArray]
    classes: Names
    columns: dict[str, Names]
    names: list[str]

    def of(self, column: str, *classes: str) -> FloatArray:
        """Return the scores of one column that belong to any of the classes."""
        return self.scores[column][np.isin(self.classes, classes)]


def read_trials(
    scores_path: str | Path,
    keys_path: str | Path,
    task: Task,
    columns: Sequence[str] = (),
    only: Mapping[str, str] | None = None,
) -> Trials:
    """Read a score file and its keys, and join them; each trial must stand in both.

    Args:
        scores_path: in any of the task's forms.
        keys_path: in any of the task's forms.
        task: what is evaluated.
        columns: further columns of the keys to keep.
        only: key column -> value that a trial must have to count, such as phase -> eval.

    Raises:
        InputError: a file cannot be read, ids do not match one to one, or a score or label is not what it must be.
    """
    return join_scores(scores_path, read_keys(keys_path, task, columns, only), task)


def join_scores(scores_path: str | Path, keys: Keys, task: Task) -> Trials:
    """Read a score file and put its scores in the order of the keys.

    Raises:
        InputError: as in `read_trials`.
    """
    text, faults, names, scores = read_scores(Path(scores_path), task)
    row, strangers = _match(names, keys)
    raise_first(text, [*faults, *strangers])
    unscored = np.flatnonzero((row < 0) & keys.chosen)
    if unscored.size:
        more = f" (and {unscored.size - 1} more)" if unscored.size > 1 else ""
        hint = "score every trial of the keys, or give the keys of the scored set" if keys.what == "key" else SAME
        raise InputError(
            f"{keys.path}: '{plain_name(keys.names[unscored[0]])}' has no score in {text.path}{more}; {hint}"
        )
    if not keys.names:
        raise InputError(f"{keys.path}: no trials")
    chosen = np.flatnonzero(keys.chosen)
    as_they_are = chosen.size == len(keys.names) and not task.repeats
    return Trials(
        {column: values[row[chosen]] for column, values in scores.items()},
        keys.classes[chosen],
        {name: cells[chosen] for name, cells in keys.columns.items()},
        keys.names if as_they_are else [keys.names[place].partition(AGAIN)[0] for place in chosen.tolist()],
    )


def join_systems(paths: Sequence[str | Path], task: Task) -> list[Trials]:
    """Read several systems' scores of the same trials, in the order of the first; the classes stay empty.

    Raises:
        InputError: a file cannot be read, a score is no number, or the files do not score the same trials.
    """
    text, faults, names, _ = read_scores(Path(paths[0]), task)
    kinds = [""] * len(names)
    raise_first(text, [*faults, *find_repeated(names, kinds, task)])
    known = Keys(text.path, names, np.array(kinds), {}, np.ones(len(names), dtype=np.bool_), "score")
    return [join_scores(path, known, task) for path in paths]


def read_scores(path: Path, task: Task) -> tuple[Text, list[Fault], list[str], dict[str, FloatArray]]:
    """Return a score file's rows, the faults of its scores, the trials' names, and their scores column by column.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    text = read_lines(path)
    rows, header, separator = _recognise(text, task)
    columns = _score_columns(header, rows, task, separator)
    require_columns(text, header, task.trial + columns, separator)
    cells = take_columns(rows, header, task.trial + columns, separator)
    names = number_names(join_names([cells[name] for name in task.trial]), task)
    faults: list[Fault] = []
    scores = {}
    for column in columns:
        scores[column] = _to_numbers(cells[column])
        expected = f"expected a finite number within +-{LARGEST_SCORE:g}"
        bad = np.flatnonzero(~(np.abs(scores[column]) <= LARGEST_SCORE))
        faults += [
            (row, f"{column} of '{plain_name(names[row])}' is '{cells[column][row]}', {expected}")
            for row in bad.tolist()
        ]
    return rows, faults, names, scores


def _recognise(text: Text, task: Task) -> tuple[Text, Sequence[str], str | None]:
    """Return a score file's rows, the names of its columns, and what separates them.

    Raises:
        InputError: it has none of the task's forms.
    """
    first = text.lines[0] if text.lines else ""
    lines = [(separator, split(first, separator)) for separator in SEPARATORS]
    for separator, cells in lines:
        names = [cell.strip() for cell in cells]
        header = [name if task.aliases.get(name, name) in names else task.aliases[name] for name in names]
        known = (set(task.trial) <= set(header)) + (task.scores in header)
        if known == 2 or (known and separator):  # white space: ids may be called anything
            return text.below(), header, separator
    for separator, cells in lines:
        for form in task.score_layouts:
            row = dict(zip(form.columns, cells, strict=False))
            fits = len(cells) == len(form.columns) and row.get(form.label, task.kinds[0]) in task.classes
            if fits and not np.isnan(_to_number(row[task.scores])):
                return text, form.columns, separator
    forms = "; ".join(" ".join(form.columns) for form in task.score_layouts)
    raise InputError(
        f"{text.path}:1: '{first[:80]}' is in none of the forms of a score file; expected a header with "
        f"{', '.join((*task.trial, task.scores))}, or without a header {forms}, separated by tabs, commas or spaces"
    )


def _match(names: Sequence[str], keys: Keys) -> tuple[IntArray, list[Fault]]:
    """Return [keys] the row of each key's score, -1 where it has none, and the scores that belong to no key."""
    if names == keys.names:  # the usual case, and quicker than looking up every name
        return np.arange(len(names)), []
    register = Register(keys.names, stem_trial)
    places = [register.find(name) for name in names]
    index = np.array([-1 if place is None else place for place in places], dtype=np.int64)
    row = np.full(len(keys.names) + 1, -1)
    given = np.arange(len(names))
    row[index[::-1]] = given[::-1]  # the first score of a trial counts; the last place is for those without a key
    faults = []
    for stranger in np.flatnonzero((row[index] != given) | (index < 0)).tolist():
        twice = register.find(names[stranger].partition(AGAIN)[0]) is not None
        fault = "is scored twice; remove one of the lines" if twice else f"has no {keys.what} in {keys.path}; {SAME}"
        faults.append((stranger, f"'{plain_name(names[stranger])}' {fault}"))
    return row[:-1], faults


def _to_numbers(cells: Sequence[str]) -> FloatArray:
    """Return cells as numbers, NaN where one is none."""
    try:
        return np.array(list(map(float, cells)), dtype=np.float64)
    except ValueError:
        return np.array([_to_number(cell) for cell in cells], dtype=np.float64)


def _to_number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _score_columns(header: Sequence[str], rows: Text, task: Task, separator: str | None) -> tuple[str, ...]:
    """Return the score columns to read: a single system has no cm-score and asv-score, or only dashes there."""
    first = dict(zip(header, split(rows.lines[0], separator), strict=False)) if rows.lines else {}
    beside = tuple(column for column in task.beside if column in header)
    if {first.get(column, UNKNOWN) for column in task.tandem} <= {UNKNOWN}:
        return (task.scores, *beside)
    return (*task.tandem, task.scores, *beside)
