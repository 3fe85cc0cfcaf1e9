"""A recording against those of an enrolled speaker -> same or different, and by how much."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.console import Span
from hybrid_pruning.scoring.engine import Embedder, Engine, load_embedder, raise_first
from hybrid_pruning.scoring.verdicts import draw_bar
from hybrid_pruning.scoring.verification.backend import Backend, EnrolmentModels
from hybrid_pruning.scoring.verification.embeddings import Embeddings
from hybrid_pruning.scoring.verification.trial_scores import require_verifier
from hybrid_pruning.scoring.windows import measure_lengths

COLOURS = {"same": "green", "different": "red"}
Verdict = Literal["same", "different"]
Kind = Literal["LLR", "AS-norm", "cosine"]


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
        if threshold is None:
            return None
        return "same" if self.score >= threshold else "different"


def verify(
    model: str | Path | Embedder,
    test: str | Path,
    enrol: Sequence[str | Path],
    workers: int = 0,
    window_seconds: float = WINDOW_SECONDS,
    device: str = "auto",
) -> SpeakerMatch:
    """Compare a recording with those of an enrolled speaker, as `score` does it with trials.

    Args:
        model: for speaker verification: a folder, hub id or .onnx file, or a loaded model.
        test: the recording.
        enrol: recordings of the enrolled speaker, one at least.
        workers: threads that decode.
        window_seconds: longer recordings are cut into windows up to this.
        device: cpu, cuda, cuda:1, mps; auto takes cuda where there is one.

    Returns:
        The score, a log-likelihood ratio where the model is calibrated, and the seconds of both sides.
    """
    engine = Engine(load_embedder(model, device), 16, workers, window_seconds)
    require_verifier(engine.model)
    backend, paths = Backend.of(engine.model), [Path(test), *map(Path, enrol)]
    samples, failed = measure_lengths(paths, None, engine.window)
    raise_first(failed)
    seconds = samples / SAMPLE_RATE_HZ
    vectors = engine.run_paths(paths, "embeddings", seconds.tolist()).astype(np.float32)
    models = EnrolmentModels.of([[0], list(range(1, len(paths)))], ["the recording", "the enrolled speaker"])
    (score,), _ = backend.score(Embeddings(list(map(str, paths)), vectors, seconds), models, np.array([[1, 0]]))
    kind: Kind = "LLR" if backend.calibration else "AS-norm" if backend.cohort else "cosine"
    return SpeakerMatch(paths[0], tuple(paths[1:]), float(score), kind, (float(seconds[0]), float(seconds[1:].sum())))


def match_record(found: SpeakerMatch, threshold: float | None) -> dict[str, Any]:
    """Return a comparison as a JSON object."""
    return {
        "test": str(found.test),
        "enrol": list(map(str, found.enrol)),
        "verdict": found.verdict(threshold),
        "score": found.score,
        "kind": found.kind,
        "threshold": threshold,
        "calibrated": found.kind == "LLR",
        "seconds": {"test": round(found.seconds[0], 3), "enrol": round(found.seconds[1], 3)},
    }


def match_row(found: SpeakerMatch, threshold: float | None) -> tuple[object, ...]:
    """Return the cells of a comparison for a pipe: verdict or -, score, kind, and the recordings."""
    return found.verdict(threshold) or "-", f"{found.score:.4f}", found.kind, found.test, *found.enrol


def match_text(found: SpeakerMatch, threshold: float | None, unicode: bool = True) -> list[Span]:
    """Return a comparison for a terminal: verdict, score, a bar where the score is an LLR, the recordings."""
    verdict = found.verdict(threshold)
    line: list[Span] = [(f"{verdict or 'no verdict':10}", f"bold {COLOURS[verdict]}" if verdict else "bold")]
    line.append(f"  {found.kind} {found.score:+7.2f}  ")
    if threshold is not None and found.kind == "LLR":
        line += zip(draw_bar(found.score - threshold, unicode), ("red", "", "green"), strict=True)
    enrol = ", ".join(map(str, found.enrol))
    return [*line, f"  {found.test} ({found.seconds[0]:.1f} s) against {enrol} ({found.seconds[1]:.1f} s)"]
