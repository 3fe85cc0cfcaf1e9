"""Long recordings in windows: the rule, the batches they go into, and reading them piece by piece.

The rule, the same in scoring, validation and detection: an utterance no longer than the window is taken whole. A longer
one is cut into the fewest windows that are no longer than it, all of the same length (so none is shorter than half);
neighbours share a sample or two at most. The utterance's embedding is the mean of its windows' embeddings; the
classifier sees that mean. Time grows with the length of the audio, memory does not.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ, AudioFile, Wave, audio_samples, check_seconds, may_hold_speech
from hybrid_pruning.console import progress_bar
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError

MOST_SECONDS = 86_400.0
DOUBTFUL_SECONDS = 1.0
"""A manifest may round its durations: one that comes this close to the window is read from the file's header."""
TOLERANCE = SAMPLE_RATE_HZ // 100
"""Samples that a window may lack at its end: resamplers and headers differ by a few."""
HEADER_READERS, HEADERS_AT_ONCE = 16, 1024
AHEAD = 2
"""Batches that each thread may be ahead of what is asked for."""


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of an utterance.

    Args:
        index: place of the utterance among those that are scored.
        path: its file.
        start: first sample at 16 kHz.
        samples: how many; roughly, where it is the whole utterance.
        total: how many the utterance has.
        seconds: how long the manifest says it is; nan where it does not.
    """

    index: int
    path: Path
    start: int
    samples: int
    total: int
    seconds: float = float("nan")

    @property
    def whole(self) -> bool:
        """Whether it is the utterance itself."""
        return self.samples == self.total


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows side by side.

    Args:
        wave: [B, S] float32 at 16 kHz, zeros beyond each window's length.
        lengths: [B] int64 samples of each window, or None where all have S.
        index: place of each window's utterance.
    """

    wave: Wave
    lengths: np.ndarray[Any, np.dtype[np.int64]] | None
    index: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Return how many samples are the windows' own, padding left out."""
        return self.wave.size if self.lengths is None else int(self.lengths.sum())

    def split(self, parts: int) -> list["WindowBatch"]:
        """Return up to `parts` smaller batches."""
        size = -(-len(self.wave) // parts)
        places = [slice(first, first + size) for first in range(0, len(self.wave), size)]
        return [
            WindowBatch(self.wave[place], None if self.lengths is None else self.lengths[place], self.index[place])
            for place in places
        ]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of the windows of one batch.

    Args:
        batch: those that could be read; None where none could. Its index names each row's utterance.
        failed: why the others could not, by utterance.
        audible: utterances of which a window may hold speech.
    """

    batch: WindowBatch | None
    failed: Mapping[int, str]
    audible: frozenset[int] = frozenset()


def window_samples(window_seconds: float) -> int:
    """Return a window's length in samples at 16 kHz.

    Raises:
        InputError: it is no finite number above 0.
    """
    if not 1 / SAMPLE_RATE_HZ <= window_seconds < MOST_SECONDS:  # nan is neither
        raise InputError(f"windows of {window_seconds:g} s; expected more than 0 and less than {MOST_SECONDS:g} s")
    return round(window_seconds * SAMPLE_RATE_HZ)


def cut(samples: int, window: int) -> list[tuple[int, int]]:
    """Return (start, samples) of the windows of an utterance.

    Args:
        samples: its length.
        window: the longest a window may be.
    """
    count = max(1, -(-samples // window))
    length = -(-samples // count)
    return [(place * (samples - length) // max(1, count - 1), length) for place in range(count)]


def measure_lengths(
    paths: Sequence[Path], seconds: Sequence[float] | None, window: int
) -> tuple[FloatArray, dict[int, str]]:
    """Find out how long recordings are, the processes of a job sharing the work.

    Args:
        paths: the files.
        seconds: durations where known (nan where not): a file that is clearly no longer than a window is not opened.
        window: the longest a window may be, in samples.

    Returns:
        [N] samples at 16 kHz, nan where the file cannot be opened, and why it cannot, by place.
    """
    known = np.full(len(paths), np.nan) if seconds is None else np.asarray(seconds, dtype=np.float64)
    samples = np.round(known * SAMPLE_RATE_HZ)
    samples[~(samples <= window - DOUBTFUL_SECONDS * SAMPLE_RATE_HZ)] = np.nan
    unknown = np.flatnonzero(np.isnan(samples))
    if not len(unknown):
        return samples, {}
    found, failed = _read_headers(paths, known.tolist(), unknown[processes.rank() :: processes.count()].tolist())
    samples = np.where(np.isnan(samples), processes.join_arrays(found), samples)
    return samples, dict(processes.join_lists(list(failed.items())))


def load_windows(batches: Iterable[Sequence[Window]], window: int, minimum: int, workers: int) -> Generator[Loaded]:
    """Yield the batches, decoding in threads, which the decoders let run side by side.

    A file that cannot be used takes nobody with it.

    Args:
        batches: the windows of each; asked for only as far ahead as the threads are.
        window: the longest a window may be, in samples.
        minimum: samples below which an utterance is repeated up to.
        workers: threads that decode; 0 for none but this one.
    """
    own, readers = threading.local(), list[_Reader]()

    def load(some: Sequence[Window]) -> Loaded:
        if not hasattr(own, "reader"):
            own.reader = _Reader(window, minimum)
            readers.append(own.reader)
        return _collate([own.reader.read(one) for one in some])

    try:
        yield from _run_ahead(load, batches, workers) if workers else map(load, batches)
    finally:
        for reader in readers:
            reader.close()


def _run_ahead(
    load: Callable[[Sequence[Window]], Loaded], batches: Iterable[Sequence[Window]], workers: int
) -> Generator[Loaded]:
    """Yield what is loaded in their order, a few batches ahead of who asks."""
    waiting: deque[Future[Loaded]] = deque()
    rest: Iterator[Sequence[Window]] = iter(batches)
    pool = ThreadPoolExecutor(workers, "decoder")
    try:
        while True:
            waiting.extend(pool.submit(load, some) for some in islice(rest, AHEAD * workers - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Reader:
    """Reads windows one after the other.

    The last file stays open: most formats are sought in, the others are decoded on from the window before.
    """

    def __init__(self, window: int, minimum: int) -> None:
        self.window, self.minimum = window, minimum
        self._file: AudioFile | None = None

    def read(self, window: Window) -> tuple[int, Wave | str]:
        """Return the utterance, and the window's wave or why it cannot be read."""
        try:
            wave = self._read(window)
        except InputError as error:
            self.close()
            return window.index, str(error)
        return window.index, wave if len(wave) >= self.minimum else np.resize(wave, self.minimum)

    def close(self) -> None:
        """Close the file that is open, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, window: Window) -> Wave:
        if self._file is None or self._file.path != window.path:
            self.close()
            self._file = AudioFile(window.path)
        if window.whole:
            return _read_whole(self._file, window, self.window)
        check_seconds(window.path, window.total, window.seconds)
        wave = self._file.read(window.start, window.samples)
        if len(wave) < window.samples - TOLERANCE:
            raise InputError(f"{window.path}: ends before its header says; it is cut off, or has changed meanwhile")
        return wave


def _read_whole(file: AudioFile, window: Window, longest: int) -> Wave:
    """Read an utterance, but no more of it than a window may be long."""
    wave = file.read(0, longest + TOLERANCE + 1)
    if len(wave) > longest + TOLERANCE:
        raise InputError(
            f"{file.path}: lasts {file.samples / SAMPLE_RATE_HZ:.1f} s, but {window.samples / SAMPLE_RATE_HZ:.1f} s "
            "were expected; correct the manifest's seconds, or put '-' there"
        )
    check_seconds(file.path, len(wave), window.seconds)
    return wave


def _collate(found: Sequence[tuple[int, Wave | str]]) -> Loaded:
    """Pad what could be read side by side; an utterance with a bad window is left out whole."""
    failed = {index: wave for index, wave in found if isinstance(wave, str)}
    good = [(index, wave) for index, wave in found if not isinstance(wave, str) and index not in failed]
    if not good:
        return Loaded(None, failed)
    lengths = np.array([len(wave) for _, wave in good], dtype=np.int64)
    padded = np.zeros((len(good), int(lengths.max())), dtype=np.float32)
    for row, (_, wave) in zip(padded, good, strict=True):
        row[: len(wave)] = wave
    same = bool((lengths == lengths[0]).all())
    audible = frozenset(index for index, wave in good if may_hold_speech(wave))
    return Loaded(WindowBatch(padded, None if same else lengths, tuple(index for index, _ in good)), failed, audible)


def _read_headers(
    paths: Sequence[Path], known: Sequence[float], indices: Sequence[int]
) -> tuple[FloatArray, dict[int, str]]:
    """Return [N] samples, nan where not asked for or not to be had, and why not."""
    found, failed = np.full(len(paths), np.nan), {}
    with ThreadPoolExecutor(HEADER_READERS) as pool, progress_bar() as bar:
        task = bar.add_task("reading lengths", total=len(indices))
        for first in range(0, len(indices), HEADERS_AT_ONCE):
            some = indices[first : first + HEADERS_AT_ONCE]
            lengths = pool.map(_header_samples, [paths[index] for index in some], [known[index] for index in some])
            for index, length in zip(some, lengths, strict=True):
                if isinstance(length, InputError):
                    failed[index] = str(length)
                else:
                    found[index] = length
            bar.update(task, advance=len(some))
    return found, failed


def _header_samples(path: Path, seconds: float) -> int | InputError:
    try:
        samples = audio_samples(path)
        check_seconds(path, samples, seconds)
        return samples
    except InputError as error:
        return error
