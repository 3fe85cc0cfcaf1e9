"""Files -> verdicts for a person or a script: bona fide or spoofed, and by how much.

model = hp.SpeechModel.from_pretrained("models/hp50")
for found in detect(model, ["a.flac", "b.wav"]):
    print(found.path, found.llr if isinstance(found, Detection) else found.reason)
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.console import Span
from hybrid_pruning.data.names import list_recordings
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.batching import JobResult, Work, score_jobs
from hybrid_pruning.scoring.embedder import Embedder
from hybrid_pruning.scoring.windows import cut, measure_lengths, window_samples
from hybrid_pruning.tasks import Label

FEW_BATCHES = 2
"""Up to which decoding in threads of their own does not pay."""
BAR_WIDTH, BAR_LLR = 10, 10.0
WORDS = {Label.BONAFIDE: ("bona fide", "green"), Label.SPOOF: ("spoofed", "red")}


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found about a file.

    Args:
        path: the file.
        llr: log-likelihood ratio of bona fide against spoofed speech, natural logarithm.
        seconds: its duration.
        windows: how many it was scored in; 1 for a whole one.
        silent: whether it holds no speech-like energy, so that its score says nothing.
    """

    path: Path
    llr: float
    seconds: float
    windows: int
    silent: bool = False

    def verdict(self, threshold: float = 0.0) -> Label:
        """Return bona fide from the threshold on, spoof below."""
        return Label.BONAFIDE if self.llr >= threshold else Label.SPOOF


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be judged, and why in one line."""

    path: Path
    reason: str


def detect(
    model: Embedder,
    paths: Sequence[str | Path],
    workers: int = 2,
    window_seconds: float = WINDOW_SECONDS,
    batch_size: int = 16,
) -> Generator[Detection | Unreadable]:
    """Judge files one after the other, in their order; what cannot be read is told and passed over.

    A file is scored as `score_paths` does it, but never beside another one, so that each is told as soon as it is done.

    Args:
        model: the detector, on the device that is to score.
        paths: the files.
        workers: threads that decode.
        window_seconds: longer files are scored in windows no longer than this.
        batch_size: windows of a long file in a batch at most.

    Raises:
        InputError: a score that is not finite.
    """
    files, window = [Path(path) for path in paths], window_samples(window_seconds)
    samples, failed = measure_lengths(files, None, window)
    work = Work(files, samples, batch_size, window)
    jobs = [(index, [index]) for index in range(len(files)) if index not in failed]
    few = sum(len(work.batches(job)) for _, job in jobs) <= FEW_BATCHES
    with closing(score_jobs(model, work, jobs, 0 if few else workers)) as results:
        for index, path in enumerate(files):
            result: JobResult[float] = (
                JobResult(index, {}, {index: failed[index]}) if index in failed else next(results)
            )
            if index in result.failed:
                yield Unreadable(path, result.failed[index])
            else:
                windows = len(cut(int(samples[index]), window))
                yield Detection(
                    path, result.values[index], float(samples[index]) / SAMPLE_RATE_HZ, windows, index in result.silent
                )


def find_audio(place: str | Path, hidden: list[str] | None = None) -> list[Path]:
    """Return a file as it is, whatever its suffix, or the audio files in a folder and below, ordered by their names.

    Args:
        place: the file or folder.
        hidden: is given the paths of the hidden files in a folder, which are left out.

    Raises:
        InputError: there is nothing of that name, or no audio in the folder.
    """
    place = Path(place)
    if not place.is_dir():
        if not place.exists():
            raise InputError(f"{place}: no such file or folder")
        return [place]
    found = sorted(place / name for name in list_recordings(place, hidden))
    if not found:
        raise InputError(f"{place}: holds no audio files; looked for names that end in .wav, .flac, .mp3, .m4a, ...")
    return found


def is_calibrated(model: Embedder) -> bool:
    """Whether a model's scores were calibrated on data that it was not trained on.

    Raises:
        InputError: the model is one for speaker verification, and scores nothing.
    """
    if model.task == "speaker-verification":
        raise InputError("this model is for speaker verification: it compares recordings, see verify")
    return model.calibration is not None


def as_record(found: Detection, threshold: float, calibrated: bool) -> dict[str, Any]:
    """Return a detection as one JSON object has it."""
    return {
        "path": str(found.path),
        "verdict": str(found.verdict(threshold)),
        "llr": found.llr,
        "threshold": threshold,
        "calibrated": calibrated,
        "seconds": round(found.seconds, 3),
        "windows": found.windows,
        "silent": found.silent,
    }


def as_row(found: Detection, threshold: float) -> tuple[object, ...]:
    """Return the cells of a detection as a pipe gets it: verdict, LLR, seconds, windows and path."""
    return found.verdict(threshold), f"{found.llr:.4f}", f"{found.seconds:.3f}", found.windows, found.path


def as_text(found: Detection, threshold: float, unicode: bool = True) -> list[Span]:
    """Return a detection as a person reads it: verdict, LLR, a bar that leans to its side of the threshold, file."""
    word, colour = WORDS[found.verdict(threshold)]
    left, middle, right = draw_bar(found.llr - threshold, unicode)
    bar = (left, "bold red"), middle, (right, "bold green")
    verdict, llr = (f"{word:9}", f"bold {colour}"), f"  LLR {found.llr:+7.2f}  "
    return [verdict, llr, *bar, f"  {found.path}  ", (_length(found), "dim")]


def draw_bar(distance: float, unicode: bool) -> tuple[str, str, str]:
    """Return a bar's left half, its middle and its right half; it is full BAR_LLR away from the threshold.

    Args:
        distance: of a log-likelihood ratio from its threshold.
        unicode: whether the terminal has blocks.
    """
    full, empty, middle = ("█", "·", "│") if unicode else ("#", ".", "|")
    size = min(BAR_WIDTH, max(1, round(BAR_WIDTH * abs(distance) / BAR_LLR)))
    low, high = (size, 0) if distance < 0 else (0, size)
    return empty * (BAR_WIDTH - low) + full * low, middle, full * high + empty * (BAR_WIDTH - high)


def _length(found: Detection) -> str:
    minutes, seconds = divmod(round(found.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    length = f"{found.seconds:.1f} s" if found.seconds < 60 else f"{hours:d}:{minutes:02d}:{seconds:02d}"
    return length if found.windows == 1 else f"{length} in {found.windows} windows"
