"""A list of trials, a manifest and an enrolment -> recordings to embed, and the enrolment models to compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hybrid_pruning.data.manifest import REQUIRED, Utterance, read_manifest
from hybrid_pruning.data.tables import read_lines, read_rows
from hybrid_pruning.data.trials import Pairs, Register
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import IntArray
from hybrid_pruning.scoring.verification.backend import EnrolmentModels

COLUMNS = ("speaker", "utt_id")
Places = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The enrolled speakers of a file, each with a recording or more; with the recordings where it is a manifest."""

    path: Path
    speakers: dict[str, list[str]]
    utterances: Sequence[Utterance] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, eq=False)
class TrialPlan:
    """A list of trials, the recordings [N] that it needs, and the enrolment models [M] made of them.

    `pairs` [T, 2] are the models that each trial compares; a speaker of one recording has the model of that recording.
    """

    trials: Pairs
    utterances: list[Utterance]
    models: EnrolmentModels
    pairs: IntArray


def read_enrolment(path: str | Path) -> Enrolment:
    """Read the recordings of each enrolled speaker.

    Forms: ASVspoof's `SPEAKER f1,f2,f3`, Kaldi's spk2utt `SPEAKER u1 u2 u3`, or a TSV whose header has speaker and
    utt_id, one recording a row. A manifest brings its recordings along.
    """
    path = Path(path)
    text = read_lines(path)
    header = text.lines[0].split("\t") if text.lines else []
    speakers: dict[str, list[str]] = {}
    utterances: Sequence[Utterance] = ()
    if set(COLUMNS) <= set(header):
        utterances = read_manifest(path) if set(REQUIRED) <= set(header) else ()
        for line, cells in read_rows(path, COLUMNS):
            if not cells["speaker"] or not cells["utt_id"]:
                raise InputError(f"{path}:{line}: speaker or utt_id is empty")
            speakers.setdefault(cells["speaker"], []).append(cells["utt_id"])
    else:
        for row, line_text in enumerate(text.lines):
            speaker, *lists = line_text.split()
            names = [name for some in lists for name in some.split(",") if name]
            if not names:
                raise InputError(
                    f"{text.where(row)}: speaker '{speaker}' has no recording; expected SPEAKER f1,f2,..., or SPEAKER "
                    "u1 u2 ..., or a TSV with the columns speaker and utt_id"
                )
            if speaker in speakers:
                raise InputError(
                    f"{text.where(row)}: speaker '{speaker}' stands twice; put all recordings into one line"
                )
            speakers[speaker] = names
    if not speakers:
        raise InputError(f"{path}: no speaker is enrolled")
    return Enrolment(path, speakers, utterances)


def plan_trials(
    trials: Pairs, manifest: str | Path, utterances: Sequence[Utterance], enrolment: Enrolment | None = None
) -> TrialPlan:
    """Find the recordings that trials name; with an enrolment their first side names its speakers."""
    known = list(utterances) if enrolment is None else _join(manifest, utterances, enrolment)
    register = Register(utterance.utt_id for utterance in known)
    names = {name: register.find(name) for name in dict.fromkeys([*trials.enrol, *trials.test])}
    recording: dict[str, Places] = {name: () if place is None else (place,) for name, place in names.items()}
    enrol = recording if enrolment is None else _find_enrolled(trials, enrolment, register, manifest)
    for listed, found, where in (
        (trials.enrol, enrol, manifest if enrolment is None else enrolment.path),
        (trials.test, recording, manifest),
    ):
        if unknown := [name for name in listed if not found[name]]:
            raise InputError(
                f"{trials.path}: {len(unknown):,} of {len(listed):,} trials name what is not in {where}, first "
                f"'{unknown[0]}'; do they belong to the same set?"
            )
    sides = [[enrol[name] for name in trials.enrol], [recording[name] for name in trials.test]]
    name_of = dict(zip(sides[0], trials.enrol, strict=True)) | dict(zip(sides[1], trials.test, strict=True))
    number = {places: model for model, places in enumerate(name_of)}
    pairs = np.array([[number[places] for places in side] for side in sides], dtype=np.int64).T
    needed = sorted({place for places in name_of for place in places})
    moved = {place: new for new, place in enumerate(needed)}
    models = EnrolmentModels.of([[moved[place] for place in places] for places in name_of], list(name_of.values()))
    return TrialPlan(trials, [known[place] for place in needed], models, pairs)


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


def _find_enrolled(trials: Pairs, enrolment: Enrolment, register: Register, manifest: str | Path) -> dict[str, Places]:
    """Return the places of the recordings of each speaker that the trials name; none where it is not enrolled."""
    places: dict[str, Places] = {}
    for speaker in dict.fromkeys(trials.enrol):
        found = {name: register.find(name) for name in enrolment.speakers.get(speaker, ())}
        if unknown := [name for name, place in found.items() if place is None]:
            raise InputError(
                f"{enrolment.path}: speaker '{speaker}' is enrolled with '{unknown[0]}', which is not in {manifest}"
            )
        known = {name: place for name, place in found.items() if place is not None}
        places[speaker] = tuple(known[name] for name in enrolment.speakers.get(speaker, ()))
    return places
