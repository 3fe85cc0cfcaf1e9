"""Long recordings in windows: the rule, and reading them piece by piece, batch by batch.

The rule, the same in scoring, validation and detection: a recording no longer than the window is taken whole. A longer
one is cut into the fewest windows that are no longer than it, all of the same length (so none is shorter than half);
neighbours share a sample or two at most. The recording's embedding is the mean of its windows' embeddings; the
classifier takes that mean. Time grows with the length of the audio, memory does not.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ, AudioFile, Wave, audio_samples, check_seconds, may_hold_speech
from hybrid_pruning.console import progress_bar
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError

DOUBTFUL_SECONDS = 1.0
"""A manifest may round its durations: one that comes this close to the window is read from the file's header."""
TOLERANCE = SAMPLE_RATE_HZ // 100
"""Samples that a window may lack at its end: resamplers and headers differ by a few."""
HEADER_READERS, HEADERS_AT_ONCE = 16, 1024
AHEAD = 2
"""Batches that each thread decodes ahead of their use."""


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a recording, `index` its place, in samples at 16 kHz; `seconds` as its manifest states them."""

    index: int
    path: Path
    start: int
    samples: int
    total: int
    seconds: float = float("nan")


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows side by side, without those of recordings that cannot be read.

    `wave` [B, S] float32 at 16 kHz, zeros beyond `lengths` [B]; `index` [B] the place of each window's recording; by
    place, the reason why one cannot be read, and those of which a window may hold speech.
    """

    wave: Wave
    lengths: npt.NDArray[np.int64]
    index: tuple[int, ...]
    failed: dict[int, str]
    audible: frozenset[int]


def cut(samples: int, window: int) -> list[tuple[int, int]]:
    """Return (start, samples) of the windows of a recording of `samples`, each no longer than `window`."""
    count = max(1, -(-samples // window))
    length = -(-samples // count)
    return [(place * (samples - length) // max(1, count - 1), length) for place in range(count)]


def measure_lengths(
    paths: Sequence[Path], seconds: Sequence[float] | None, window: int
) -> tuple[FloatArray, dict[int, str]]:
    """Return [N] samples at 16 kHz, nan where a file cannot be opened, and the reason by place.

    A file whose known duration (nan: unknown) is clearly no longer than a window is not opened. Under torchrun the
    processes share the work.
    """
    known = np.full(len(paths), np.nan) if seconds is None else np.asarray(seconds, dtype=np.float64)
    samples = np.round(known * SAMPLE_RATE_HZ)
    samples[~(samples <= window - DOUBTFUL_SECONDS * SAMPLE_RATE_HZ)] = np.nan
    unknown = np.flatnonzero(np.isnan(samples))
    if not len(unknown):
        return samples, {}

    def read_header(index: int) -> int | InputError:
        try:
            found = audio_samples(paths[index])
            check_seconds(paths[index], found, float(known[index]))
            return found
        except InputError as error:
            return error

    measured, failed = np.full(len(paths), np.nan), dict[int, str]()
    own = unknown[processes.rank() :: processes.count()].tolist()
    with ThreadPoolExecutor(HEADER_READERS) as pool, progress_bar() as bar:
        task = bar.add_task("reading lengths", total=len(own))
        for first in range(0, len(own), HEADERS_AT_ONCE):
            some = own[first : first + HEADERS_AT_ONCE]
            for index, found in zip(some, pool.map(read_header, some), strict=True):
                if isinstance(found, InputError):
                    failed[index] = str(found)
                else:
                    measured[index] = found
            bar.update(task, advance=len(some))
    samples = np.where(np.isnan(samples), processes.join_arrays(measured), samples)
    return samples, dict(processes.join_lists(list(failed.items())))


def load_windows(
    batches: Iterable[Sequence[Window]], window: int, minimum: int, workers: int
) -> Generator[WindowBatch]:
    """Yield batches in their order, decoded in so many threads, or with 0 in the caller's own.

    The batches are asked for only as far ahead as the threads are. `window` is the longest a window may be, in samples,
    `minimum` the samples up to which a shorter recording is repeated.
    """
    own, readers = threading.local(), list[_Reader]()

    def load(some: Sequence[Window]) -> WindowBatch:
        if not hasattr(own, "reader"):
            own.reader = _Reader(window, minimum)
            readers.append(own.reader)
        return collate([(one.index, own.reader.read(one)) for one in some])

    waiting, rest = deque[Future[WindowBatch]](), iter(batches)
    pool = ThreadPoolExecutor(max(1, workers), "decoder")
    try:
        if not workers:
            yield from map(load, rest)
        while True:
            waiting.extend(pool.submit(load, some) for some in islice(rest, AHEAD * workers - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for reader in readers:
            reader.close()


def repeat_short(wave: Wave, minimum: int) -> Wave:
    """Return a wave [S], repeated to the shortest length that a model takes."""
    return wave if len(wave) >= minimum else np.resize(wave, minimum)


class _Reader:
    """Reads windows one by one; the last file stays open, to be sought in or decoded on from the window before."""

    def __init__(self, window: int, minimum: int) -> None:
        self.window, self.minimum = window, minimum
        self._file: AudioFile | None = None

    def read(self, window: Window) -> Wave | str:
        """Return a window's wave, or the reason why it cannot be read."""
        try:
            if self._file is None or self._file.path != window.path:
                self.close()
                self._file = AudioFile(window.path)
            wave = self._read(self._file, window)
        except InputError as error:
            self.close()
            return str(error)
        return repeat_short(wave, self.minimum)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, file: AudioFile, window: Window) -> Wave:
        if window.samples == window.total:  # whole, but never more than fits into a window
            wave = file.read(0, self.window + TOLERANCE + 1)
            if len(wave) > self.window + TOLERANCE:
                raise InputError(
                    f"{file.path}: lasts {file.samples / SAMPLE_RATE_HZ:.1f} s, but "
                    f"{window.samples / SAMPLE_RATE_HZ:.1f} s were expected; correct the manifest's seconds, or put "
                    "'-' there"
                )
            check_seconds(file.path, len(wave), window.seconds)
            return wave
        check_seconds(window.path, window.total, window.seconds)
        wave = file.read(window.start, window.samples)
        if len(wave) < window.samples - TOLERANCE:
            raise InputError(f"{window.path}: ends before its header says; it is cut off, or has changed meanwhile")
        return wave


def collate(found: Sequence[tuple[int, Wave | str]]) -> WindowBatch:
    """Pad windows side by side; a recording with a bad window is left out whole."""
    failed = {index: wave for index, wave in found if isinstance(wave, str)}
    good = [(index, wave) for index, wave in found if not isinstance(wave, str) and index not in failed]
    lengths = np.array([len(wave) for _, wave in good], dtype=np.int64)
    padded = np.zeros((len(good), int(lengths.max(initial=0))), dtype=np.float32)
    for row, (_, wave) in zip(padded, good, strict=True):
        row[: len(wave)] = wave
    audible = frozenset(index for index, wave in good if may_hold_speech(wave))
    return WindowBatch(padded, lengths, tuple(index for index, _ in good), failed, audible)
