"""Metrics group by group: by attack, codec, gender, or whatever else the keys say; the worst group first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_pruning.data.score_files import Trials
from hybrid_pruning.data.tracks import SPOOFING_COLUMNS, Track
from hybrid_pruning.metrics import IntArray
from hybrid_pruning.metrics.measures import Measures, Names, Sample

SPOOF = "spoof"


@dataclass(frozen=True, slots=True)
class Group:
    """One group of trials.

    Args:
        values: what the columns say of it.
        counts: class -> trials.
        metrics: name -> value; empty where a class has no trial.
    """

    values: tuple[str, ...]
    counts: Mapping[str, int]
    metrics: Mapping[str, float]


def break_down(trials: Trials, columns: Sequence[str], task: Track, measures: Measures) -> list[Group]:
    """Measure every group that the columns make, the worst first and those without a figure last.

    A group holds the trials of every class that agree in the columns. Columns that say something of spoofs alone
    (`SPOOFING_COLUMNS`) put human speech into all their groups: by attack, each attack's spoofs stand against all human
    speech; by codec and attack, against all human speech of the same codec.

    Args:
        trials: with the columns.
        columns: their names.
        task: what is evaluated.
        measures: the metrics; the first orders the groups.
    """
    shared = _shared(columns, task)
    spoof = trials.classes == SPOOF if len(shared) < len(columns) else np.ones(trials.classes.size, dtype=np.bool_)
    table = {name: trials.columns[name] for name in columns}
    human = _gather({name: table[name] for name in shared}, np.flatnonzero(~spoof))
    groups = []
    for values, members in _gather(table, np.flatnonzero(spoof)).items():
        place = tuple(value for name, value in zip(columns, values, strict=True) if name in shared)
        beside = human.get(place, np.empty(0, dtype=np.int64))
        groups.append(_measure(trials, values, np.concatenate((members, beside)), task, measures))
    first = next(iter(measures))
    return sorted(groups, key=lambda group: (-group.metrics.get(first, -1.0), group.values))


def state_rule(columns: Sequence[str], task: Track) -> str:
    """Return in words what stands against what in such a table."""
    shared = _shared(columns, task)
    if len(shared) == len(columns):
        return "all classes within each group"
    beside = f" of the same {' and '.join(shared)}" if shared else ""
    return f"each group's spoofs against all human speech{beside}"


def _shared(columns: Sequence[str], task: Track) -> list[str]:
    """Return the columns that say something of every class."""
    return [name for name in columns if name not in SPOOFING_COLUMNS or SPOOF not in task.kinds]


def _gather(table: Mapping[str, Names], rows: IntArray) -> dict[tuple[str, ...], IntArray]:
    """Return, for each combination of values that occurs, which of the rows have it."""
    if not table:
        return {(): rows}
    code = np.zeros(rows.size, dtype=np.int64)
    for cells in table.values():
        kinds, kind = np.unique(cells[rows], return_inverse=True)
        code = code * kinds.size + kind
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    return {
        tuple(str(cells[rows[members[0]]]) for cells in table.values()): rows[members]
        for members in np.split(order, starts[1:])
        if members.size
    }


def _measure(trials: Trials, values: tuple[str, ...], rows: IntArray, task: Track, measures: Measures) -> Group:
    classes = trials.classes[rows]
    counts = {kind: int(np.count_nonzero(classes == kind)) for kind in task.kinds}
    if not all(counts.values()):
        return Group(values, counts, {})
    sample = Sample({name: scores[rows] for name, scores in trials.scores.items()}, classes)
    return Group(values, counts, sample.measure(measures))
