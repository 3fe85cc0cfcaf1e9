"""A model for speaker verification + a manifest + a list of trials -> a score file, in the list's order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.data.keys import Pairs, read_pairs
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.models.cohort import TOP_N, Cohort, require_speakers
from hybrid_pruning.scoring.batching import Throughput
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.inference import Options
from hybrid_pruning.scoring.verification.backend import Backend
from hybrid_pruning.scoring.verification.embeddings import Embeddings
from hybrid_pruning.scoring.verification.enrolment import read_enrolment
from hybrid_pruning.scoring.verification.extraction import embed_utterances
from hybrid_pruning.scoring.verification.normalisation import build_cohort
from hybrid_pruning.scoring.verification.trial_list import TrialPlan, plan_trials
from hybrid_pruning.trees import portable

COLUMNS = ("enrol", "test", "score")


@dataclass(frozen=True, slots=True)
class Request:
    """What is compared, and how.

    Args:
        manifest: the recordings.
        trials: the list.
        enrol: who the names on its enrolment side are; None where they are recordings.
        cache: a file of embeddings, see `embed_utterances`.
        qualities: also write the trials' quality measures, for calibration.
    """

    manifest: Path
    trials: Path
    enrol: Path | None = None
    cache: Path | None = None
    qualities: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a list.

    Args:
        scores: [T] of the trials that could be scored.
        left_out: how many could not, as audio was skipped.
        recordings: how many there are in the trials.
    """

    scores: FloatArray
    left_out: int
    recordings: int


def require_verifier(model: Embedder) -> None:
    """Require that a model is for speaker verification.

    Raises:
        InputError: it is for anti-spoofing.
    """
    if model.task != "speaker-verification":
        raise InputError(
            "this model is for anti-spoofing: it has no voices to compare; score a manifest without --trials"
        )


def score_trials(
    model: Embedder,
    request: Request,
    out: str | Path,
    backend: Backend | None = None,
    options: Options | None = None,
    throughput: Throughput | None = None,
) -> Scored:
    """Score a list of trials into `enrol<TAB>test<TAB>score`, names and order as in the list.

    A trial that stands twice is there twice. Only recordings that the trials need are embedded.

    Args:
        model: on the device that is to compute.
        request: what is compared.
        out: the score file.
        backend: how; the model's own where none is given.
        options: with `skip_bad`, trials that need a recording that cannot be used are left out.
        throughput: filled with where the time went, where it is given.

    Raises:
        InputError: the model is for anti-spoofing, a file cannot be used, a trial names what is not known, or as
            `embed_utterances`.
    """
    require_verifier(model)
    out, backend = Path(out), backend or Backend.of(model)
    enrolment = None if request.enrol is None else read_enrolment(request.enrol)
    utterances, trials = read_manifest(request.manifest), read_pairs(request.trials)
    plan = plan_trials(trials, request.manifest, utterances, enrolment)
    embeddings = embed_utterances(model, plan.utterances, out, request.cache, options, throughput)
    kept = _drop_missing(plan, embeddings)
    if kept is not plan.trials:
        plan = plan_trials(kept, request.manifest, utterances, enrolment)
        embeddings = _arrange(embeddings, plan)
    scores, qualities = processes.from_main(lambda: backend.score(embeddings, plan.voices, plan.pairs))
    if processes.is_main():
        write_trials(out, plan.trials, scores, qualities if request.qualities else {})
    processes.wait()
    return Scored(scores, len(trials.test) - len(scores), len(plan.utterances))


def make_cohort(
    model: Embedder,
    manifest: Path,
    out: Path,
    top_n: int = TOP_N,
    cache: Path | None = None,
    options: Options | None = None,
) -> Cohort:
    """Return a training manifest as a cohort for a model.

    Args:
        model: on the device that is to compute.
        manifest: its speakers are the cohort; none of them should speak in the trials.
        out: beside it what is finished is kept meanwhile.
        top_n: how many of them AS-norm is to take.
        cache: as in `embed_utterances`.
        options: how.

    Raises:
        InputError: as `embed_utterances` and `build_cohort`.
    """
    require_verifier(model)
    utterances = read_manifest(manifest)
    speakers = {utterance.utt_id: utterance.speaker for utterance in utterances}
    require_speakers(
        len(set(speakers.values())), top_n, portable(str(manifest))
    )  # hours of embedding would come to nothing
    embeddings = embed_utterances(model, utterances, out, cache, options)
    return build_cohort(embeddings, [speakers[name] for name in embeddings.ids], top_n, portable(str(manifest)))


def write_trials(out: Path, trials: Pairs, scores: FloatArray, qualities: Mapping[str, FloatArray]) -> None:
    """Write scores of trials, with their quality measures in further columns.

    Raises:
        InputError: the file cannot be written.
    """
    columns = [scores, *qualities.values()]
    cells = (column.tolist() for column in columns)
    write_table(out, (*COLUMNS, *qualities), zip(trials.enrol, trials.test, *cells, strict=True))


def _drop_missing(plan: TrialPlan, embeddings: Embeddings) -> Pairs:
    """Return the trials that need no recording without an embedding; the plan's own where that is all of them."""
    known = set(embeddings.ids)
    missing = np.array([utterance.utt_id not in known for utterance in plan.utterances])
    if not missing.any():
        return plan.trials
    silent = np.zeros(len(plan.voices.names), dtype=np.bool_)
    silent[plan.voices.owner[missing[plan.voices.places]]] = True
    rows = np.flatnonzero(~silent[plan.pairs].any(axis=1)).tolist()
    if not rows:
        raise InputError(f"{plan.trials.path}: no trial is left without the recordings that cannot be used")
    enrol, test = plan.trials.enrol, plan.trials.test
    return Pairs(plan.trials.path, [enrol[row] for row in rows], [test[row] for row in rows])


def _arrange(embeddings: Embeddings, plan: TrialPlan) -> Embeddings:
    place = {name: index for index, name in enumerate(embeddings.ids)}
    return embeddings.take(np.array([place[utterance.utt_id] for utterance in plan.utterances], dtype=np.int64))
