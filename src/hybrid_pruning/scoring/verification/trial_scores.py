"""A model for speaker verification + a list of trials -> a score file, in the list's order; and its cohort."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import WINDOW_SECONDS
from hybrid_pruning.console import warn
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.data.trials import Pairs, read_pairs
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import new_folder, require_new_folder
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.models.cohort import TOP_N, Cohort, require_speakers
from hybrid_pruning.scoring.engine import Embedder, Engine, choose_device
from hybrid_pruning.scoring.verification.backend import Backend, build_cohort
from hybrid_pruning.scoring.verification.embeddings import Embeddings, embed_utterances
from hybrid_pruning.scoring.verification.trial_list import TrialPlan, plan_trials, read_enrolment
from hybrid_pruning.trees import portable

SCORE_COLUMNS = ("enrol", "test", "score")


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
    """
    from hybrid_pruning.models.speech_model import SpeechModel

    if out is None and not Path(model).is_dir():
        raise InputError(f"{model}: is no folder here; say with --out where the model with its cohort goes")
    target = Path(model) if out is None else require_new_folder(out)
    loaded = SpeechModel.from_pretrained(model).to(choose_device(device))
    engine = Engine(loaded, batch_size, workers, window_seconds)
    beside = target.resolve().with_name(f"{target.resolve().name}.cohort")
    cache = None if embeddings is None else Path(embeddings)
    cohort = loaded.cohort = make_cohort(engine, manifest, beside, top_n, cache, skip_bad)
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
    top_n: int = TOP_N,
    cache: Path | None = None,
    skip_bad: bool = False,
) -> Cohort:
    """Return a training manifest as a cohort for a model; none of its speakers should speak in the trials."""
    require_verifier(engine.model)
    utterances, source = read_manifest(manifest), portable(str(manifest))
    speakers = {utterance.utt_id: utterance.speaker for utterance in utterances}
    require_speakers(len(set(speakers.values())), top_n, source)  # hours of embedding would come to nothing
    embeddings = embed_utterances(engine, utterances, out, cache, skip_bad)
    return build_cohort(embeddings, [speakers[name] for name in embeddings.ids], top_n, source)


def write_trials(out: Path, trials: Pairs, scores: FloatArray, qualities: Mapping[str, FloatArray]) -> None:
    """Write scores of trials, with their quality measures in further columns."""
    cells = (column.tolist() for column in (scores, *qualities.values()))
    write_table(out, (*SCORE_COLUMNS, *qualities), zip(trials.enrol, trials.test, *cells, strict=True))


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
