"""Model + audio -> scores, one log-likelihood ratio per utterance; higher is more bona fide.

Scores of files, in their order, in batches and in windows where they are long (`windows.py` states the rule):

    model = hp.SpeechModel.from_pretrained("models/hp50")
    scores = score_paths(model, ["short.flac", "two-hours.flac"])

Under torchrun every process scores its share of the batches. The batches are the same for any number of processes, and
after an interruption, and so are the scores.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import WINDOW_SECONDS
from hybrid_pruning.data.manifest import Utterance, read_manifest
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.batching import Throughput, Work, embed_jobs, require_finite, score_jobs
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.inference import SCORE, Options, infer, share
from hybrid_pruning.scoring.windows import measure_lengths, window_samples


def score_file(
    model: Embedder,
    manifest: str | Path,
    out: str | Path,
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    skip_bad: bool = False,
    throughput: Throughput | None = None,
) -> FloatArray:
    """Score every utterance of a manifest into `filename<TAB>cm-score`, in the manifest's order.

    Cut off, it goes on where it was when called again with the same arguments, and comes to the same scores bit for
    bit: what is finished is kept in the folder `OUT.partial` until the score file is written. A file that cannot be
    used stops nothing: the others are scored and kept, it is listed in `OUT.failed.tsv`, and the next call tries it
    again, alone.

    Args:
        model: the detector, on the device that is to score.
        manifest: its TSV file.
        out: the score file.
        batch_size: windows in a batch at most; fewer where they are long.
        workers: threads that decode.
        window_seconds: longer utterances are scored in windows no longer than this.
        skip_bad: write the score file without the utterances that cannot be scored.
        throughput: filled with where the time went, where it is given.

    Returns:
        [N] scores, the same to every process of the job; nan for what was skipped.

    Raises:
        InputError: a manifest that cannot be used, an output that cannot be written, a score that is not finite, or,
            once all others are scored, audio that cannot be used.
    """
    out, utterances = Path(out), read_manifest(manifest)
    options = Options(batch_size, workers, window_seconds, skip_bad)
    scores, _ = infer(
        model, utterances, out, SCORE, options, lambda found, _: _write_scores(out, utterances, found), throughput
    )
    return scores


def score_utterances(
    model: Embedder,
    utterances: Sequence[Utterance],
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
) -> FloatArray:
    """Return the [N] scores of a manifest's utterances: `score_paths` with their durations, where known.

    Raises:
        InputError: a file that cannot be used, or a score that is not finite.
    """
    seconds = [utterance.seconds for utterance in utterances]
    return score_paths(model, [u.path for u in utterances], batch_size, workers, window_seconds, seconds)


def score_paths(
    model: Embedder,
    paths: Sequence[str | Path],
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    seconds: Sequence[float] | None = None,
) -> FloatArray:
    """Return the [N] scores of audio files, the same to every process of a job; the model keeps its mode.

    Args:
        model: the detector, on the device that is to score.
        paths: the files.
        batch_size: windows in a batch at most; fewer where they are long.
        workers: threads that decode.
        window_seconds: longer files are scored in windows no longer than this.
        seconds: durations where known, nan where not; saves opening short files twice.

    Raises:
        InputError: a file that cannot be used, or a score that is not finite.
    """
    work = _plan(paths, batch_size, window_seconds, seconds)
    scores = np.full(len(paths), np.nan)
    with closing(score_jobs(model, work, share(list(enumerate(work.jobs()))), workers)) as results:
        for result in results:
            _raise_first(result.failed)
            scores[list(result.values)] = list(result.values.values())
    processes.wait()
    return processes.join_arrays(scores)


def embed_paths(
    model: Embedder,
    paths: Sequence[str | Path],
    batch_size: int = 16,
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    seconds: Sequence[float] | None = None,
) -> FloatArray:
    """Return the [N, E] embeddings of audio files, each the mean over its windows; as `score_paths`, of any task.

    Raises:
        InputError: a file that cannot be used, or an embedding that is not finite.
    """
    work = _plan(paths, batch_size, window_seconds, seconds)
    embeddings = np.full((len(paths), model.embedding_width), np.nan)
    with closing(embed_jobs(model, work, share(list(enumerate(work.jobs()))), workers)) as results:
        for result in results:
            _raise_first(result.failed)
            require_finite(result.values, work.paths, "embedding")
            embeddings[list(result.values)] = list(result.values.values())
    processes.wait()
    return processes.join_arrays(embeddings)


def _plan(paths: Sequence[str | Path], batch_size: int, window_seconds: float, seconds: Sequence[float] | None) -> Work:
    """Measure files and plan their batches; a file that cannot be opened is an error."""
    files, window = [Path(path) for path in paths], window_samples(window_seconds)
    samples, failed = measure_lengths(files, seconds, window)
    _raise_first(failed)
    return Work(files, samples, batch_size, window, seconds)


def _write_scores(out: Path, utterances: Sequence[Utterance], scores: FloatArray) -> None:
    rows = zip(utterances, scores.tolist(), strict=True)
    write_table(
        out, ("filename", "cm-score"), ((utterance.utt_id, score) for utterance, score in rows if np.isfinite(score))
    )


def _raise_first(failed: Mapping[int, str]) -> None:
    if failed:
        raise InputError(failed[min(failed)])
