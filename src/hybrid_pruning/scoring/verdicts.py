"""Files -> verdicts: bona fide or spoofed (`detect`), the same speaker or another (`verify`), and by how much."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.console import Span
from hybrid_pruning.data.manifest import list_recordings
from hybrid_pruning.errors import InputError
from hybrid_pruning.metrics import FloatArray
from hybrid_pruning.scoring.backend import Backend, EnrolmentModels
from hybrid_pruning.scoring.embeddings import Embeddings
from hybrid_pruning.scoring.engine import Embedder, Engine, Recordings, load_embedder, raise_first
from hybrid_pruning.scoring.trial_scores import require_verifier
from hybrid_pruning.scoring.windows import cut, measure_lengths
from hybrid_pruning.tasks import Label

FEW_BATCHES = 2
"""Up to which decoding in threads of their own does not pay."""
BAR_WIDTH, BAR_LLR = 10, 10.0
Verdict = Literal["same", "different"]
Kind = Literal["LLR", "AS-norm", "cosine"]
COLOURS = {"same": "green", "different": "red"}
WORDS = {Label.BONAFIDE: ("bona fide", "green"), Label.SPOOF: ("spoofed", "red")}


@dataclass(frozen=True, slots=True)
class Detection:
    """The LLR of a file, natural logarithm, of bona fide against spoofed speech; it says nothing where `silent`."""

    path: Path
    llr: float
    seconds: float
    windows: int
    silent: bool = False

    def verdict(self, threshold: float = 0.0) -> Label:
        """Return bona fide from the threshold on, spoof below."""
        return Label.BONAFIDE if self.llr >= threshold else Label.SPOOF

    def record(self, threshold: float, calibrated: bool) -> dict[str, Any]:
        """Return it as a JSON object."""
        decided = {"path": str(self.path), "verdict": str(self.verdict(threshold)), "llr": self.llr}
        length = {"seconds": round(self.seconds, 3), "windows": self.windows, "silent": self.silent}
        return {**decided, "threshold": threshold, "calibrated": calibrated, **length}

    def row(self, threshold: float) -> tuple[object, ...]:
        """Return its cells for a pipe: verdict, LLR, seconds, windows and path."""
        return self.verdict(threshold), f"{self.llr:.4f}", f"{self.seconds:.3f}", self.windows, self.path

    def text(self, threshold: float, unicode: bool = True) -> list[Span]:
        """Return it for a terminal: verdict, LLR, a bar that leans to its side of the threshold, file, length."""
        word, colour = WORDS[self.verdict(threshold)]
        left, middle, right = draw_bar(self.llr - threshold, unicode)
        bar = (left, "bold red"), middle, (right, "bold green")
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        length = f"{self.seconds:.1f} s" if self.seconds < 60 else f"{hours:d}:{minutes:02d}:{seconds:02d}"
        length += "" if self.windows == 1 else f" in {self.windows} windows"
        return [(f"{word:9}", f"bold {colour}"), f"  LLR {self.llr:+7.2f}  ", *bar, f"  {self.path}  ", (length, "dim")]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that cannot be scored, and the reason in one line."""

    path: Path
    reason: str


def detect(
    model: str | Path | Embedder,
    paths: Sequence[str | Path],
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    batch_size: int = 16,
    device: str = "auto",
) -> Generator[Detection | Unreadable]:
    """Score recordings one by one, in order; one that cannot be read is yielded as `Unreadable`.

    The model is one for anti-spoofing; the other arguments are those of `score`.
    """
    files, engine = [Path(path) for path in paths], Engine(load_embedder(model, device), batch_size, 0, window_seconds)
    samples, failed = measure_lengths(files, None, engine.window)
    recordings = Recordings(files, samples)
    groups = {index: [index] for index in range(len(files)) if index not in failed}
    if sum(len(engine.batches(recordings, group)) for group in groups.values()) > FEW_BATCHES:
        engine = replace(engine, workers=workers)
    with closing(engine.run(recordings, groups, "scores")) as results:
        for index, path in enumerate(files):
            result = next(results) if index in groups else None
            if result is None or result.failed:
                yield Unreadable(path, (failed if result is None else result.failed)[index])
            else:
                seconds, windows = float(samples[index]) / SAMPLE_RATE_HZ, len(cut(int(samples[index]), engine.window))
                yield Detection(path, result.values[index], seconds, windows, index in result.silent)


def find_audio(place: str | Path, hidden: list[str] | None = None) -> list[Path]:
    """Return a file as it is, or the audio files in a folder and below by name; hidden ones go into `hidden`."""
    place = Path(place)
    if not place.is_dir():
        if not place.exists():
            raise InputError(f"{place}: no such file or folder")
        return [place]
    found = sorted(place / name for name in list_recordings(place, hidden))
    if not found:
        raise InputError(f"{place}: holds no audio files; looked for names that end in .wav, .flac, .mp3, .m4a, ...")
    return found


def draw_bar(distance: float, unicode: bool) -> tuple[str, str, str]:
    """Return a bar's left half, middle and right half; it is full at BAR_LLR from the threshold; unicode has blocks."""
    full, empty, middle = ("█", "·", "│") if unicode else ("#", ".", "|")
    size = max(1, round(BAR_WIDTH * min(1.0, abs(distance) / BAR_LLR)))
    low, high = (size, 0) if distance < 0 else (0, size)
    return empty * (BAR_WIDTH - low) + full * low, middle, full * high + empty * (BAR_WIDTH - high)


@dataclass(frozen=True, slots=True)
class SpeakerMatch:
    """The score of a recording against an enrolled speaker's: an LLR (natural logarithm), or of another kind.

    `seconds` are the durations of the recording, and of the enrolled speaker's together.
    """

    test: Path
    enrol: tuple[Path, ...]
    score: float
    kind: Kind
    seconds: tuple[float, float]

    def verdict(self, threshold: float | None) -> Verdict | None:
        """Return the verdict from a threshold on; none without one."""
        return None if threshold is None else "same" if self.score >= threshold else "different"

    def record(self, threshold: float | None) -> dict[str, Any]:
        """Return it as a JSON object."""
        files = {"test": str(self.test), "enrol": list(map(str, self.enrol))}
        decided = {"verdict": self.verdict(threshold), "score": self.score, "kind": self.kind, "threshold": threshold}
        seconds = {"test": round(self.seconds[0], 3), "enrol": round(self.seconds[1], 3)}
        return {**files, **decided, "calibrated": self.kind == "LLR", "seconds": seconds}

    def row(self, threshold: float | None) -> tuple[object, ...]:
        """Return its cells for a pipe: verdict or -, score, kind, and the recordings."""
        return self.verdict(threshold) or "-", f"{self.score:.4f}", self.kind, self.test, *self.enrol

    def text(self, threshold: float | None, unicode: bool = True) -> list[Span]:
        """Return it for a terminal: verdict, score, a bar where the score is an LLR, the recordings."""
        verdict = self.verdict(threshold)
        line: list[Span] = [(f"{verdict or 'no verdict':10}", f"bold {COLOURS[verdict]}" if verdict else "bold")]
        line.append(f"  {self.kind} {self.score:+7.2f}  ")
        if threshold is not None and self.kind == "LLR":
            line += zip(draw_bar(self.score - threshold, unicode), ("red", "", "green"), strict=True)
        enrol = ", ".join(map(str, self.enrol))
        return [*line, f"  {self.test} ({self.seconds[0]:.1f} s) against {enrol} ({self.seconds[1]:.1f} s)"]


def verify(
    model: str | Path | Embedder,
    test: str | Path,
    enrol: Sequence[str | Path],
    workers: int = 0,
    window_seconds: float = WINDOW_SECONDS,
    device: str = "auto",
) -> SpeakerMatch:
    """Compare a recording with those of an enrolled speaker, one at least, as `score` does with trials.

    The model is one for speaker verification; the other arguments are those of `score`.
    """
    engine, paths = Engine(load_embedder(model, device), 16, workers, window_seconds), [Path(test), *map(Path, enrol)]
    require_verifier(engine.model)
    backend = Backend.of(engine.model)
    samples, failed = measure_lengths(paths, None, engine.window)
    raise_first(failed)
    seconds = samples / SAMPLE_RATE_HZ
    return match(backend, paths, engine.run_paths(paths, "embeddings", seconds.tolist()), seconds)


def match(backend: Backend, paths: Sequence[Path], vectors: FloatArray, seconds: FloatArray) -> SpeakerMatch:
    """Compare the first of recordings with the others, the enrolled speaker's: embeddings [N, E], durations [N]."""
    models = EnrolmentModels.of([[0], list(range(1, len(paths)))], ["the recording", "the enrolled speaker"])
    (score,), _ = backend.score(
        Embeddings(list(map(str, paths)), vectors.astype(np.float32), seconds), models, np.array([[1, 0]])
    )
    kind: Kind = "LLR" if backend.calibration else "AS-norm" if backend.cohort else "cosine"
    return SpeakerMatch(paths[0], tuple(paths[1:]), float(score), kind, (float(seconds[0]), float(seconds[1:].sum())))
