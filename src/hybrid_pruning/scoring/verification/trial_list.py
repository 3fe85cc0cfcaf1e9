"""A list of trials and a manifest -> which recordings have to be embedded, and what is compared with what."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_pruning.data.keys import Pairs
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.names import Register
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import IntArray
from hybrid_pruning.scoring.verification.cosine import Voices
from hybrid_pruning.scoring.verification.enrolment import Enrolment

Places = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrialPlan:
    """What is compared with what.

    Args:
        trials: the list, as it is.
        utterances: [N] the recordings that its trials need.
        voices: made of them; a speaker enrolled with one recording is the same voice as that recording.
        pairs: [T, 2] the voices that each trial compares.
    """

    trials: Pairs
    utterances: list[Utterance]
    voices: Voices
    pairs: IntArray


def plan_trials(
    trials: Pairs, manifest: str | Path, utterances: Sequence[Utterance], enrolment: Enrolment | None = None
) -> TrialPlan:
    """Find what the trials name.

    Args:
        trials: the list.
        manifest: where the recordings are listed, for the message.
        utterances: its recordings.
        enrolment: who the names on the enrolment side are; without it they are recordings.

    Raises:
        InputError: a trial names a recording or a speaker that is not known, or an enrolled speaker a recording; or
            two recordings have one name.
    """
    known = list(utterances) if enrolment is None else _join(manifest, utterances, enrolment)
    register = Register(utterance.utt_id for utterance in known)

    def recording(name: str) -> Places:
        place = register.find(name)
        return () if place is None else (place,)

    def speaker(name: str) -> Places:
        assert enrolment is not None
        return tuple(place for one in enrolment.speakers.get(name, ()) for place in recording(one))

    if enrolment is not None:
        _require_recordings(trials.enrol, enrolment, recording, manifest)
    enrol = {name: (recording if enrolment is None else speaker)(name) for name in dict.fromkeys(trials.enrol)}
    test = {name: recording(name) for name in dict.fromkeys(trials.test)}
    _require_known(trials, trials.enrol, enrol, manifest if enrolment is None else enrolment.path)
    _require_known(trials, trials.test, test, manifest)
    names = {places: name for side in (enrol, test) for name, places in side.items()}
    number = {places: voice for voice, places in enumerate(names)}
    sides = [[number[side[name]] for name in listed] for side, listed in ((enrol, trials.enrol), (test, trials.test))]
    return _compact(trials, known, names, np.array(sides, dtype=np.int64).T)


def _compact(trials: Pairs, known: Sequence[Utterance], names: dict[Places, str], pairs: IntArray) -> TrialPlan:
    """Leave out the recordings that no voice needs."""
    needed = sorted({place for places in names for place in places})
    moved = {place: new for new, place in enumerate(needed)}
    voices = Voices.of([[moved[place] for place in places] for places in names], list(names.values()))
    return TrialPlan(trials, [known[place] for place in needed], voices, pairs)


def _join(manifest: str | Path, utterances: Sequence[Utterance], enrolment: Enrolment) -> list[Utterance]:
    """Return the manifest's recordings and the further ones of the enrolment."""
    known = {utterance.utt_id: utterance for utterance in utterances}
    for utterance in enrolment.utterances:
        before = known.setdefault(utterance.utt_id, utterance)
        if before.path.absolute() != utterance.path.absolute():
            raise InputError(
                f"{enrolment.path}: '{utterance.utt_id}' is {utterance.path}, but {before.path} in {manifest}; "
                "one name needs to be one recording"
            )
    return list(known.values())


def _require_known(trials: Pairs, listed: Sequence[str], found: dict[str, Places], where: str | Path) -> None:
    lines = [name for name in listed if not found[name]]
    if lines:
        raise InputError(
            f"{trials.path}: {len(lines):,} of {len(listed):,} trials name what is not in {where}, first '{lines[0]}'; "
            "do they belong to the same set?"
        )


def _require_recordings(
    speakers: Iterable[str], enrolment: Enrolment, recording: Callable[[str], Places], manifest: str | Path
) -> None:
    """Require that the speakers of trials, where they are enrolled at all, are enrolled with known recordings."""
    for speaker in dict.fromkeys(speakers):
        for name in enrolment.speakers.get(speaker, ()):
            if not recording(name):
                raise InputError(
                    f"{enrolment.path}: speaker '{speaker}' is enrolled with '{name}', which is not in {manifest}"
                )
