"""A server of a model that needs no torch and no time, in this process, for the tests of what is around models."""

import contextlib
import io
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import uvicorn

from corpus import SAMPLE_RATE_HZ, swell
from hybrid_pruning.models.calibration import Calibration
from hybrid_pruning.scoring.backend import Backend
from hybrid_pruning.scoring.engine import Engine
from hybrid_pruning.serving.application import build_app
from hybrid_pruning.serving.limits import Limits
from hybrid_pruning.serving.served import Served
from hybrid_pruning.serving.server import configure, listen
from hybrid_pruning.serving.service import Service


class MeanModel:
    """A detector whose LLR is 100 times the mean of the samples."""

    device_type, minimum_samples, embedding_width = "cpu", 400, 2
    cohort = None

    def __init__(self, task: str = "anti-spoofing") -> None:
        self.task, self.calibration = task, Calibration() if task == "anti-spoofing" else None

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def embed_arrays(self, wave: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        sizes = [wave.shape[1]] * len(wave) if lengths is None else lengths
        rows = zip(wave, sizes, strict=True)
        return np.array([[row[:size].mean(), 1] for row, size in rows], np.float32)

    def classify_arrays(self, embeddings: np.ndarray) -> np.ndarray:
        return 100 * embeddings[:, 0]


def fakes() -> list[Served]:
    engines = {name: Engine(MeanModel(name)) for name in ("anti-spoofing", "speaker-verification")}  # type: ignore[arg-type]
    verifier = engines["speaker-verification"]
    return [
        Served("detector", engines["anti-spoofing"], None, 0.1, 0.0),
        Served("verifier", verifier, Backend.of(verifier.model), 0.1, 0.0),
    ]


@contextlib.contextmanager
def running(limits: Limits | None = None, models: Sequence[Served] | None = None, **options: Any) -> Iterator[str]:
    """Serve at a free port of this machine, and yield the address."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(configure(build_app(Service(models or fakes(), limits), **options)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def clip(llr: float, seconds: float = 2.0, kind: str = "WAV") -> bytes:
    """Return a recording with an LLR of that model: a tone that comes and goes, with an offset."""
    file, time = io.BytesIO(), np.arange(round(seconds * SAMPLE_RATE_HZ))
    soundfile.write(file, 0.2 * swell(time) * np.sin(0.2 * np.pi * time) + llr / 100, SAMPLE_RATE_HZ, format=kind)
    return file.getvalue()
