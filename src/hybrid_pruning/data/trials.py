"""Key files, score files and lists of trials in all their forms -> trials; every fault one clear line."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning.data.manifest import UNKNOWN, without_suffix
from hybrid_pruning.data.tables import Fault, Text, read_lines
from hybrid_pruning.data.tracks import SV, TRACK2, Form, Track
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import LARGEST_SCORE, FloatArray, IntArray
from hybrid_pruning.metrics.measures import Names

CM_LABEL = {"bonafide": "bonafide", "target": "bonafide", "nontarget": "bonafide", "spoof": "spoof"}
ALWAYS = ("speaker", "phase")
"""Kept of every key file that has them: the units of resampling, and the part of a challenge a trial belongs to."""
LISTS = replace(
    SV,
    classes={**TRACK2.classes, **SV.classes},
    headers=(*SV.headers, *TRACK2.headers),
    layouts=(Form(SV.trial, "", SV.trial), *SV.layouts, *TRACK2.layouts),
)
"""Every form of `evaluate --sv` and `--track2`, and two names alone."""


Name = str | tuple[str | int, ...]
"""Of a recording; or of a trial, those of its recordings and where it may repeat its number."""


class Register:
    """The place of each recording, or trial of recordings, in a list that has each once."""

    def __init__(self, ids: Iterable[Name]) -> None:
        self._places = {name: place for place, name in enumerate(ids)}

    def find(self, name: Name) -> int | None:
        """Return the place of a recording, None where it is unknown; a full match goes before one without suffixes."""
        place = self._places.get(name)
        return self._stems.get(_stem(name)) if place is None else place

    @cached_property
    def _stems(self) -> dict[Name, int | None]:
        stems: dict[Name, int | None] = {}
        for name, place in self._places.items():
            stem = _stem(name)
            stems[stem] = None if stem in stems else place  # two that differ in the suffix need it
        return stems


def _stem(name: Name) -> Name:
    if isinstance(name, str):
        return without_suffix(name)
    return tuple(without_suffix(part) if isinstance(part, str) else part for part in name)


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The trials of a set and their classes."""

    path: Path
    names: list[list[str]]  # the columns that name the trials, [N] each
    classes: Names
    columns: dict[str, Names]  # other columns that were asked for, [N] each; `ALWAYS` where the file has them
    chosen: npt.NDArray[np.bool_]  # [N] whether a trial is to be evaluated
    what: str = "key"  # the content of the file for each trial: a key, or another system's score


@dataclass(frozen=True, slots=True)
class Pairs:
    """The names that a list's trials compare, in its order; `enrol` may name a speaker, and trials stand twice."""

    path: Path
    enrol: list[str]
    test: list[str]


def read_keys(
    path: str | Path, track: Track, columns: Sequence[str] = (), only: Mapping[str, str] | None = None
) -> Keys:
    """Read a key file in any of the track's forms, and further columns of it.

    `only` is column -> value that a trial must have to count, such as phase -> eval.
    """
    path, only = Path(path), only or {}
    text = read_lines(path)
    form, header, separator = _recognise(text, track)
    rows = text if form.columns else text.below()
    kept = [*columns, *only, *(name for name in ALWAYS if name in header)]
    require_known(path, header, kept)
    checked = {"cm-label"} & {*header}
    cells = rows.take(header, tuple(dict.fromkeys([*form.trial, form.label, *checked, *kept])), separator)
    classes, labels = form.classes or track.classes, cells[form.label]
    kinds, beside = [classes.get(label, "") for label in labels], cells.get("cm-label", ())
    names = [cells[part] for part in form.trial]
    faults = [
        (row, f"label '{labels[row]}', expected {' or '.join(classes)}") for row, kind in enumerate(kinds) if not kind
    ]
    if form.label != "cm-label":
        for row, (kind, label) in enumerate(zip(kinds, beside, strict=False)):
            if kind and label != CM_LABEL[kind]:
                faults.append((row, f"cm-label '{label}' beside '{labels[row]}', expected '{CM_LABEL[kind]}'"))
    rows.refuse([*faults, *find_repeated(names, kinds, track)])
    chosen = np.ones(len(kinds), dtype=np.bool_)
    for column, value in only.items():
        chosen &= np.array([cell == value for cell in cells[column]], dtype=np.bool_)
        if not chosen.any():
            values = sorted(set(cells[column]))
            listed = ", ".join(values[:12]) + (", ..." if len(values) > 12 else "")
            raise InputError(f"{path}: no trial has {column} '{value}'; there are: {listed}")
    found = np.array(kinds, dtype=np.str_)
    missing = sorted(set(track.kinds) - set(found[chosen].tolist()), key=track.kinds.index)
    if missing and kinds:
        among = "".join(f" of {column} {value}" for column, value in only.items())
        raise InputError(f"{path}: no {missing[0]} among {int(chosen.sum())} trials{among}; every class is needed")
    return Keys(path, names, found, {name: np.array(cells[name]) for name in kept}, chosen)


def read_pairs(path: str | Path) -> Pairs:
    """Read the names of a list of trials; its labels, if any, are not read.

    Args:
        path: VoxCeleb's `label enrol test`, Kaldi's `enrol test label`, ASVspoof's trials, `enrol test` alone, or a TSV
            whose header has enrol and test, or spk and filename.
    """
    text = read_lines(Path(path))
    form, header, separator = _recognise(text, LISTS, labelled=False)
    rows = text if form.columns else text.below()
    cells = rows.take(header, form.trial, separator)
    enrol, test = (cells[name] for name in form.trial)
    if not enrol:
        raise InputError(f"{path}: no trials")
    return Pairs(Path(path), enrol, test)


def require_known(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    """Require that keys have columns that were asked for."""
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: no column '{column}'; the keys have {', '.join(header)}")


def identify(names: Sequence[list[str]], repeats: bool) -> list[Name]:
    """Return what identifies each trial: its names, and where trials may repeat, as two different ones, its number."""
    if len(names) == 1:
        return [*names[0]]
    if not repeats:
        return [*zip(*names, strict=True)]
    seen: defaultdict[tuple[str, ...], Iterator[int]] = defaultdict(count)
    return [(*trial, next(seen[trial])) for trial in zip(*names, strict=True)]


def find_repeated(names: Sequence[list[str]], kinds: Sequence[str], track: Track) -> Iterator[Fault]:
    """Yield the rows of trials that came before, where they may not or where they were of another class."""
    trials = identify(names, repeats=False)
    if not track.repeats and len(set(trials)) == len(trials):
        return
    first: dict[Name, str] = {}
    for row, (trial, kind) in enumerate(zip(trials, kinds, strict=True)):
        if trial not in first:
            first[trial] = kind
        elif not track.repeats or first[trial] != kind:
            yield row, f"'{name_trial(names, row)}' stands twice; remove one of the lines"


def name_trial(names: Sequence[list[str]], row: int) -> str:
    """Return a trial's name in a message."""
    return " ".join(column[row] for column in names)


def _recognise(text: Text, track: Track, labelled: bool = True) -> tuple[Form, Sequence[str], str | None]:
    """Return the form of a key file, its column names, and what separates them."""
    lines = text.candidates()
    headers = [(form, [*map(str.strip, cells)], separator) for separator, cells in lines for form in track.headers]

    def known(candidate: tuple[Form, list[str], str | None]) -> int:
        form, cells, separator = candidate
        needed = {*form.trial, *([form.label] if labelled else [])}
        return len(needed & set(cells)) if separator or needed <= set(cells) else 0  # ids may be called anything

    form, header, separator = best = max(headers, key=known)
    if known(best):
        text.require(header, (*form.trial, form.label) if labelled else form.trial, separator)
        return best
    pairs = [(layout, cells, separator) for separator, cells in lines for layout in track.layouts]
    fitting = [pair for pair in pairs if len(pair[0].columns) == len(pair[1])]
    if not fitting:
        forms = " or ".join(", ".join((*header.trial, header.label)) for header in track.headers)
        widths = ", ".join(f"{len(layout.columns)} ({' '.join(layout.columns)})" for layout in track.layouts)
        raise InputError(
            f"{text.path}:1: {len(lines[-1][1])} columns, expected a header with {forms}, or columns separated by "
            f"tabs, commas or spaces: {widths}"
        )

    # of several that fit, the one whose label is a class
    labelled_so = (
        fit for fit in fitting if dict(zip(fit[0].columns, fit[1], strict=True)).get(fit[0].label) in track.classes
    )
    layout, _, separator = next(labelled_so, fitting[0])
    return layout, layout.columns, separator


SAME = "do both files belong to the same set?"


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Scores of trials and their classes, in the order of the keys."""

    scores: dict[str, FloatArray]  # the score columns, [N] each
    classes: Names
    columns: dict[str, Names]  # as of `Keys`
    names: list[list[str]]

    def of(self, column: str, *classes: str) -> FloatArray:
        """Return the scores of one column that belong to any of the classes."""
        return self.scores[column][np.isin(self.classes, classes)]


def read_trials(scores_path: str | Path, keys_path: str | Path, track: Track) -> Trials:
    """Read a score file and its keys, and join them; each trial must stand in both."""
    return join_scores(scores_path, read_keys(keys_path, track), track)


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
    rows, header, separator = _recognise_scores(text, track)
    first = dict(zip(header, dict(rows.candidates())[separator], strict=False))
    # a single system has no cm-score and asv-score, or only dashes there
    tandem = () if {first.get(column, UNKNOWN) for column in track.tandem} <= {UNKNOWN} else track.tandem
    columns = (*tandem, track.scores, *(column for column in track.beside if column in header))
    text.require(header, track.trial + columns, separator)
    cells = rows.take(header, track.trial + columns, separator)
    names = [cells[name] for name in track.trial]
    faults: list[Fault] = []
    scores = {column: np.array([_to_number(cell) for cell in cells[column]]) for column in columns}
    for column, values in scores.items():
        for row in np.flatnonzero(~(np.abs(values) <= LARGEST_SCORE)).tolist():
            found = f"{column} of '{name_trial(names, row)}' is '{cells[column][row]}'"
            faults.append((row, f"{found}, expected a finite number within +-{LARGEST_SCORE:g}"))
    return rows, faults, names, scores


def _recognise_scores(text: Text, track: Track) -> tuple[Text, Sequence[str], str | None]:
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
            if fits and not np.isnan(_to_number(row[track.scores])):
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


def _to_number(cell: str) -> float:
    """Return a cell as a number, NaN where it is none."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")
