"""Recordings -> answers as JSON objects, for many clients at a time: decode in threads, compute in batches.

service = Service([Served.load("hp50", "models/hp50", 30.0)], Limits())
answer = await service.detect(path, "call.wav", service.find(None))
"""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.audio import SAMPLE_RATE_HZ, Wave, may_hold_speech, read_whole
from hybrid_pruning.console import visible
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import write_json
from hybrid_pruning.scoring import evidence
from hybrid_pruning.scoring.streams import Stream, StreamVerdict
from hybrid_pruning.scoring.trial_scores import require_verifier
from hybrid_pruning.scoring.verdicts import Detection, match
from hybrid_pruning.scoring.windows import cut
from hybrid_pruning.serving.batching import Batcher, Vectors
from hybrid_pruning.serving.counters import Counters
from hybrid_pruning.serving.limits import LARGEST_FORM, Limits, Refusal
from hybrid_pruning.serving.served import Served

COLUMNS = 240
"""Of a waveform's picture."""
LONGEST_NAME = 200
Answer = dict[str, Any]


class Service:
    """Models and the one thread that runs them; with `keep` a folder of what was uploaded and answered."""

    def __init__(self, models: Sequence[Served], limits: Limits | None = None, keep: Path | None = None) -> None:
        self.models = {model.name: model for model in models}
        self.limits, self.keep = limits or Limits(), keep
        self.counters = Counters()
        self.batcher = Batcher(self.limits.waiting_seconds)
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, "decoder")
        self._listeners = ThreadPoolExecutor(max(1, self.limits.streams), "listener")

    def close(self) -> None:
        """End the threads; requests that wait are cancelled."""
        self.batcher.close()
        for pool in (self._decoders, self._listeners):
            pool.shutdown(cancel_futures=True)

    def find(self, name: str | None, task: str | None = None) -> Served:
        """Return a model by its name; without one, the first of a task."""
        fitting = [one for one in self.models.values() if task in (None, one.engine.model.task)]
        if name is None and fitting:
            return fitting[0]
        found = self.models.get(name or "")
        if found is None:
            wanted = f"no model for {task}" if name is None else f"no model '{visible(name)[:LONGEST_NAME]}'"
            raise InputError(f"{wanted} is served; there are: {', '.join(self.models)}")
        return found

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Hold one of the places for requests in work, from before the body is read."""
        if self.counters.running >= self.limits.queue:
            line = f"{self.limits.queue} requests are in work; try again later"
            raise Refusal(503, line, self.batcher.retry_after())
        self.counters.running += 1
        try:
            yield
        finally:
            self.counters.running -= 1

    async def detect(
        self,
        path: Path,
        name: str,
        served: Served,
        prior: float = 0.5,
        threshold: float | None = None,
        timeline: float | None = None,
    ) -> Answer:
        """Judge a recording: the fields of `detect --json`, and what a page shows beside them.

        Args:
            path: of the file, which is not told; `name` is.
            prior: probability of a spoof before the recording is heard; decides the threshold where that is None.
            timeline: also return the LLR of each window up to so many seconds, and the waveform's columns.
        """
        if served.backend is not None:
            raise InputError(f"{served.name}: is for speaker verification; it compares recordings, see verify")
        started = time.perf_counter()
        threshold = evidence.to_threshold(prior) if threshold is None else threshold
        wave = await self._read(path, name)
        pieces = [wave[start : start + size] for start, size in cut(len(wave), served.engine.window)]
        shorter = cut(len(wave), round(timeline * SAMPLE_RATE_HZ)) if timeline else []
        some = [wave[start : start + size] for start, size in shorter]
        both = await self.embed_windows(served, [*pieces, *(some if len(shorter) > 1 else [])])
        mean = sum(both[1 : len(pieces)], start=both[0]) / np.float32(len(pieces))
        llrs = served.engine.model.classify_arrays(np.stack([mean, *both[len(pieces) :]]))
        if not np.isfinite(llrs).all():
            raise InputError(f"{served.name}: its score is not finite; has the training diverged?")
        silent = not any(map(may_hold_speech, pieces))
        found = Detection(Path(name), float(llrs[0]), len(wave) / SAMPLE_RATE_HZ, len(pieces), silent)
        heard = evidence.Heard.of(wave, silent)
        thin = evidence.find_gap(found.llr, heard, served.engine.model.calibration)
        weak = evidence.is_weak(found.llr, threshold, served.calibrated)
        answer = {
            **found.record(threshold, served.calibrated),
            "model": served.name,
            "undecided": thin or (evidence.WEAK if weak else None),
            "thin": thin,
            "probability_spoof": evidence.spoof_probability(found.llr, prior),
            "prior": prior,
            "active_seconds": round(heard.active, 2),
        }
        if timeline:
            values = llrs[1:] if len(shorter) > 1 else llrs[:1]
            audible = [float(llr) if may_hold_speech(piece) else None for piece, llr in zip(some, values, strict=True)]
            answer["timeline"] = [
                {"start": start / SAMPLE_RATE_HZ, "seconds": size / SAMPLE_RATE_HZ, "llr": llr}
                for (start, size), llr in zip(shorter, audible, strict=True)
            ]
            answer["waveform"] = draw_waveform(wave)
        return await self._finish(answer, started, [path], len(wave))

    async def verify(self, files: Sequence[tuple[Path, str]], served: Served, threshold: float | None = None) -> Answer:
        """Compare the first recording with the others, those of an enrolled speaker: the fields of `verify --json`."""
        require_verifier(served.engine.model)
        assert served.backend is not None
        started = time.perf_counter()
        if not 2 <= len(files) <= LARGEST_FORM:
            raise InputError(f"{len(files)} recordings; expected one as 'test' and one or more as 'enrol'")
        waves = [await self._read(path, name) for path, name in files]
        vectors = np.stack(await asyncio.gather(*(self._embed(served, wave) for wave in waves)))
        seconds = np.array([len(wave) / SAMPLE_RATE_HZ for wave in waves])
        found = match(served.backend, [Path(name) for _, name in files], vectors, seconds)
        threshold = 0.0 if threshold is None and served.calibrated else threshold
        gaps = (
            evidence.find_gap(
                found.score, evidence.Heard.of(wave, not may_hold_speech(wave)), served.backend.calibration
            )
            for wave in waves
        )
        weak = evidence.is_weak(found.score, threshold or 0.0, served.calibrated)
        doubt = next(filter(None, gaps), evidence.WEAK if weak else None)
        answer = {**found.record(threshold), "model": served.name, "undecided": doubt}
        return await self._finish(answer, started, [path for path, _ in files], sum(map(len, waves)))

    async def embed(self, path: Path, name: str, served: Served) -> Answer:
        """Return the embedding of a recording, the mean over its windows."""
        started = time.perf_counter()
        wave = await self._read(path, name)
        vector = await self._embed(served, wave)
        answer = {"path": name, "model": served.name, "seconds": round(len(wave) / SAMPLE_RATE_HZ, 3)}
        return await self._finish({**answer, "embedding": vector.tolist()}, started, [path], len(wave))

    async def embed_windows(self, served: Served, pieces: Sequence[Wave]) -> Vectors:
        """Return the embeddings [W, E] of windows; to cancel this drops those that still wait."""
        return await asyncio.wrap_future(self.batcher.submit(served.engine, pieces))

    @contextmanager
    def open_stream(self, served: Served, window_seconds: float, **options: Any) -> Iterator[Stream]:
        """Open one of the streams there may be; its windows are batched with those of others. Feed it in a thread."""
        if self.counters.streams >= self.limits.streams:
            raise Refusal(503, f"{self.limits.streams} streams are open; try again later", 60)

        def embed(wave: Wave) -> Any:
            try:
                return self.batcher.submit(served.engine, [wave]).result(self.limits.timeout)[0]
            except (CancelledError, TimeoutError):
                raise Refusal(503, "the server is closing, or has too much to do", 60) from None

        listener = Stream(replace(served.engine, window_seconds=window_seconds), embed=embed, **options)
        self.counters.streams += 1
        try:
            yield listener
        finally:
            self.counters.streams -= 1

    async def feed(self, listener: Stream, samples: Any) -> AsyncIterator[StreamVerdict]:
        """Yield the verdicts on further samples, or with None the last one."""
        loop = asyncio.get_running_loop()
        if samples is None:
            end = await loop.run_in_executor(self._listeners, listener.finish)
            if end is not None:
                yield end
            return
        self.counters.audio_seconds += len(samples) / listener.rate
        for first in range(0, len(samples), size := max(1, listener.rate // 4)):
            piece = samples[first : first + size]
            for verdict in await loop.run_in_executor(self._listeners, listener.feed, piece):
                yield verdict

    def metrics(self) -> str:
        """Return all counts in the text format of Prometheus."""
        queue = self.batcher
        return self.counters.text(
            {
                "queue_requests": queue.queued,
                "queue_audio_seconds": queue.queued_seconds,
                "batches_total": queue.batches,
                "windows_total": queue.windows,
                "model_seconds_total": queue.busy_seconds,
                "models": len(self.models),
            }
        )

    async def _embed(self, served: Served, wave: Wave) -> Any:
        pieces = [wave[start : start + size] for start, size in cut(len(wave), served.engine.window)]
        vectors = await self.embed_windows(served, pieces)
        return sum(vectors[1:], start=vectors[0]) / np.float32(len(vectors))

    async def _read(self, path: Path, name: str) -> Wave:
        def read() -> Wave:
            try:
                return read_whole(path, self.limits.seconds)
            except InputError as error:
                raise InputError(str(error).replace(str(path), name)) from None

        return await asyncio.get_running_loop().run_in_executor(self._decoders, read)

    async def _finish(self, answer: Answer, started: float, files: Sequence[Path], samples: int) -> Answer:
        answer["milliseconds"] = round(1000 * (time.perf_counter() - started), 1)
        self.counters.audio_seconds += samples / SAMPLE_RATE_HZ
        if self.keep is not None:
            stem = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
            await asyncio.to_thread(_keep, self.keep, stem, files, dict(answer))
        return answer


def _keep(folder: Path, stem: str, files: Sequence[Path], answer: Answer) -> None:
    for index, path in enumerate(files):
        shutil.copyfile(path, folder / f"{stem}-{index}.audio")
    write_json(folder / f"{stem}.json", answer)


def draw_waveform(wave: Wave, columns: int = COLUMNS) -> list[float]:
    """Return the largest amplitude in each of so many equal parts of a wave [S], fewer where it is shorter."""
    edges = np.linspace(0, len(wave), min(columns, len(wave)) + 1).astype(int)[:-1]
    return [round(float(value), 3) for value in np.maximum.reduceat(np.abs(wave), edges)]


def show_name(name: str | None) -> str:
    """Return the name that a client gave a recording as text that is safe to show; it names no file here."""
    return visible(name or "recording")[:LONGEST_NAME]
