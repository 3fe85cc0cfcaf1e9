"""Windows of all clients -> batches -> embeddings, in one thread.

The oldest request is served first, with windows of others beside it that the same model takes and that need little
padding. A recording of many windows goes to the end of the queue after each batch, so that short ones pass it. A
request that was cancelled is left out of the next batch.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hybrid_pruning.audio import SAMPLE_RATE_HZ, Wave
from hybrid_pruning.errors import InputError
from hybrid_pruning.scoring.engine import CPU_SECONDS, Engine
from hybrid_pruning.scoring.windows import collate, repeat_short
from hybrid_pruning.serving.limits import Refusal

Vectors = npt.NDArray[np.float32]
PATIENCE_SECONDS = 0.005
"""For which a batch that is not full waits for further requests."""
LEAST_FILL = 0.5
"""Length of a window in a batch, of the longest's: shorter ones are mostly padding."""


@dataclass(slots=True, eq=False)
class Waiting:
    """Windows of one request, of which the first ones are embedded, and the future of all [W, E]."""

    engine: Engine
    pieces: Sequence[Wave]
    done: Future[Vectors] = field(default_factory=Future)
    begun: int = 0
    found: dict[int, Vectors] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds of audio that still wait."""
        return sum(map(len, self.pieces[self.begun :])) / SAMPLE_RATE_HZ


class Batcher:
    """The thread that runs the models; `waiting_seconds` of audio are queued at most."""

    def __init__(self, waiting_seconds: float) -> None:
        self.waiting_seconds = waiting_seconds
        self.batches = self.windows = 0
        self.computed_seconds = self.busy_seconds = 0.0
        self._jobs = deque[Waiting]()
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, engine: Engine, pieces: Sequence[Wave]) -> "Future[Vectors]":
        """Queue windows [S] each, and return the future of their embeddings [W, E]; cancel it to drop them."""
        job = Waiting(engine, pieces)
        with self._ready:
            if self._closed:
                raise Refusal(503, "the server is closing", 5)
            waiting = self.queued_seconds
            if waiting and waiting + job.seconds > self.waiting_seconds:
                raise Refusal(503, f"{waiting:.0f} s of audio are waiting; try again later", self.retry_after())
            self._jobs.append(job)
            self._ready.notify()
        return job.done

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._jobs)

    @property
    def queued_seconds(self) -> float:
        """Seconds of audio that wait."""
        return sum(job.seconds for job in tuple(self._jobs))

    def retry_after(self) -> int:
        """Return the seconds after which the queue may have been worked off, at the speed so far."""
        speed = self.computed_seconds / self.busy_seconds if self.busy_seconds else 1.0
        return int(min(60, max(1, self.queued_seconds / max(speed, 1e-3))))

    def close(self) -> None:
        """End the thread; what waits is cancelled."""
        with self._ready:
            self._closed = True
            for job in self._jobs:
                job.done.cancel()
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                if len(self._jobs) == 1:
                    self._ready.wait(PATIENCE_SECONDS)
                batch = self._take()
            if batch:
                self._compute(batch)

    def _take(self) -> list[tuple[Waiting, int]]:
        """Return the next batch's windows, as jobs and places, taken out of the queue."""
        while self._jobs and self._jobs[0].done.cancelled():
            self._jobs.popleft()
        if not self._jobs:
            return []
        first = self._jobs[0]
        engine, longest = first.engine, len(first.pieces[first.begun])
        most = engine.rows(longest)
        if engine.model.device_type == "cpu":
            most = max(1, min(most, int(CPU_SECONDS * SAMPLE_RATE_HZ) // longest))
        taken: list[tuple[Waiting, int]] = []
        for job in [job for job in self._jobs if job.engine.model is engine.model and not job.done.cancelled()]:
            while len(taken) < most and job.begun < len(job.pieces):
                if not LEAST_FILL * longest <= len(job.pieces[job.begun]) <= longest:
                    break
                taken.append((job, job.begun))
                job.begun += 1
        kept = [job for job in self._jobs if job.begun < len(job.pieces) and not job.done.cancelled()]
        served = {id(job) for job, _ in taken}
        self._jobs = deque(sorted(kept, key=lambda job: id(job) in served))  # stable: others keep their order
        return taken

    def _compute(self, batch: Sequence[tuple[Waiting, int]]) -> None:
        engine, started = batch[0][0].engine, time.perf_counter()
        jobs = list(dict.fromkeys(job for job, _ in batch))
        try:
            minimum = engine.model.minimum_samples
            windows = collate([(0, repeat_short(job.pieces[place], minimum)) for job, place in batch])
            for (job, place), vector in zip(batch, engine.embed(windows), strict=True):
                job.found[place] = vector
        except Exception as error:  # the thread lives on, the requests get the error
            for job in jobs:
                job.begun = len(job.pieces)
                _settle(job, error)
            with self._ready:
                self._jobs = deque(job for job in self._jobs if job not in jobs)
            return
        self.busy_seconds += time.perf_counter() - started
        self.computed_seconds += windows.wave.size / SAMPLE_RATE_HZ
        self.batches, self.windows = self.batches + 1, self.windows + len(batch)
        for job in jobs:
            if len(job.found) == len(job.pieces):
                _settle(job, None)


def _settle(job: Waiting, error: Exception | None) -> None:
    if not job.done.set_running_or_notify_cancel():
        return
    if error is not None:
        job.done.set_exception(error)
        return
    vectors = np.stack([job.found[place] for place in range(len(job.pieces))])
    if np.isfinite(vectors).all():
        job.done.set_result(vectors)
    else:
        job.done.set_exception(InputError("its embedding is not finite; has the model's training diverged?"))
