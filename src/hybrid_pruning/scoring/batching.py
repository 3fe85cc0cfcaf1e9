"""A model through jobs: batches of windows -> embedding or score of each utterance, and where the time went."""

import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.console import progress_bar
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.embedder import FloatArray as Vectors
from hybrid_pruning.scoring.windows import Loaded, Window, WindowBatch, cut, load_windows

Value = TypeVar("Value")
Job = tuple[int, Sequence[int]]
"""A job's number, and the places of its utterances."""

BATCH_SECONDS = 120.0
"""Audio in a batch at most, padding included; only a single longer window may exceed it."""
CPU_SECONDS = 10.0
"""And in what a CPU computes at once, again but for a longer window: more gains it no speed and costs memory."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be scored, cut into jobs whose batches depend on nothing but these fields.

    Args:
        paths: the audio files.
        samples: [N] their lengths at 16 kHz; nan where a file is left out.
        batch_size: windows in a batch at most; fewer where they are long.
        window: the longest a window may be, in samples.
        seconds: durations that the files are held to; nan, or none at all, where they are not known.
    """

    paths: Sequence[Path]
    samples: FloatArray
    batch_size: int
    window: int
    seconds: Sequence[float] | None = None

    def jobs(self) -> list[list[int]]:
        """Return the jobs: utterances that share a batch, or one that fills several."""
        return plan_jobs(self.samples, self.batch_size, self.window)

    def batches(self, job: Sequence[int]) -> list[list[Window]]:
        """Return the batches of a job's windows."""
        pieces = [piece for index in job for piece in self._windows(index)]
        rows = rows_of(max(piece.samples for piece in pieces), self.batch_size)
        return [pieces[first : first + rows] for first in range(0, len(pieces), rows)]

    def _windows(self, index: int) -> list[Window]:
        path, total = self.paths[index], int(self.samples[index])
        seconds = math.nan if self.seconds is None else self.seconds[index]
        return [Window(index, path, start, size, total, seconds) for start, size in cut(total, self.window)]


@dataclass(frozen=True, slots=True)
class JobResult(Generic[Value]):
    """What a job came to.

    Args:
        job: its number.
        values: what was found, by place of the utterance: its score, or its embedding [E], the mean over its windows.
        failed: why there is none for an utterance, by its place.
        silent: utterances that hold no speech-like energy.
    """

    job: int
    values: Mapping[int, Value]
    failed: Mapping[int, str]
    silent: frozenset[int] = frozenset()


@dataclass(slots=True)
class Throughput:
    """Where the time of a scoring goes, summed up while it runs, for one process.

    Args:
        audio_seconds: audio that was scored.
        computed_seconds: audio that went through the model, padding included.
        waiting_seconds: time spent waiting for decoded audio.
        wall_seconds: all time from the first request to the last score.
    """

    audio_seconds: float = 0.0
    computed_seconds: float = 0.0
    waiting_seconds: float = 0.0
    wall_seconds: float = 0.0

    def of_all_processes(self) -> "Throughput":
        """Return what all processes of the job did together, and their mean times."""
        parts = processes.join_lists([self])
        audio, computed = sum(part.audio_seconds for part in parts), sum(part.computed_seconds for part in parts)
        waiting, wall = sum(part.waiting_seconds for part in parts), sum(part.wall_seconds for part in parts)
        return Throughput(audio, computed, waiting / len(parts), wall / len(parts))

    def __str__(self) -> str:
        if not self.computed_seconds or not self.wall_seconds:
            return "no audio was scored"
        return (
            f"{self.audio_seconds:.0f} s of audio in {self.wall_seconds:.1f} s, "
            f"{self.audio_seconds / self.wall_seconds:.1f} times real time; "
            f"{1 - self.audio_seconds / self.computed_seconds:.1%} of what was computed was padding, "
            f"{self.waiting_seconds / self.wall_seconds:.1%} of the time went on waiting for decoded audio"
        )


def score_jobs(
    model: Embedder,
    work: Work,
    jobs: Sequence[Job],
    workers: int,
    throughput: Throughput | None = None,
) -> Generator[JobResult[float]]:
    """Score jobs one after the other: `embed_jobs` and its arguments, with the score of each embedding.

    Raises:
        InputError: a score that is not finite.
    """
    with closing(embed_jobs(model, work, jobs, workers, throughput)) as found:
        for job in found:
            result = JobResult(job.job, _classify(model, job.values), job.failed, job.silent)
            require_finite(result.values, work.paths, "score")
            yield result


def embed_jobs(
    model: Embedder,
    work: Work,
    jobs: Sequence[Job],
    workers: int,
    throughput: Throughput | None = None,
) -> Generator[JobResult[Vectors]]:
    """Embed the utterances of jobs one after the other; close the generator to have the model in the mode it was in.

    Args:
        model: on the device that is to compute.
        work: what the jobs are about.
        jobs: number and utterances of each.
        workers: threads that decode.
        throughput: filled with where the time goes, where it is given.

    Raises:
        InputError: the windows are longer than the model takes.
    """
    _require_window(model, work)
    throughput = Throughput() if throughput is None else throughput
    started = time.perf_counter() - throughput.wall_seconds
    batches = (batch for _, job in jobs for batch in work.batches(job))
    with (
        model.evaluating(),
        closing(load_windows(batches, work.window, model.minimum_samples, workers)) as loaded,
        progress_bar() as bar,
    ):
        task = bar.add_task("scoring, seconds of audio", total=_seconds(work, [i for _, job in jobs for i in job]))
        before = throughput.audio_seconds

        def advance() -> None:
            throughput.wall_seconds = time.perf_counter() - started
            bar.update(task, completed=round(throughput.audio_seconds - before))

        for number, job in jobs:
            yield _embed_job(model, number, islice(loaded, len(work.batches(job))), throughput, advance)


def _require_window(model: Embedder, work: Work) -> None:
    if model.longest_samples is not None and work.window > model.longest_samples:
        longest = model.longest_samples // SAMPLE_RATE_HZ
        raise InputError(
            f"windows of {work.window / SAMPLE_RATE_HZ:g} s: this model takes {longest} s; lower --window-seconds"
        )


def _embed_job(
    model: Embedder, number: int, batches: Iterator[Loaded], throughput: Throughput, advance: Callable[[], None]
) -> JobResult[Vectors]:
    """Embed the utterances of a job from all of its batches."""
    sums: dict[int, Vectors] = {}
    windows: Counter[int] = Counter()
    failed: dict[int, str] = {}
    audible: set[int] = set()
    while (loaded := _wait_for(batches, throughput)) is not None:
        failed |= loaded.failed
        audible |= loaded.audible
        for batch in _split(loaded.batch, CPU_SECONDS if model.device_type == "cpu" else BATCH_SECONDS):
            for index, embedding in zip(batch.index, _embed(model, batch, throughput), strict=True):
                sums[index] = sums[index] + embedding if index in sums else embedding
                windows[index] += 1
        advance()
    embeddings = {index: total / np.float32(windows[index]) for index, total in sums.items() if index not in failed}
    return JobResult(number, embeddings, failed, frozenset(embeddings.keys() - audible))


def plan_jobs(samples: Sequence[float] | FloatArray, batch_size: int, window: int) -> list[list[int]]:
    """Group utterances whose windows are of similar length, longest first, so that little is padded.

    A job is one batch, or all the batches of one utterance too long for a single one: each of an utterance's windows is
    in the same job. The jobs depend on nothing but the arguments.

    Args:
        samples: length of each utterance; those whose length is nan are left out.
        batch_size: windows in a batch at most; fewer where they are long.
        window: the longest a window may be, in samples.
    """
    known = [(index, cut(int(value), window)) for index, value in enumerate(samples) if not math.isnan(value)]
    shapes = [(index, len(windows), windows[0][1]) for index, windows in known]
    jobs: list[list[int]] = []
    rows = longest = 0
    for index, count, length in sorted(shapes, key=lambda shape: (-shape[2], shape[0])):
        if not jobs or rows + count > rows_of(longest, batch_size):
            jobs.append([])
            rows, longest = 0, length
        jobs[-1].append(index)
        rows += count
    return jobs


def rows_of(longest: int, batch_size: int) -> int:
    """Return how many windows of up to `longest` samples go into a batch."""
    return max(1, min(batch_size, int(BATCH_SECONDS * SAMPLE_RATE_HZ) // max(1, longest)))


def _wait_for(batches: Iterator[Loaded], throughput: Throughput) -> Loaded | None:
    asked = time.perf_counter()
    loaded = next(batches, None)
    throughput.waiting_seconds += time.perf_counter() - asked
    return loaded


def _split(batch: WindowBatch | None, seconds: float) -> list[WindowBatch]:
    """Cut up a batch that holds more audio: it was planned for a GPU, or a manifest's durations are wrong."""
    if batch is None:
        return []
    return batch.split(-(-batch.wave.size // round(seconds * SAMPLE_RATE_HZ)))


def _embed(model: Embedder, batch: WindowBatch, throughput: Throughput) -> Vectors:
    """Return the [B, E] embeddings of the windows of a batch."""
    throughput.audio_seconds += batch.samples / SAMPLE_RATE_HZ
    throughput.computed_seconds += batch.wave.size / SAMPLE_RATE_HZ
    return model.embed_arrays(batch.wave, batch.lengths)


def _classify(model: Embedder, embeddings: Mapping[int, Vectors]) -> dict[int, float]:
    """Return the score of each utterance's embedding [E]."""
    if not embeddings:
        return {}
    scores = model.classify_arrays(np.stack(list(embeddings.values()))).tolist()
    return dict(zip(embeddings, scores, strict=True))


def require_finite(found: Mapping[int, Any], paths: Sequence[Path], what: str) -> None:
    """Require that what was found for each utterance, by its place, is finite.

    Raises:
        InputError: it is not; the message names the first one's file.
    """
    for index, values in found.items():
        if not np.isfinite(values).all():
            raise InputError(f"{paths[index]}: its {what} is not finite; has the training diverged?")


def _seconds(work: Work, indices: Sequence[int]) -> int:
    """Return how much audio utterances hold, in whole seconds, for the progress bar."""
    return round(float(work.samples[list(indices)].sum()) / SAMPLE_RATE_HZ)
