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

from hybrid_pruning.models.artifact import versions

Name = TypeVar("Name")
Task = Callable[[], object]
THREADS = "OMP_NUM_THREADS"
SETTLING = 0.05
"""Seconds before each task: until then the threads of the last one may spin, which alone it would not have met."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A cost over a reference's, from as many rounds as were timed.

    Args:
        median: of the rounds' ratios; below 1 is cheaper than the reference.
        low: their first quartile.
        high: their third quartile.
        fastest: the cheapest round over the reference's cheapest, which other load on the machine disturbs least.
    """

    median: float
    low: float
    high: float
    fastest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def interleaved(
    tasks: Mapping[Name, Task],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    told: Callable[[], object] = lambda: None,
) -> dict[Name, list[float]]:
    """Time tasks in turn, so that whatever else the machine does falls on all of them.

    Args:
        tasks: what to call, by name; each is called once more beforehand, untimed.
        repeats: rounds; every other one goes through the tasks backwards.
        clock: tells the seconds; the wall's, or with time.process_time those of the processor.
        told: called after every task that was timed, for a progress bar.

    Returns:
        The same names -> [repeats] seconds.
    """
    for task in tasks.values():
        task()
    times: dict[Name, list[float]] = {name: [] for name in tasks}
    for index in range(repeats):
        for name in list(tasks)[:: -1 if index % 2 else 1]:
            times[name].append(_seconds(tasks[name], clock))
            told()
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
    """Return the processor and what computes on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = versions()
    processor = next(iter(names), platform.machine())
    return f"{processor}, {os.cpu_count()} cores, torch {found['torch']}, transformers {found['transformers']}"


def load() -> str:
    """Return how many processes have been computing of late, on average over a minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _seconds(task: Task, clock: Callable[[], float]) -> float:
    time.sleep(SETTLING)
    start = clock()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start
