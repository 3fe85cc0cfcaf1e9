"""Model + audio -> scores; higher is more bona fide, or more the same speaker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.audio import WINDOW_SECONDS
from hybrid_pruning.data.manifest import read_manifest
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.cohort import TOP_N
from hybrid_pruning.scoring.backend import Backend
from hybrid_pruning.scoring.engine import Embedder, Engine, load_embedder
from hybrid_pruning.scoring.resume import run_resumable
from hybrid_pruning.scoring.trial_scores import ScoreFile, make_cohort, require_verifier, score_trials


def score(
    model: str | Path | Embedder,
    manifest: str | Path,
    out: str | Path,
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    device: str = "auto",
    skip_bad: bool = False,
    *,
    trials: str | Path | None = None,
    enrol: str | Path | None = None,
    cohort: str | Path | None = None,
    top_n: int | None = None,
    normalise: bool = True,
    qualities: bool = False,
    embeddings: str | Path | None = None,
) -> ScoreFile:
    """Score every utterance of a manifest, or with `trials` every pair of a list, into a file, in the same order.

    Cut off, it goes on where it was when called again with the same arguments, and comes to the same scores bit for
    bit: results so far are kept in the folder `OUT.partial` until the score file is written. A file that cannot be
    used stops nothing: the others are scored and kept, it is listed in `OUT.failed.tsv`, and the next call tries it
    again, alone; the error comes once all others are done.

    Args:
        model: folder or hub id of an exported model, an .onnx or .xml file, or a loaded model.
        manifest: TSV of the recordings.
        out: the score file: `filename<TAB>cm-score`, or `enrol<TAB>test<TAB>score`.
        batch_size: windows in a batch at most; fewer where they are long.
        workers: threads that decode.
        window_seconds: longer recordings are cut into windows no longer than this.
        device: of a model given by its name, see `choose_device`.
        skip_bad: leave out recordings that cannot be used, and trials that need them.
        trials: list of trials, for a model for speaker verification.
        enrol: recordings of the speakers on the trials' enrolment side; without it that side names recordings.
        cohort: training manifest to centre with and normalise against, in place of the model's own cohort.
        top_n: closest speakers of `cohort` that AS-norm takes; 300 by default.
        normalise: apply AS-norm, where there is a cohort; without it, nor calibration.
        qualities: also write the trials' quality measures, for calibration.
        embeddings: file of embeddings to take from and add to, see `embed_utterances`.
    """
    if top_n is not None and cohort is None:
        raise InputError("score: --top-n goes with --cohort; that of a model's own cohort is in the model")
    given = {"--enrol": enrol, "--cohort": cohort, "--no-norm": not normalise, "--qualities": qualities}
    alone = [name for name, value in (given | {"--embeddings": embeddings}).items() if value not in (None, False)]
    if trials is None and alone:
        raise InputError(f"score: {alone[0]} goes with --trials, for a model for speaker verification")
    out, loaded = Path(out), load_embedder(model, device)
    engine = Engine(loaded, batch_size, workers, window_seconds)
    if trials is None:
        if loaded.task == "speaker-verification":
            name = model if isinstance(model, (str, Path)) else "this model"
            raise InputError(f"{name}: is for speaker verification; say with --trials which recordings to compare")
        utterances = read_manifest(manifest)

        def write(scores: FloatArray, _: FloatArray) -> None:
            rows = zip((utterance.utt_id for utterance in utterances), scores.tolist(), strict=True)
            write_table(out, ("filename", "cm-score"), (row for row in rows if np.isfinite(row[1])))

        scores, _ = run_resumable(engine, utterances, out, "scores", write, skip_bad)
        left_out = int(np.isnan(scores).sum())
        return ScoreFile(out, scores, left_out, len(scores) - left_out, engine)
    require_verifier(loaded)
    options: dict[str, Any] = {"cache": None if embeddings is None else Path(embeddings), "skip_bad": skip_bad}
    if cohort is None:
        backend = Backend.of(loaded)
    else:
        beside = out.with_name(f"{out.name}.cohort")
        backend = Backend(make_cohort(engine, cohort, beside, top_n or TOP_N, **options))
    if not normalise:
        if backend.cohort is None:
            raise InputError("score: --no-norm, but there is no AS-norm to leave out: the model has no cohort")
        backend = Backend(backend.cohort, normalise=False)
    return score_trials(engine, manifest, trials, out, backend, enrol=enrol, qualities=qualities, **options)


def score_paths(
    model: Embedder,
    paths: Sequence[str | Path],
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    seconds: Sequence[float] | None = None,
) -> FloatArray:
    """Return the [N] scores of audio files, the same to every process; the model keeps its mode.

    One that cannot be read is an error. Durations in `seconds` [N], nan where not known, save opening short files
    twice; the other arguments are those of `score`.
    """
    return Engine(model, batch_size, workers, window_seconds).run_paths(paths, "scores", seconds)


def embed_paths(
    model: Embedder,
    paths: Sequence[str | Path],
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    seconds: Sequence[float] | None = None,
) -> FloatArray:
    """Return the [N, E] embeddings of audio files, each the mean over its windows; as `score_paths`, of any task."""
    return Engine(model, batch_size, workers, window_seconds).run_paths(paths, "embeddings", seconds)
