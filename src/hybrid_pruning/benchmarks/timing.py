"""Costs measured side by side: tasks in turn, and the quartiles of their ratios round by round."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.models.artifact import versions
from hybrid_pruning.models.speech_model import SpeechModel

Name = TypeVar("Name")
Task = Callable[[], object]
THREADS = "OMP_NUM_THREADS"
SETTLING = 0.05
"""Seconds before each task: until then the threads of the last one may spin, which alone it would not have met."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median and quartiles of a cost over a reference's, round by round; below 1 is cheaper.

    `fastest` is the cheapest round over the reference's cheapest, which other load on the machine disturbs least.
    """

    median: float
    low: float
    high: float
    fastest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def latency_ratio(model: SpeechModel, reference: SpeechModel, seconds: float = 4.0, repeats: int = 12) -> Ratio:
    """Return the time of a model to embed one utterance of noise over that of a reference; below 1 is faster.

    Both are on the same device, and are left in evaluation mode.
    """

    def embedding(net: SpeechModel) -> Task:
        wave = torch.randn(1, round(seconds * SAMPLE_RATE_HZ), device=next(net.parameters()).device)
        net.eval()
        return torch.inference_mode()(lambda: net.embed(wave))

    times = interleaved({"model": embedding(model), "reference": embedding(reference)}, repeats)
    return ratio(times["model"], times["reference"])


def interleaved(
    tasks: Mapping[Name, Task],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    advance: Callable[[], object] = lambda: None,
) -> dict[Name, list[float]]:
    """Time tasks in turn, so that other load falls on all of them; return their names -> [repeats] seconds.

    Each is called once more beforehand, untimed; every other round goes through the tasks backwards. `advance` is
    called after every timed task, for a progress bar.
    """
    for task in tasks.values():
        task()
    times: dict[Name, list[float]] = {name: [] for name in tasks}
    for index in range(repeats):
        for name in list(tasks)[:: -1 if index % 2 else 1]:
            time.sleep(SETTLING)
            start = clock()
            tasks[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(clock() - start)
            advance()
    return times


def ratio(costs: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the quartiles of the round-by-round ratios of [rounds] costs to [rounds] reference costs."""
    low, median, high = quartiles([cost / other for cost, other in zip(costs, reference, strict=True)])
    return Ratio(median, low, high, min(costs) / min(reference))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third of some values."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch, and sessions of ONNX Runtime that are opened meanwhile, compute with so many threads."""
    before, asked = torch.get_num_threads(), os.environ.get(THREADS)
    torch.set_num_threads(count)
    os.environ[THREADS] = str(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop(THREADS)
        if asked is not None:
            os.environ[THREADS] = asked


def machine() -> str:
    """Return the names of the processor and of the libraries that compute."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = versions()
    processor = next(iter(names), platform.machine())
    return f"{processor}, {os.cpu_count()} cores, torch {found['torch']}, transformers {found['transformers']}"


def load() -> str:
    """Return the machine's load average over the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
