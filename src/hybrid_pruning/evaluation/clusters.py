"""Who speaks in a trial, and so what may be resampled."""

import re
from pathlib import Path

import numpy as np

from hybrid_pruning.data.manifest import UNKNOWN, read_manifest
from hybrid_pruning.data.names import Register
from hybrid_pruning.data.score_files import Trials
from hybrid_pruning.data.tracks import Track
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics.bootstrap import Resampling, resample_pairs, resample_speakers, resample_trials
from hybrid_pruning.metrics.measures import Names

CELEBRITY = re.compile(r"id\d{5}")
"""A speaker of VoxCeleb or CN-Celeb, wherever in the name of a recording."""
FEW_SPEAKERS = 20


def find_resampling(trials: Trials, task: Track, manifest: Path | None = None) -> tuple[Resampling, str]:
    """Return what to resample, and why, in words.

    Countermeasures: the speakers, each with the spoofs of that voice. Spoofing-robust verification: the enrolled
    speakers, as the speaker of a nontarget trial is not in the keys. Verification: the speakers of both sides. Trials,
    as if each were independent, where a speaker is not known.

    Args:
        trials: to be resampled.
        task: what is evaluated.
        manifest: of verification trials' recordings and their speakers, where the names do not tell them.

    Raises:
        InputError: the manifest lacks a recording or its speaker, or disagrees with the keys about who is who.
    """
    sides = find_speakers(trials, task) if manifest is None else read_speakers(trials, manifest)
    if sides:
        count = np.unique(np.concatenate(sides)).size
        if count < 2:
            return resample_trials(trials.classes), "trials, as all are of one speaker"
        told = f"{count:,} speakers" + (", enrolled or tested" if len(sides) == 2 else "")
        told += "; so few make rough intervals" if count < FEW_SPEAKERS else ""
        if len(sides) == 2:
            return resample_pairs(sides[0], sides[1], trials.classes), told
        return resample_speakers(sides[0], trials.classes), told
    return resample_trials(trials.classes), "trials, as not all speakers are known: intervals may be too narrow"


def find_speakers(trials: Trials, task: Track) -> list[Names]:
    """Return [N] the speakers of each trial: one array, or one for each side of a verification trial; none if unknown.

    In verification trials, VoxCeleb's and CN-Celeb's ids are found in the names of the recordings; otherwise the first
    folder is the speaker. Names that disagree with the keys about who is who are not believed.
    """
    if task.sides == 0:
        speakers = trials.columns.get("speaker")
        return [] if speakers is None or np.isin(speakers, (UNKNOWN, "")).any() else [speakers]
    if task.sides == 1:
        return [np.array(trials.names[0])]
    enrol, test = (np.array([_speaker(recording) for recording in side]) for side in trials.names)
    believed = np.array_equal(enrol == test, trials.classes == "target") and not (enrol == UNKNOWN).any()
    return [enrol, test] if believed else []


def read_speakers(trials: Trials, manifest: Path) -> list[Names]:
    """Return [N] the speakers of both sides of verification trials; an enrolled name may be a speaker's own.

    Raises:
        InputError: as in `find_resampling`.
    """
    utterances = read_manifest(manifest)
    register, speakers = Register(u.utt_id for u in utterances), {u.speaker for u in utterances} - {UNKNOWN}

    def speaker(name: str) -> str:
        place = register.find(name)
        found = utterances[place].speaker if place is not None else name if name in speakers else UNKNOWN
        if found == UNKNOWN:
            raise InputError(f"{manifest}: tells no speaker of '{name}', which is in the trials")
        return found

    pairs = list(zip(*trials.names, strict=True))
    known = {name: speaker(name) for name in dict.fromkeys(name for pair in pairs for name in pair)}
    enrol, test = (np.array([known[name] for name in side]) for side in trials.names)
    odd = np.flatnonzero((enrol == test) != (trials.classes == "target"))
    if odd.size:
        raise InputError(
            f"{manifest}: '{' '.join(pairs[odd[0]])}' is of {enrol[odd[0]]} and {test[odd[0]]} there, but "
            f"{trials.classes[odd[0]]} in the keys; do both belong to the same set?"
        )
    return [enrol, test]


def _speaker(recording: str) -> str:
    found = CELEBRITY.search(recording)
    folder, slash, _ = recording.partition("/")
    return found.group() if found else folder if slash else UNKNOWN
