"""A model for speaker verification + a list of trials -> a score file, in the list's order; and its cohort."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import WINDOW_SECONDS
from hybrid_pruning.console import warn
from hybrid_pruning.data.manifest import REQUIRED, Utterance, read_manifest
from hybrid_pruning.data.tables import read_lines, read_rows, write_table
from hybrid_pruning.data.trials import Pairs, Register, read_pairs
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import new_folder, require_new_folder
from hybrid_pruning.metrics import FloatArray, IntArray
from hybrid_pruning.models.cohort import TOP_N, Cohort, require_speakers
from hybrid_pruning.scoring.backend import Backend, EnrolmentModels, build_cohort
from hybrid_pruning.scoring.embeddings import Embeddings, embed_utterances
from hybrid_pruning.scoring.engine import Embedder, Engine, choose_device
from hybrid_pruning.trees import portable

SCORE_COLUMNS, ENROLMENT_COLUMNS = ("enrol", "test", "score"), ("speaker", "utt_id")
Places = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreFile:
    """A score file that was written.

    `scores` are [N] of the manifest's utterances, nan for those left out, or [T] of the trials in the file; `left_out`
    and `recordings` count utterances or trials that could not be scored, and audio files that were; a detector has no
    backend.
    """

    path: Path
    scores: FloatArray
    left_out: int
    recordings: int
    engine: Engine
    backend: Backend | None = None

    @property
    def written(self) -> int:
        """Number of scores in the file."""
        return int(np.isfinite(self.scores).sum())


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


def require_verifier(model: Embedder) -> None:
    """Require that a model is for speaker verification."""
    if model.task != "speaker-verification":
        raise InputError("this model is for anti-spoofing: it compares no speakers; score a manifest without --trials")


def score_trials(
    engine: Engine,
    manifest: str | Path,
    trials: str | Path,
    out: Path,
    backend: Backend | None = None,
    *,
    enrol: str | Path | None = None,
    cache: Path | None = None,
    qualities: bool = False,
    skip_bad: bool = False,
) -> ScoreFile:
    """Score a list of trials into `enrol<TAB>test<TAB>score`, names and order as in the list.

    A trial that stands twice is there twice. Only recordings that the trials need are embedded. With `enrol`, the first
    side of the trials names its speakers; with `qualities`, columns of quality measures follow, for calibration. Trials
    of recordings that `skip_bad` leaves out are left out, too.
    """
    require_verifier(engine.model)
    backend = backend or Backend.of(engine.model)
    enrolment = None if enrol is None else read_enrolment(enrol)
    utterances, listed = read_manifest(manifest), read_pairs(trials)
    plan = plan_trials(listed, manifest, utterances, enrolment)
    embeddings = embed_utterances(engine, plan.utterances, out, cache, skip_bad)
    if len(embeddings.ids) < len(plan.utterances):
        plan = plan_trials(_drop_missing(plan, embeddings), manifest, utterances, enrolment)
        embeddings = embeddings.take(utterance.utt_id for utterance in plan.utterances)
    scores, measures = processes.from_main(lambda: backend.score(embeddings, plan.models, plan.pairs))
    if processes.is_main():
        write_trials(out, plan.trials, scores, measures if qualities else {})
    processes.wait()
    return ScoreFile(out, scores, len(listed.test) - len(scores), len(plan.utterances), engine, backend)


def add_cohort(
    model: str | Path,
    manifest: str | Path,
    out: str | Path | None = None,
    top_n: int = TOP_N,
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    device: str = "auto",
    skip_bad: bool = False,
    embeddings: str | Path | None = None,
    crop_seconds: float | None = None,
    unit_length: bool = True,
) -> Cohort:
    """Give an exported verification model its cohort, which centres embeddings and normalises scores; return it.

    A calibration that the model has is dropped with a warning, as it was fitted on other scores. Cut off, the next call
    goes on from `MODEL.cohort.partial`.

    Args:
        model: folder of the model; also its hub id, with `out`.
        manifest: training manifest; none of its speakers should speak in the trials.
        out: new folder for the model with its cohort; without it, the model itself is changed.
        top_n: closest speakers of the cohort that AS-norm takes.
        batch_size, workers, window_seconds, device, skip_bad, embeddings: as in `score`.
        crop_seconds: embed one random crop of each recording instead of all of it; a shorter one is embedded whole.
        unit_length: average a speaker's embeddings centred and at unit length; otherwise as they are.
    """
    from hybrid_pruning.models.speech_model import SpeechModel

    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the model with its cohort goes")
    target = Path(model) if out is None else require_new_folder(out)
    loaded = SpeechModel.from_pretrained(model).to(choose_device(device))
    crops, window = crop_seconds is not None, window_seconds if crop_seconds is None else crop_seconds
    engine = Engine(loaded, batch_size, workers, window, crops)
    beside = target.resolve().with_name(f"{target.resolve().name}.cohort")
    cache = None if embeddings is None else Path(embeddings)
    cohort = loaded.cohort = make_cohort(engine, manifest, beside, top_n, cache, skip_bad, unit_length)
    dropped, loaded.calibration = loaded.calibration is not None, None
    if processes.is_main():
        with nullcontext(target) if out is None else new_folder(out) as place:
            loaded.save_pretrained(place)
        if dropped:
            warn("the model's calibration is dropped: it was of scores without this cohort")
    return cohort


def make_cohort(
    engine: Engine,
    manifest: str | Path,
    out: Path,
    top_n: int,
    cache: Path | None = None,
    skip_bad: bool = False,
    unit_length: bool = True,
) -> Cohort:
    """Return a training manifest as a cohort for a model; none of its speakers should speak in the trials."""
    require_verifier(engine.model)
    utterances, source = read_manifest(manifest), portable(str(manifest))
    speakers = {utterance.utt_id: utterance.speaker for utterance in utterances}
    require_speakers(len(set(speakers.values())), top_n, source)  # hours of embedding would come to nothing
    embeddings = embed_utterances(engine, utterances, out, cache, skip_bad)
    return build_cohort(embeddings, [speakers[name] for name in embeddings.ids], top_n, source, unit_length)


def write_trials(out: Path, trials: Pairs, scores: FloatArray, qualities: Mapping[str, FloatArray]) -> None:
    """Write scores of trials, with their quality measures in further columns."""
    cells = (column.tolist() for column in (scores, *qualities.values()))
    write_table(out, (*SCORE_COLUMNS, *qualities), zip(trials.enrol, trials.test, *cells, strict=True))


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
    if set(ENROLMENT_COLUMNS) <= set(header):
        utterances = read_manifest(path) if set(REQUIRED) <= set(header) else ()
        for line, cells in read_rows(path, ENROLMENT_COLUMNS):
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
        found: list[int] = []
        for name in enrolment.speakers.get(speaker, ()):
            place = register.find(name)
            if place is None:
                fault = f"speaker '{speaker}' is enrolled with '{name}', which is not in {manifest}"
                raise InputError(f"{enrolment.path}: {fault}")
            found.append(place)
        places[speaker] = tuple(found)
    return places


def _drop_missing(plan: TrialPlan, embeddings: Embeddings) -> Pairs:
    """Return the trials that need no recording without an embedding."""
    known = set(embeddings.ids)
    missing = np.array([utterance.utt_id not in known for utterance in plan.utterances])
    lacking = np.zeros(len(plan.models.names), dtype=np.bool_)
    lacking[plan.models.owner[missing[plan.models.places]]] = True
    rows = np.flatnonzero(~lacking[plan.pairs].any(axis=1)).tolist()
    if not rows:
        raise InputError(f"{plan.trials.path}: no trial is left without the recordings that cannot be used")
    enrol, test = plan.trials.enrol, plan.trials.test
    return Pairs(plan.trials.path, [enrol[row] for row in rows], [test[row] for row in rows])
