"""Times of tasks taken in turn, and their ratios round by round."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

SETTLING = 0.05
"""Seconds before each task, until which the threads of the task before may spin."""

Name = TypeVar("Name")
Task = Callable[[], object]


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


def interleaved(
    tasks: Mapping[Name, Task], repeats: int, advance: Callable[[], object] = lambda: None
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
            start = time.perf_counter()
            tasks[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
            advance()
    return times


def ratio(costs: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the quartiles of the round-by-round ratios of [rounds] costs to [rounds] reference costs."""
    low, median, high = quartiles([cost / other for cost, other in zip(costs, reference, strict=True)])
    return Ratio(median, low, high, min(costs) / min(reference))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third of some values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, median, high
