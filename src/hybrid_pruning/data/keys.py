"""Key files in all their forms -> what is true of each trial; every fault one clear line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning.data.names import without_suffix
from hybrid_pruning.data.protocols import Form, Task
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
from hybrid_pruning.metrics.measures import Names

CM_LABEL = {"bonafide": "bonafide", "target": "bonafide", "nontarget": "bonafide", "spoof": "spoof"}
ALWAYS = ("speaker", "phase")
"""Kept of every key file that has them: who may be resampled, and which part of a challenge a trial belongs to."""
JOINT, AGAIN = "\t", "\n"
"""Between the parts of a trial's name, and in front of how often it came before; no name has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """What is true of a set's trials.

    Args:
        path: the key file.
        names: [N] the trials' names.
        classes: [N] their classes.
        columns: what else was asked of them, [N] each; `ALWAYS` where they have it.
        chosen: [N] whether a trial is to be evaluated.
        what: what the file has for each trial: a key, or another system's score.
    """

    path: Path
    names: list[str]
    classes: Names
    columns: dict[str, Names]
    chosen: npt.NDArray[np.bool_]
    what: str = "key"


def read_keys(path: str | Path, task: Task, columns: Sequence[str] = (), only: Mapping[str, str] | None = None) -> Keys:
    """Read a key file in any of the task's forms.

    Args: as in `read_trials`.

    Raises:
        InputError: it cannot be read, has none of the forms, a label or name is not what it must be, it lacks a column,
            or a class has no trial.
    """
    path, only = Path(path), only or {}
    text = read_lines(path)
    form, header, separator = recognise(text, task)
    rows = text if form.columns else text.below()
    kept = [*columns, *only, *(name for name in ALWAYS if name in header)]
    require_known(path, header, kept)
    wanted = dict.fromkeys([*form.trial, form.label, *(name for name in ("cm-label",) if name in header), *kept])
    cells = take_columns(rows, header, tuple(wanted), separator)
    classes = form.classes or task.classes
    kinds = [classes.get(label, "") for label in cells[form.label]]
    names = number_names(join_names([cells[part] for part in form.trial]), task)
    raise_first(rows, [*_label_faults(cells, form.label, kinds, classes), *find_repeated(names, kinds, task)])
    chosen = _choose(path, cells, len(names), only)
    keys = Keys(path, names, np.array(kinds, dtype=np.str_), {name: np.array(cells[name]) for name in kept}, chosen)
    _require_classes(keys, task, only)
    return keys


def require_known(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    """Require that keys have columns that were asked for.

    Raises:
        InputError: one is not there; the message names those that are.
    """
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: no column '{column}'; the keys have {', '.join(header)}")


def number_names(names: list[str], task: Task) -> list[str]:
    """Tell trials that come again apart, where they may: the second is another trial than the first."""
    if not task.repeats or len(set(names)) == len(names):
        return names
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append(f"{name}{AGAIN}{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return numbered


def find_repeated(names: Sequence[str], kinds: Sequence[str], task: Task) -> Iterator[Fault]:
    """Yield the rows of trials that came before, where they may not or where they were something else."""
    if not task.repeats and len(set(names)) == len(names):
        return
    first: dict[str, str] = {}
    for row, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        plain = plain_name(name)
        if plain not in first:
            first[plain] = kind
        elif not task.repeats or first[plain] != kind:
            yield row, f"'{plain}' stands twice; remove one of the lines"


def plain_name(name: str) -> str:
    """Return a trial's name as a message tells it."""
    return name.partition(AGAIN)[0].replace(JOINT, " ")


def stem_trial(name: str) -> str:
    """Return a trial's name without the suffixes of audio files."""
    plain, again, number = name.partition(AGAIN)
    return JOINT.join(map(without_suffix, plain.split(JOINT))) + again + number


def join_names(columns: Sequence[list[str]]) -> list[str]:
    """Return the names of trials from the columns that name them."""
    return columns[0] if len(columns) == 1 else [JOINT.join(cells) for cells in zip(*columns, strict=True)]


def recognise(text: Text, task: Task, labelled: bool = True) -> tuple[Form, Sequence[str], str | None]:
    """Return the form of a key file, its column names, and what separates them.

    Args:
        text: its lines.
        task: whose forms it may have.
        labelled: whether it has to say what each trial is.

    Raises:
        InputError: it has none of the forms.
    """
    first = text.lines[0] if text.lines else ""
    lines = [(separator, split(first, separator)) for separator in SEPARATORS]
    headers = [
        (form, [cell.strip() for cell in cells], separator) for separator, cells in lines for form in task.headers
    ]

    def known(candidate: tuple[Form, list[str], str | None]) -> int:
        form, cells, separator = candidate
        needed = {*form.trial, *([form.label] if labelled else [])}
        return len(needed & set(cells)) if separator or needed <= set(cells) else 0  # ids may be called anything

    form, header, separator = best = max(headers, key=known)
    if known(best):
        require_columns(text, header, (*form.trial, form.label) if labelled else form.trial, separator)
        return best
    fitting = [
        (layout, cells, separator)
        for separator, cells in lines
        for layout in task.layouts
        if len(layout.columns) == len(cells)
    ]
    if not fitting:
        forms = " or ".join(", ".join((*header.trial, header.label)) for header in task.headers)
        widths = ", ".join(f"{len(layout.columns)} ({' '.join(layout.columns)})" for layout in task.layouts)
        raise InputError(
            f"{text.path}:1: {len(first.split())} columns, expected a header with {forms}, or columns separated by "
            f"tabs, commas or spaces: {widths}"
        )
    layout, _, separator = next((fit for fit in fitting if _label(*fit[:2]) in task.classes), fitting[0])
    return layout, layout.columns, separator


def _label(layout: Form, cells: Sequence[str]) -> str:
    """Return what stands in the place of the label."""
    return cells[layout.columns.index(layout.label)] if layout.label else ""


def _choose(path: Path, cells: Mapping[str, list[str]], count: int, only: Mapping[str, str]) -> npt.NDArray[np.bool_]:
    """Return [N] whether each trial has the values asked for."""
    chosen = np.ones(count, dtype=np.bool_)
    for column, value in only.items():
        chosen &= np.array([cell == value for cell in cells[column]], dtype=np.bool_)
        if not chosen.any():
            kinds = sorted(set(cells[column]))
            listed = ", ".join(kinds[:12]) + (", ..." if len(kinds) > 12 else "")
            raise InputError(f"{path}: no trial has {column} '{value}'; there are: {listed}")
    return chosen


def _require_classes(keys: Keys, task: Task, only: Mapping[str, str]) -> None:
    present = set(keys.classes[keys.chosen].tolist())
    for name in task.kinds:
        if name not in present and keys.names:
            chosen = "".join(f" of {column} {value}" for column, value in only.items())
            raise InputError(
                f"{keys.path}: no {name} among {int(keys.chosen.sum())} trials{chosen}; every class is needed"
            )


def _label_faults(
    cells: Mapping[str, Sequence[str]], label: str, kinds: Sequence[str], classes: Mapping[str, str]
) -> list[Fault]:
    faults = [
        (row, f"label '{cells[label][row]}', expected {' or '.join(classes)}")
        for row, kind in enumerate(kinds)
        if not kind
    ]
    if label != "cm-label" and "cm-label" in cells:
        faults += [
            (row, f"cm-label '{beside}' beside '{cells[label][row]}', expected '{CM_LABEL[kind]}'")
            for row, (kind, beside) in enumerate(zip(kinds, cells["cm-label"], strict=True))
            if kind and beside != CM_LABEL[kind]
        ]
    return faults
