"""Model + audio -> scores, one log-likelihood ratio per utterance; higher is more bona fide.

Scores of files, in their order, in batches and in windows where they are long (`windows.py` states the rule):

    model = hp.SpeechModel.from_pretrained("models/hp50")
    scores = score_paths(model, ["short.flac", "two-hours.flac"])

Under torchrun every process scores its share of the batches. The batches are the same for any number of processes, and
after an interruption, and so are the scores.
"""

import csv
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from hybrid_pruning import processes
from hybrid_pruning.artifact import versions
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write
from hybrid_pruning.jobs import Throughput, Work, embed_jobs, require_finite, score_jobs
from hybrid_pruning.manifest import Utterance, read_manifest
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.partial import Partial, fingerprint_manifest, fingerprint_model
from hybrid_pruning.processes import FloatArray
from hybrid_pruning.terminal import console
from hybrid_pruning.windows import WINDOW_SECONDS, measure_lengths, window_samples

DEVICES = ("cpu", "cuda", "mps")


def score_file(
    model: SpeechModel,
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
        workers: processes that decode.
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
    paths = [utterance.path for utterance in utterances]
    window, seconds = window_samples(window_seconds), [utterance.seconds for utterance in utterances]
    with Partial(out, _settings(model, utterances, batch_size, window_seconds)) as partial:
        samples, failed = partial.lengths(lambda: measure_lengths(paths, seconds, window))
        work = Work(paths, samples, batch_size, window, seconds)
        todo = _plan_rest(work, partial, failed)
        scores, more = _score_rest(model, todo, partial, workers, throughput)
    failed = failed | todo.failed | more
    if processes.is_main():
        _list_failures(out, utterances, failed)
        if not failed or skip_bad:
            _write_scores(out, utterances, scores)
            partial.remove()
    processes.wait()  # whoever leaves with an error ends the job, and the main process has to have written by then
    if failed and not skip_bad:
        _refuse(out, failed, len(utterances))
    return scores


def score_utterances(
    model: SpeechModel,
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
    model: SpeechModel,
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
        workers: processes that decode.
        window_seconds: longer files are scored in windows no longer than this.
        seconds: durations where known, nan where not; saves opening short files twice.

    Raises:
        InputError: a file that cannot be used, or a score that is not finite.
    """
    work = _plan(paths, batch_size, window_seconds, seconds)
    scores = np.full(len(paths), np.nan)
    with closing(score_jobs(model, work, _share(list(enumerate(work.jobs()))), workers)) as results:
        for result in results:
            _raise_first(result.failed)
            scores[list(result.scores)] = list(result.scores.values())
    processes.wait()
    return processes.join_arrays(scores)


def embed_paths(
    model: SpeechModel,
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
    embeddings = np.full((len(paths), model.head.embedding_width), np.nan)
    with closing(embed_jobs(model, work, _share(list(enumerate(work.jobs()))), workers)) as results:
        for result in results:
            _raise_first(result.failed)
            found = {index: value.double().cpu().numpy() for index, value in result.embeddings.items()}
            require_finite(found, work.paths, "embedding")
            embeddings[list(found)] = list(found.values())
    processes.wait()
    return processes.join_arrays(embeddings)


def _plan(paths: Sequence[str | Path], batch_size: int, window_seconds: float, seconds: Sequence[float] | None) -> Work:
    """Measure files and plan their batches; a file that cannot be opened is an error."""
    files, window = [Path(path) for path in paths], window_samples(window_seconds)
    samples, failed = measure_lengths(files, seconds, window)
    _raise_first(failed)
    return Work(files, samples, batch_size, window, seconds)


def choose_device(name: str = "auto") -> torch.device:
    """Return a device by its name; `auto` is CUDA where there is one, and otherwise the CPU.

    Raises:
        InputError: this machine, or this build of torch, has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise InputError(f"device '{name}' is unknown; expected one of auto, {', '.join(DEVICES)}, or e.g. cuda:1")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"device '{name}' cannot be used here ({reason}); 'hybrid-pruning doctor' lists them"
        ) from error
    return device


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left to do after earlier calls.

    Args:
        work: with the lengths of files that are tried again.
        jobs: number and utterances of each.
        scores: what is known already, by place.
        failed: why files that were tried again cannot be opened, by place.
    """

    work: Work
    jobs: list[tuple[int, list[int]]]
    scores: dict[int, float]
    failed: dict[int, str]


def _plan_rest(work: Work, partial: Partial, failed: Mapping[int, str]) -> _Rest:
    """Leave out the jobs that are done; what failed in an earlier call becomes a job of its own.

    The other batches stay what they were, so their scores do.
    """
    earlier = partial.results()
    scores = {index: score for result in earlier for index, score in result.scores.items()}
    jobs, done = work.jobs(), {result.job for result in earlier}
    todo = [(number, job) for number, job in enumerate(jobs) if number not in done]
    if earlier and processes.is_main():
        console.print(
            f"{partial.folder}: going on after {len(jobs) - len(todo)} of {len(jobs)} batches",
            soft_wrap=True,
            markup=False,
        )
    settled = {*scores, *failed, *(index for _, job in todo for index in job)}
    again = [index for index in range(len(work.paths)) if index not in settled]
    found, more = measure_lengths([work.paths[index] for index in again], None, work.window)
    samples = work.samples.copy()
    samples[again] = found
    todo += [(len(jobs) + index, [index]) for index in again if np.isfinite(samples[index])]
    return _Rest(replace(work, samples=samples), todo, scores, {again[place]: why for place, why in more.items()})


def _score_rest(
    model: SpeechModel, rest: _Rest, partial: Partial, workers: int, throughput: Throughput | None
) -> tuple[FloatArray, dict[int, str]]:
    """Do this process's share of what is left; return the [N] scores of all, and why the others failed."""
    scores, failed = np.full(len(rest.work.paths), np.nan), dict[int, str]()
    if processes.is_main():
        scores[list(rest.scores)] = list(rest.scores.values())
    with closing(score_jobs(model, rest.work, _share(rest.jobs), workers, throughput)) as results:
        for result in results:
            partial.add(result)
            scores[list(result.scores)] = list(result.scores.values())
            failed |= result.failed
    processes.wait()
    return processes.join_arrays(scores), dict(processes.join_lists(list(failed.items())))


def _share(jobs: list[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
    """Return this process's share: longest first to each in turn, so that all are done at about the same time."""
    return jobs[processes.rank() :: processes.count()]


def _settings(
    model: SpeechModel, utterances: Sequence[Utterance], batch_size: int, window_seconds: float
) -> dict[str, Any]:
    """Return all that the scores depend on, down to the last bit, as far as this program knows it."""
    if not processes.is_main():
        return {}
    return {
        "model": fingerprint_model(model),
        "manifest": fingerprint_manifest(utterances),
        "batch_size": batch_size,
        "window_seconds": window_seconds,
        "device": next(model.parameters()).device.type,
        "version": versions(),
    }


def _write_scores(out: Path, utterances: Sequence[Utterance], scores: FloatArray) -> None:
    with atomic_write(out) as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(("filename", "cm-score"))
        rows = zip(utterances, scores.tolist(), strict=True)
        writer.writerows((utterance.utt_id, repr(score)) for utterance, score in rows if np.isfinite(score))


def failures_of(out: Path) -> Path:
    """Return where the files that could not be scored into a score file are listed."""
    return out.with_name(f"{out.name}.failed.tsv")


def _list_failures(out: Path, utterances: Sequence[Utterance], failed: Mapping[int, str]) -> None:
    if not failed:
        failures_of(out).unlink(missing_ok=True)
        return
    with atomic_write(failures_of(out)) as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(("utt_id", "path", "reason"))
        chosen = ((utterances[index], failed[index]) for index in sorted(failed))
        writer.writerows((utterance.utt_id, utterance.path, " ".join(why.split())) for utterance, why in chosen)


def _refuse(out: Path, failed: Mapping[int, str], files: int) -> NoReturn:
    raise InputError(
        f"{failed[min(failed)]}; {len(failed)} of {files} files cannot be scored and are listed in {failures_of(out)}; "
        "the scores of the others are kept: mend these and call again, or leave them out with --skip-bad"
    )


def _raise_first(failed: Mapping[int, str]) -> None:
    if failed:
        raise InputError(failed[min(failed)])
