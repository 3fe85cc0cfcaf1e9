"""Where the time of a training goes: shares of one run's wall clock, from the trainer's own parts.

Usage: python dev/profile_training.py RECIPE.yaml [--set KEY=VALUE ...]     the run itself is thrown away
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  the first step of an optimiser would import it, which is a matter of seconds
from accelerate import Accelerator

from hybrid_pruning.config import load_config
from hybrid_pruning.data.trainset import TrainSet
from hybrid_pruning.distributed import keep_freed_memory
from hybrid_pruning.training.objective import Objective
from hybrid_pruning.training.optimizers import Optimizers
from hybrid_pruning.training.trainer import Trainer, train

PARTS: dict[str, list[tuple[Any, str]]] = {
    "forward": [(Objective, "forward")],
    "backward": [(Accelerator, "backward")],
    "clipping and optimisers": [(Optimizers, "clip"), (Optimizers, "step")],
    "logging": [(Trainer, "_averages"), (Trainer, "_sparsity"), (Trainer, "_log")],
    "validation": [(Trainer, "_validate")],
    "checkpoints": [(Trainer, "_save")],
}
"""What is timed under which name; none of them calls another, but for the validation's one line of log."""
WAITING = "waiting for data (decoding, where data.workers is 0)"

spent: Counter[str] = Counter()


def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function with its time counted."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[name] += time.perf_counter() - started

    return call


def timed_batches(batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return the iterator with the waiting for each batch counted."""

    def iterate(*arguments: Any) -> Iterator[Any]:
        iterator = batches(*arguments)
        step = timed(lambda: next(iterator, None), WAITING)
        while (batch := step()) is not None:
            yield batch

    return iterate


def main() -> None:
    """Train, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    for name, places in PARTS.items():
        for owner, method in places:
            setattr(owner, method, timed(getattr(owner, method), name))
    TrainSet.batches = timed_batches(TrainSet.batches)  # type: ignore[method-assign]
    Trainer.fit = timed(Trainer.fit, "all")  # type: ignore[method-assign]
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        run = train(load_config(options.recipe, options.set), Path(folder) / "run")
        records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    total = spent.pop("all")
    spent["everything else"] = total - sum(spent.values())
    for name, seconds in spent.most_common():
        print(f"{seconds / total:7.1%}  {name}")
    steps = [record for record in records if "loss" in record]
    print(
        f"{sum(record['padding'] for record in steps) / len(steps):7.1%}  of the training audio is repeated or padding"
    )
    print(f"{total:.0f} s of wall clock, {records[-1]['step']} steps")


if __name__ == "__main__":
    main()
