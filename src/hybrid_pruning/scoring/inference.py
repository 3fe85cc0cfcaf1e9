"""Every utterance of a manifest through a model, so that a call that was cut off can go on: scores or embeddings.

Under torchrun every process does its share of the batches. The batches are the same for any number of processes, and
after an interruption, and so is what comes out.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import NO_SPEECH, WINDOW_SECONDS
from hybrid_pruning.console import printable, say, warn
from hybrid_pruning.data.manifest import Utterance
from hybrid_pruning.data.tables import write_table
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import fingerprint_model, versions
from hybrid_pruning.scoring.batching import Job, JobResult, Throughput, Work, embed_jobs, require_finite, score_jobs
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.embedder import FloatArray as Vectors
from hybrid_pruning.scoring.resume import SCALARS, VECTORS, Partial, Storage, fingerprint_manifest
from hybrid_pruning.scoring.windows import measure_lengths, window_samples

Jobs = Callable[[Embedder, Work, Sequence[Job], int, Throughput | None], Generator[JobResult[Any]]]


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is found for each utterance.

    Args:
        done: what files then are, in messages.
        name: what they then have.
        jobs: finds it, job after job.
        storage: how it is kept meanwhile.
    """

    done: str
    name: str
    jobs: Jobs
    storage: Storage


def _embed_jobs(*arguments: Any) -> Generator[JobResult[Vectors]]:
    """Yield embeddings that are finite."""
    with closing(embed_jobs(*arguments)) as results:
        for result in results:
            require_finite(result.values, arguments[1].paths, "embedding")
            yield result


SCORE = Quantity("scored", "scores", score_jobs, SCALARS)
EMBEDDING = Quantity("embedded", "embeddings", _embed_jobs, VECTORS)


@dataclass(frozen=True, slots=True)
class Options:
    """How a manifest is worked through.

    Args:
        batch_size: windows in a batch at most; fewer where they are long.
        workers: threads that decode.
        window_seconds: longer utterances are cut into windows no longer than this.
        skip_bad: go on without the utterances that cannot be used.
    """

    batch_size: int = 16
    workers: int = 2
    window_seconds: float = WINDOW_SECONDS
    skip_bad: bool = False


def infer(
    model: Embedder,
    utterances: Sequence[Utterance],
    out: Path,
    quantity: Quantity,
    options: Options,
    write: Callable[[FloatArray, FloatArray], None],
    throughput: Throughput | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Find something of every utterance; a file that cannot be used stops nothing but is told in the end.

    Args:
        model: on the device that is to compute.
        utterances: N of them.
        out: beside it stands, meanwhile, the folder `OUT.partial`; and `OUT.failed.tsv` where files cannot be used.
        quantity: `SCORE` or `EMBEDDING`.
        options: how.
        write: called in the main process with the result, before what was kept meanwhile is removed.
        throughput: filled with where the time went, where it is given.

    Returns:
        What was found, [N] or [N, E], nan for what was skipped, and [N] samples at 16 kHz; the same to every process.

    Raises:
        InputError: an output that cannot be written, a value that is not finite, or, once all others are done, audio
            that cannot be used.
    """
    paths = [utterance.path for utterance in utterances]
    window, seconds = window_samples(options.window_seconds), [utterance.seconds for utterance in utterances]
    with Partial(out, _settings(model, utterances, quantity, options), quantity.storage) as partial:
        samples, failed = partial.lengths(lambda: measure_lengths(paths, seconds, window))
        work = Work(paths, samples, options.batch_size, window, seconds)
        todo = _plan_rest(work, partial, failed)
        found, more, silent = _finish(model, todo, partial, quantity, options.workers, throughput)
    failed = failed | todo.failed | more
    if silent and processes.is_main():
        warn(f"{paths[min(silent)]}: {NO_SPEECH}; {len(silent):,} of {len(paths):,} files are like this")
    if processes.is_main():
        _list_failures(out, utterances, failed)
        if not failed or options.skip_bad:
            write(found, todo.work.samples)
            partial.remove()
    processes.wait()  # whoever leaves with an error ends the job, and the main process has to have written by then
    if failed and not options.skip_bad:
        _refuse(out, failed, len(utterances), quantity)
    return found, todo.work.samples


def failures_of(out: Path) -> Path:
    """Return where the files that could not be used for an output are listed."""
    return out.with_name(f"{out.name}.failed.tsv")


def share(jobs: list[Job]) -> list[Job]:
    """Return this process's share: longest first to each in turn, so that all are done at about the same time."""
    return jobs[processes.rank() :: processes.count()]


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left to do after earlier calls.

    Args:
        work: with the lengths of files that are tried again.
        jobs: number and utterances of each.
        values: what is known already, by place.
        failed: why files that were tried again cannot be opened, by place.
        silent: places of those known to hold no speech-like energy.
    """

    work: Work
    jobs: list[Job]
    values: dict[int, Any]
    failed: dict[int, str]
    silent: frozenset[int]


def _plan_rest(work: Work, partial: Partial, failed: Mapping[int, str]) -> _Rest:
    """Leave out the jobs that are done; what failed in an earlier call becomes a job of its own.

    The other batches stay what they were, so their values do.
    """
    earlier = partial.results()
    values = {index: value for result in earlier for index, value in result.values.items()}
    jobs, done = work.jobs(), {result.job for result in earlier}
    todo: list[Job] = [(number, job) for number, job in enumerate(jobs) if number not in done]
    if earlier and processes.is_main():
        say(
            f"{partial.folder}: going on after {len(jobs) - len(todo)} of {len(jobs)} batches",
        )
    settled = {*values, *failed, *(index for _, job in todo for index in job)}
    again = [index for index in range(len(work.paths)) if index not in settled]
    found, more = measure_lengths([work.paths[index] for index in again], None, work.window)
    samples = work.samples.copy()
    samples[again] = found
    todo += [(len(jobs) + index, [index]) for index in again if np.isfinite(samples[index])]
    silent = frozenset(index for result in earlier for index in result.silent)
    return _Rest(
        replace(work, samples=samples), todo, values, {again[place]: why for place, why in more.items()}, silent
    )


def _finish(
    model: Embedder, rest: _Rest, partial: Partial, quantity: Quantity, workers: int, throughput: Throughput | None
) -> tuple[FloatArray, dict[int, str], set[int]]:
    """Do this process's share of what is left; return what was found of all, why the others failed, and the silent."""
    shape = (len(rest.work.paths),) if quantity is SCORE else (len(rest.work.paths), model.embedding_width)
    values, failed, silent = np.full(shape, np.nan), dict[int, str](), set(rest.silent)
    if processes.is_main() and rest.values:
        values[list(rest.values)] = list(rest.values.values())
    with closing(quantity.jobs(model, rest.work, share(rest.jobs), workers, throughput)) as results:
        for result in results:
            partial.add(result)
            if result.values:
                values[list(result.values)] = list(result.values.values())
            failed |= result.failed
            silent |= result.silent
    processes.wait()
    failures = dict(processes.join_lists(list(failed.items())))
    return processes.join_arrays(values), failures, set(processes.join_lists(sorted(silent)))


def _settings(model: Embedder, utterances: Sequence[Utterance], quantity: Quantity, options: Options) -> dict[str, Any]:
    """Return all that the values depend on, down to the last bit, as far as this program knows it."""
    if not processes.is_main():
        return {}
    return {
        "quantity": quantity.name,
        "model": fingerprint_model(model, calibrated=quantity is SCORE),
        "manifest": fingerprint_manifest(utterances),
        "batch_size": options.batch_size,
        "window_seconds": options.window_seconds,
        "device": model.device_type,
        "version": versions(),
    }


def _list_failures(out: Path, utterances: Sequence[Utterance], failed: Mapping[int, str]) -> None:
    if not failed:
        failures_of(out).unlink(missing_ok=True)
        return
    chosen = ((utterances[index], failed[index]) for index in sorted(failed))
    rows = ((utterance.utt_id, utterance.path, printable(" ".join(why.split()))) for utterance, why in chosen)
    write_table(failures_of(out), ("utt_id", "path", "reason"), rows)


def _refuse(out: Path, failed: Mapping[int, str], files: int, quantity: Quantity) -> NoReturn:
    raise InputError(
        f"{failed[min(failed)]}; {len(failed)} of {files} files cannot be {quantity.done} and are listed in "
        f"{failures_of(out)}; the {quantity.name} of the others are kept: mend these and call again, or leave them out "
        "with --skip-bad"
    )
