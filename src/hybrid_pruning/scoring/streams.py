"""Samples as they come -> verdicts as they can be given: on the stream so far, and on its last window.

    listener = hp.stream("models/hp50", rate=8000)
    for block in blocks:
        for verdict in listener.feed(block):
            print(verdict.seconds, verdict.llr, verdict.window_llr, verdict.undecided, verdict.alarm)

The windows are those of `detect` for a long recording, of a fixed length: one after another. The running LLR is that
of the mean of their embeddings. At every multiple of the window it equals the score of the audio so far as a file,
scored with that window (`windows.cut`); up to the first it equals the score of the audio so far at every hop, as of a
file that is taken whole; in between it stays. Memory is that of one window, however long the stream.

The last window slides by a hop. An alarm is its LLR at or below -ln(h / r), for h hops an hour and r false alarms an
hour: as the mean of 1 / LR over bona fide speech is 1, a calibrated LR falls to 1 / k with a probability of 1 / k at
most (Markov's inequality), so that r is the most to be expected in an hour of bona fide speech, dependent windows or
not. It holds as far as the calibration holds for windows of that length; a model without one gives no alarm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from hybrid_pruning.audio import HIGHEST_RATE_HZ, LOUDEST, LOWEST_RATE_HZ, SAMPLE_RATE_HZ, Wave, may_hold_speech
from hybrid_pruning.console import Span
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.waves import FULL_SCALE, NOT_FINITE
from hybrid_pruning.scoring.engine import Embedder, Engine, Vector, load_embedder
from hybrid_pruning.scoring.evidence import WEAK, Heard, active_seconds, find_gap, frame_levels, is_weak, range_of
from hybrid_pruning.scoring.verdicts import WORDS, draw_bar
from hybrid_pruning.scoring.windows import collate, repeat_short
from hybrid_pruning.tasks import Label

STREAM_WINDOW_SECONDS, HOP_SECONDS = 4.0, 1.0
HOUR_SECONDS = 3600.0
SAMPLES = {"s16": "<i2", "f32": "<f4"}
"""Forms of raw samples, little-endian, one channel."""


@dataclass(frozen=True, slots=True)
class StreamVerdict:
    """The verdict on a stream after so many seconds: the LLR of all of it, and of its last window, None if silent.

    `undecided` is the reason in words why there is no verdict, `thin` as far as it holds at any prior; `alarm` is None
    where the model is not calibrated.
    """

    seconds: float
    llr: float
    window_llr: float | None
    undecided: str | None
    thin: str | None
    alarm: bool | None
    active_seconds: float
    threshold: float

    @property
    def verdict(self) -> Label:
        """The likelier class."""
        return Label.BONAFIDE if self.llr >= self.threshold else Label.SPOOF

    def record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        decided = {"seconds": round(self.seconds, 3), "verdict": str(self.verdict), "llr": self.llr}
        window = {"window_llr": self.window_llr, "undecided": self.undecided, "thin": self.thin, "alarm": self.alarm}
        calibrated = {"threshold": self.threshold, "calibrated": self.alarm is not None}
        return {**decided, **window, "active_seconds": round(self.active_seconds, 2), **calibrated}

    def row(self) -> tuple[object, ...]:
        """Return its cells for a pipe: seconds, verdict or undecided, LLR, the last window's or -, alarm or -."""
        last = "-" if self.window_llr is None else f"{self.window_llr:.4f}"
        word = self.verdict if self.undecided is None else "undecided"
        return f"{self.seconds:.2f}", word, f"{self.llr:.4f}", last, "alarm" if self.alarm else "-"

    def text(self, unicode: bool = True) -> list[Span]:
        """Return it for a terminal."""
        word, colour = WORDS[self.verdict] if self.undecided is None else ("undecided", "yellow")
        last = self.llr if self.window_llr is None else self.window_llr
        left, middle, right = draw_bar(last - self.threshold, unicode)
        bar: list[Span] = [(left, "bold red"), middle, (right, "bold green")]
        said: list[Span] = [("  alarm", "bold red")] if self.alarm else [(f"  {self.undecided or ''}", "dim")]
        return [f"{self.seconds:8.1f} s  ", (f"{word:9}", f"bold {colour}"), f"  LLR {self.llr:+7.2f}  ", *bar, *said]


class Stream:
    """A detector that listens: `feed` it samples as they come, `finish` at the end; memory does not grow.

    Args:
        engine: the detector, and the length of its windows.
        rate: of the samples, in Hz; they are resampled as they come.
        hop_seconds: between verdicts; the window is a multiple of it.
        threshold: LLR from which the stream counts as bona fide.
        false_alarms: to be expected in an hour of bona fide speech, at most.
        embed: window [S] at 16 kHz -> embedding [E], in place of the engine's own.
    """

    def __init__(
        self,
        engine: Engine,
        rate: int = SAMPLE_RATE_HZ,
        hop_seconds: float = HOP_SECONDS,
        threshold: float = 0.0,
        false_alarms: float = 1.0,
        embed: Callable[[Wave], Vector] | None = None,
    ) -> None:
        if engine.model.task == "speaker-verification":
            raise InputError("this model is for speaker verification; a stream takes one for anti-spoofing")
        if not LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ:
            raise InputError(f"rate {rate} Hz; expected {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
        self.hop, self.window = round(hop_seconds * SAMPLE_RATE_HZ), engine.window
        if self.hop < engine.model.minimum_samples or self.window % self.hop:
            window = f"windows of {engine.window_seconds:g} s"
            raise InputError(
                f"a verdict every {hop_seconds:g} s: expected a whole part of the {window}, and longer sound"
            )
        if not false_alarms > 0:
            raise InputError(f"{false_alarms:g} false alarms an hour; expected more than 0")
        engine.check_window()
        self.engine, self.rate, self.threshold = engine, rate, threshold
        hops = HOUR_SECONDS * SAMPLE_RATE_HZ / self.hop
        self.alarm_llr = min(0.0, -math.log(hops / false_alarms)) if engine.model.calibration is not None else None
        self._embed = embed or self._embed_alone
        self._resampler = None if rate == SAMPLE_RATE_HZ else soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1)
        self._rest, self._last = np.zeros(0, np.float32), np.zeros(0, np.float32)
        self._sum: Vector | None = None
        self._samples = self._windows = 0
        self._llr, self._active, self._loudest, self._range, self._audible = 0.0, 0.0, -math.inf, 0.0, False

    def feed(self, samples: npt.ArrayLike) -> list[StreamVerdict]:
        """Take samples [N], floats of -1 to 1 or 16 and 32-bit integers, and return a verdict for each hop."""
        wave = np.asarray(samples)
        if wave.ndim != 1 or wave.dtype.kind not in "if":
            raise InputError(f"samples: expected [N] of one channel; found {list(wave.shape)} of {wave.dtype}")
        with np.errstate(all="ignore"):  # what is not finite is refused in a line
            wave = wave.astype(np.float32) / np.float32(FULL_SCALE.get(wave.dtype.name, 1))
        if not np.isfinite(wave).all():
            raise InputError(NOT_FINITE.replace("an utterance", "the stream"))
        if len(wave) and (loudest := float(np.abs(wave).max())) > LOUDEST:
            raise InputError(f"samples: values up to {loudest:.3g}, expected -1 to 1; send them on that scale")
        return self._take(wave if self._resampler is None else self._resampler.resample_chunk(wave))

    def finish(self) -> StreamVerdict | None:
        """Return the verdict on all of it, with what came after the last hop; None where nothing came."""
        if self._resampler is not None:
            end, self._resampler = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True), None
            found = self._take(end)
        else:
            found = []
        if len(self._rest):
            rest, self._rest = self._rest, self._rest[:0]
            return self._judge(rest)
        return found[-1] if found else self._judge(self._rest) if self._samples else None

    def _take(self, wave: Wave) -> list[StreamVerdict]:
        self._rest, found = np.concatenate([self._rest, wave]), list[StreamVerdict]()
        while len(self._rest) >= self.hop:
            chunk, self._rest = self._rest[: self.hop], self._rest[self.hop :].copy()
            found.append(self._judge(chunk))
        return found

    def _judge(self, chunk: Wave) -> StreamVerdict:
        """Return the verdict with one more piece, of a hop or, at the end, less."""
        self._samples += len(chunk)
        self._last = np.concatenate([self._last, chunk])[-self.window :]
        if len(levels := frame_levels(chunk)):
            self._loudest = max(self._loudest, float(np.percentile(levels, 95)))
            self._active += active_seconds(levels, self._loudest)
        self._range = max(self._range, range_of(frame_levels(self._last)))
        self._audible |= bool(len(chunk)) and may_hold_speech(chunk)
        vector = self._embed(self._last)
        whole = self._samples % self.window == 0 and len(chunk) > 0
        if whole:
            self._sum = vector if self._sum is None else self._sum + vector
            self._windows += 1
        classify = self.engine.model.classify_arrays
        alone = float(classify(vector[None])[0])
        if self._samples <= self.window:
            self._llr = alone
        elif whole and self._sum is not None:
            self._llr = float(classify((self._sum / np.float32(self._windows))[None])[0])
        if not (math.isfinite(self._llr) and math.isfinite(alone)):
            raise InputError("the score of the stream is not finite; has the model's training diverged?")
        last = alone if may_hold_speech(self._last) else None
        alarm = None if self.alarm_llr is None else last is not None and last <= self.alarm_llr
        calibration = self.engine.model.calibration
        thin = find_gap(self._llr, Heard(self._active, self._range, not self._audible), calibration)
        doubt = thin or (WEAK if is_weak(self._llr, self.threshold, calibration is not None) else None)
        seconds = self._samples / SAMPLE_RATE_HZ
        return StreamVerdict(seconds, self._llr, last, doubt, thin, alarm, self._active, self.threshold)

    def _embed_alone(self, wave: Wave) -> Vector:
        model = self.engine.model
        with model.evaluating():
            (vector,) = self.engine.embed(collate([(0, repeat_short(wave, model.minimum_samples))]))
        return vector


def stream(
    model: str | Path | Embedder,
    rate: int = SAMPLE_RATE_HZ,
    window_seconds: float = STREAM_WINDOW_SECONDS,
    hop_seconds: float = HOP_SECONDS,
    threshold: float = 0.0,
    false_alarms: float = 1.0,
    device: str = "auto",
) -> Stream:
    """Return a detector to be fed with samples, see `Stream`; the model is named as for `detect`."""
    engine = Engine(load_embedder(model, device), window_seconds=window_seconds, workers=0)
    return Stream(engine, rate, hop_seconds, threshold, false_alarms)


def from_bytes(data: bytes, form: str) -> npt.NDArray[Any]:
    """Return the samples [N] in bytes of one of the forms in SAMPLES."""
    kind = np.dtype(SAMPLES[form])
    if len(data) % kind.itemsize:
        raise InputError(f"{len(data)} bytes are no whole number of samples of {kind.itemsize} bytes")
    return np.frombuffer(data, kind)
