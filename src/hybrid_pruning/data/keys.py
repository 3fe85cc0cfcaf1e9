"""Key files and lists of trials in all their forms -> the names and classes of trials; every fault one clear line."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning.data.names import Name
from hybrid_pruning.data.tables import Fault, Text, read_lines
from hybrid_pruning.data.tracks import SV, TRACK2, Form, Track
from hybrid_pruning.errors import InputError
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


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The trials of a set and their classes.

    Args:
        names: the columns that name the trials, [N] each.
        columns: other columns that were asked for, [N] each; `ALWAYS` where they have it.
        chosen: [N] whether a trial is to be evaluated.
        what: the content of the file for each trial: a key, or another system's score.
    """

    path: Path
    names: list[list[str]]
    classes: Names
    columns: dict[str, Names]
    chosen: npt.NDArray[np.bool_]
    what: str = "key"


@dataclass(frozen=True, slots=True)
class Pairs:
    """The names that a list's trials compare, in its order; `enrol` may name a speaker, and trials stand twice."""

    path: Path
    enrol: list[str]
    test: list[str]


def read_keys(
    path: str | Path, track: Track, columns: Sequence[str] = (), only: Mapping[str, str] | None = None
) -> Keys:
    """Read a key file in any of the track's forms; args as of `read_trials`."""
    path, only = Path(path), only or {}
    text = read_lines(path)
    form, header, separator = _recognise(text, track)
    rows = text if form.columns else text.below()
    kept = [*columns, *only, *(name for name in ALWAYS if name in header)]
    require_known(path, header, kept)
    beside = [name for name in ("cm-label",) if name in header]
    cells = rows.take(header, tuple(dict.fromkeys([*form.trial, form.label, *beside, *kept])), separator)
    classes = form.classes or track.classes
    kinds = [classes.get(label, "") for label in cells[form.label]]
    names = [cells[part] for part in form.trial]
    rows.refuse([*_label_faults(cells, form.label, kinds, classes), *find_repeated(names, kinds, track)])
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

    def labelled_so(layout: Form, cells: Sequence[str]) -> bool:
        return bool(layout.label) and cells[layout.columns.index(layout.label)] in track.classes

    layout, _, separator = next((fit for fit in fitting if labelled_so(*fit[:2])), fitting[0])
    return layout, layout.columns, separator


def _label_faults(
    cells: Mapping[str, Sequence[str]], label: str, kinds: Sequence[str], classes: Mapping[str, str]
) -> Iterator[Fault]:
    for row, kind in enumerate(kinds):
        if not kind:
            yield row, f"label '{cells[label][row]}', expected {' or '.join(classes)}"
    if label != "cm-label" and "cm-label" in cells:
        for row, (kind, beside) in enumerate(zip(kinds, cells["cm-label"], strict=True)):
            if kind and beside != CM_LABEL[kind]:
                yield row, f"cm-label '{beside}' beside '{cells[label][row]}', expected '{CM_LABEL[kind]}'"
