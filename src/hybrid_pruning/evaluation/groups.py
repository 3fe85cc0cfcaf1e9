"""Parts of the trials: groups by columns of the keys, for tables, and by speaker, for resampling."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.data.manifest import UNKNOWN, read_manifest
from hybrid_pruning.data.tracks import SPOOFING_COLUMNS, Track
from hybrid_pruning.data.trials import Register, Trials, name_trial
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import IntArray
from hybrid_pruning.metrics.bootstrap import Resampling, resample_speakers, resample_trials
from hybrid_pruning.metrics.measures import Measures, Names, Sample

SPOOF = "spoof"
CELEBRITY = re.compile(r"id\d{5}")  # a speaker of VoxCeleb or CN-Celeb, anywhere in the name of a recording
FEW_SPEAKERS = 20


@dataclass(frozen=True, slots=True)
class Group:
    """A group of trials: the values of its columns, trials by class, and metrics, none where a class has no trial."""

    values: tuple[str, ...]
    counts: Mapping[str, int]
    metrics: Mapping[str, float]

    def as_json(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return a row of plain values, given the names of the columns."""
        counts = {f"n_{kind}": count for kind, count in self.counts.items()}
        return {**dict(zip(columns, self.values, strict=True)), **counts, **self.metrics}


def break_down(trials: Trials, columns: Sequence[str], track: Track, measures: Measures) -> list[Group]:
    """Measure every group that the columns make, the worst by the first metric first, those without a figure last.

    A group holds the trials of every class that agree in the columns. Columns of spoofs alone (`SPOOFING_COLUMNS`) put
    human speech into all their groups: by attack, each attack's spoofs are compared with all human speech; by codec and
    attack, with all human speech of the same codec.
    """
    shared = _shared(columns, track)
    spoof = trials.classes == SPOOF if len(shared) < len(columns) else np.ones(trials.classes.size, dtype=np.bool_)
    human = _gather({name: trials.columns[name] for name in shared}, np.flatnonzero(~spoof))
    groups = []
    for values, members in _gather({name: trials.columns[name] for name in columns}, np.flatnonzero(spoof)).items():
        place = tuple(value for name, value in zip(columns, values, strict=True) if name in shared)
        rows = np.concatenate((members, human.get(place, np.empty(0, dtype=np.int64))))
        classes = trials.classes[rows]
        counts = {kind: int(np.count_nonzero(classes == kind)) for kind in track.kinds}
        sample = Sample({name: scores[rows] for name, scores in trials.scores.items()}, classes)
        groups.append(Group(values, counts, sample.measure(measures) if all(counts.values()) else {}))
    first = next(iter(measures))
    return sorted(groups, key=lambda group: (-group.metrics.get(first, -1.0), group.values))


def state_rule(columns: Sequence[str], track: Track) -> str:
    """Return in words which trials a group of such a table compares."""
    shared = _shared(columns, track)
    if len(shared) == len(columns):
        return "all classes within each group"
    beside = f" of the same {' and '.join(shared)}" if shared else ""
    return f"each group's spoofs against all human speech{beside}"


def _shared(columns: Sequence[str], track: Track) -> list[str]:
    """Return the columns that apply to every class."""
    return [name for name in columns if name not in SPOOFING_COLUMNS or SPOOF not in track.kinds]


def _gather(table: Mapping[str, Names], rows: IntArray) -> dict[tuple[str, ...], IntArray]:
    """Return the rows of each combination of values that occurs."""
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


def find_resampling(trials: Trials, track: Track, manifest: str | Path | None = None) -> tuple[Resampling, str]:
    """Return the resampling of an evaluation, also in words.

    Of countermeasures, the speakers, each with its spoofs; of spoofing-robust verification, the enrolled speakers, as
    keys lack that of a nontarget trial; of verification, the speakers of both sides, also from a manifest. Of trials,
    as if each were independent, where a speaker is unknown.
    """
    sides = find_speakers(trials, track) if manifest is None else read_speakers(trials, Path(manifest))
    if not sides:
        words = "trials, as not all speakers are known: intervals may be too narrow"
        return resample_trials(trials.classes), words
    resampling = resample_speakers(trials.classes, *sides)
    if resampling.count < 2:
        return resample_trials(trials.classes), "trials, as all are of one speaker"
    words = f"{resampling.count:,} speakers" + (", enrolled or tested" if len(sides) == 2 else "")
    return resampling, words + ("; so few make rough intervals" if resampling.count < FEW_SPEAKERS else "")


def find_speakers(trials: Trials, track: Track) -> list[Names]:
    """Return [N] the speakers of each trial: one array, or one for each side of a verification trial; none if unknown.

    Of a recording in a verification trial, the speaker is VoxCeleb's or CN-Celeb's id in its name, or else its first
    folder; unknown where that contradicts the classes in the keys.
    """
    if track.sides == 0:
        speakers = trials.columns.get("speaker")
        return [] if speakers is None or np.isin(speakers, (UNKNOWN, "")).any() else [speakers]
    if track.sides == 1:
        return [np.array(trials.names[0])]

    def speaker(recording: str) -> str:
        found = CELEBRITY.search(recording)
        folder, slash, _ = recording.partition("/")
        return found.group() if found else folder if slash else UNKNOWN

    enrol, test = (np.array([speaker(recording) for recording in side]) for side in trials.names)
    believed = np.array_equal(enrol == test, trials.classes == "target") and not (enrol == UNKNOWN).any()
    return [enrol, test] if believed else []


def read_speakers(trials: Trials, manifest: Path) -> list[Names]:
    """Return [N] the speakers of both sides of verification trials; an enrolled name may be a speaker's own."""
    utterances = read_manifest(manifest)
    register, speakers = Register(u.utt_id for u in utterances), {u.speaker for u in utterances} - {UNKNOWN}

    def speaker(name: str) -> str:
        place = register.find(name)
        found = utterances[place].speaker if place is not None else name if name in speakers else UNKNOWN
        if found == UNKNOWN:
            raise InputError(f"{manifest}: has no speaker of '{name}', which is in the trials")
        return found

    known = {name: speaker(name) for side in trials.names for name in dict.fromkeys(side)}
    enrol, test = (np.array([known[name] for name in side]) for side in trials.names)
    odd = np.flatnonzero((enrol == test) != (trials.classes == "target"))
    if odd.size:
        first = odd[0]
        raise InputError(
            f"{manifest}: '{name_trial(trials.names, first)}' is of {enrol[first]} and {test[first]} there, but "
            f"{trials.classes[first]} in the keys; do both belong to the same set?"
        )
    return [enrol, test]
