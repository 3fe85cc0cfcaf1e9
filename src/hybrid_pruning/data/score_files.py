"""A score file and its key file -> trials: every id joined exactly, every fault one clear line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_pruning.data.keys import Keys, find_repeated, identify, name_trial, read_keys
from hybrid_pruning.data.manifest import UNKNOWN
from hybrid_pruning.data.names import Register
from hybrid_pruning.data.tables import Fault, Text, read_lines
from hybrid_pruning.data.tracks import Track
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import LARGEST_SCORE, FloatArray, IntArray
from hybrid_pruning.metrics.measures import Names

SAME = "do both files belong to the same set?"


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Scores of trials and their classes, in the order of the keys.

    Args:
        scores: the named score columns, [N] each.
        columns: other columns of the keys that were asked for, [N] each; `keys.ALWAYS` where they have it.
        names: the columns that name the trials, [N] each.
    """

    scores: dict[str, FloatArray]
    classes: Names
    columns: dict[str, Names]
    names: list[list[str]]

    def of(self, column: str, *classes: str) -> FloatArray:
        """Return the scores of one column that belong to any of the classes."""
        return self.scores[column][np.isin(self.classes, classes)]


def read_trials(
    scores_path: str | Path,
    keys_path: str | Path,
    track: Track,
    columns: Sequence[str] = (),
    only: Mapping[str, str] | None = None,
) -> Trials:
    """Read a score file and its keys, and join them; each trial must stand in both.

    Args:
        columns: further columns of the keys to keep.
        only: key column -> value that a trial must have to count, such as phase -> eval.
    """
    return join_scores(scores_path, read_keys(keys_path, track, columns, only), track)


def join_scores(scores_path: str | Path, keys: Keys, track: Track) -> Trials:
    """Read a score file and put its scores in the order of the keys."""
    text, faults, names, scores = _read_scores(Path(scores_path), track)
    row, strangers = _match(names, keys, track)
    text.refuse([*faults, *strangers])
    unscored = np.flatnonzero((row < 0) & keys.chosen)
    if unscored.size:
        more = f" (and {unscored.size - 1} more)" if unscored.size > 1 else ""
        hint = "score every trial of the keys, or give the keys of the scored set" if keys.what == "key" else SAME
        name = name_trial(keys.names, int(unscored[0]))
        raise InputError(f"{keys.path}: '{name}' has no score in {text.path}{more}; {hint}")
    if not keys.classes.size:
        raise InputError(f"{keys.path}: no trials")
    chosen = np.flatnonzero(keys.chosen)
    return Trials(
        {column: values[row[chosen]] for column, values in scores.items()},
        keys.classes[chosen],
        {name: cells[chosen] for name, cells in keys.columns.items()},
        [[column[place] for place in chosen.tolist()] for column in keys.names],
    )


def join_systems(paths: Sequence[str | Path], track: Track) -> list[Trials]:
    """Read several systems' scores of the same trials, in the order of the first; the classes stay empty."""
    text, faults, names, _ = _read_scores(Path(paths[0]), track)
    kinds = [""] * len(names[0])
    text.refuse([*faults, *find_repeated(names, kinds, track)])
    known = Keys(text.path, names, np.array(kinds), {}, np.ones(len(kinds), dtype=np.bool_), "score")
    return [join_scores(path, known, track) for path in paths]


def _read_scores(path: Path, track: Track) -> tuple[Text, list[Fault], list[list[str]], dict[str, FloatArray]]:
    """Return a score file's rows, the faults of its scores, the names of its trials, and their scores by column."""
    text = read_lines(path)
    rows, header, separator = _recognise(text, track)
    first = dict(zip(header, dict(rows.candidates())[separator], strict=False))
    # a single system has no cm-score and asv-score, or only dashes there
    tandem = () if {first.get(column, UNKNOWN) for column in track.tandem} <= {UNKNOWN} else track.tandem
    columns = (*tandem, track.scores, *(column for column in track.beside if column in header))
    text.require(header, track.trial + columns, separator)
    cells = rows.take(header, track.trial + columns, separator)
    names = [cells[name] for name in track.trial]
    faults: list[Fault] = []
    scores = {column: _to_numbers(cells[column]) for column in columns}
    for column, values in scores.items():
        for row in np.flatnonzero(~(np.abs(values) <= LARGEST_SCORE)).tolist():
            found = f"{column} of '{name_trial(names, row)}' is '{cells[column][row]}'"
            faults.append((row, f"{found}, expected a finite number within +-{LARGEST_SCORE:g}"))
    return rows, faults, names, scores


def _recognise(text: Text, track: Track) -> tuple[Text, Sequence[str], str | None]:
    """Return a score file's rows, the names of its columns, and what separates them."""
    first, lines = "".join(text.lines[:1]), text.candidates()
    for separator, cells in lines:
        names = [cell.strip() for cell in cells]
        header = [name if track.aliases.get(name, name) in names else track.aliases[name] for name in names]
        known = (set(track.trial) <= set(header)) + (track.scores in header)
        if known == 2 or (known and separator):  # white space: ids may be called anything
            return text.below(), header, separator
    for separator, cells in lines:
        for form in track.score_layouts:
            row = dict(zip(form.columns, cells, strict=False))
            fits = len(cells) == len(form.columns) and row.get(form.label, track.kinds[0]) in track.classes
            if fits and not np.isnan(_to_numbers([row[track.scores]])[0]):
                return text, form.columns, separator
    forms = "; ".join(" ".join(form.columns) for form in track.score_layouts)
    raise InputError(
        f"{text.path}:1: '{first[:80]}' is in none of the forms of a score file; expected a header with "
        f"{', '.join((*track.trial, track.scores))}, or without a header {forms}, separated by tabs, commas or spaces"
    )


def _match(names: list[list[str]], keys: Keys, track: Track) -> tuple[IntArray, list[Fault]]:
    """Return [keys] the row of each key's score, -1 where it has none, and the scores that belong to no key."""
    if names == keys.names:  # the usual case, and quicker than looking up every name
        return np.arange(len(names[0])), []
    trials, register = identify(names, track.repeats), Register(identify(keys.names, track.repeats))
    places = [register.find(trial) for trial in trials]
    index = np.array([-1 if place is None else place for place in places], dtype=np.int64)
    row = np.full(len(keys.classes) + 1, -1)
    given = np.arange(len(trials))
    row[index[::-1]] = given[::-1]  # the first score of a trial counts; the last place is for those without a key
    faults = []
    for stranger in np.flatnonzero((row[index] != given) | (index < 0)).tolist():
        trial = trials[stranger]
        twice = register.find((*trial[:-1], 0) if track.repeats else trial) is not None
        fault = "is scored twice; remove one of the lines" if twice else f"has no {keys.what} in {keys.path}; {SAME}"
        faults.append((stranger, f"'{name_trial(names, stranger)}' {fault}"))
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
