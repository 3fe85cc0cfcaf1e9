"""What gates cost in training and what shrinking saves in use: ratios, each measured side by side in one run.

Usage: python -m hybrid_pruning.benchmark [--quick] [--threads N] [--markdown]
"""

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn
from transformers import AutoConfig, AutoModel

from hybrid_pruning.artifact import versions
from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.backbone import Backbone, skeleton
from hybrid_pruning.batches import Batch
from hybrid_pruning.config import check_config
from hybrid_pruning.memory import keep_freed_memory
from hybrid_pruning.model import Classes, SpeechModel
from hybrid_pruning.objective import Objective, build_objective
from hybrid_pruning.optimizers import Optimizers
from hybrid_pruning.pruning import Budget, Constraint, Gates, attach, shrink
from hybrid_pruning.terminal import console
from hybrid_pruning.trainset import LABELS

GOAL = 1.05
"""Gated over dense training step that the project holds itself to."""
TARGETS = (0.5, 0.7)
TRAINING_TARGET = 0.5
MODES = ("dense", "gated")

Task = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a benchmark is.

    Args:
        name: of the shape, for people.
        config: the transformers config of the backbone; its weights are random.
        head: what stands on it in training.
        batch: utterances per training step.
        crop_seconds: their length.
        steps: training steps timed of each kind.
        seconds: length of the utterance that latency is measured on, one at a time.
        repeats: forward passes timed of each model.
    """

    name: str
    config: Mapping[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    crop_seconds: float = 3.0
    steps: int = 8
    seconds: float = 4.0
    repeats: int = 12


BASE = Scale("WavLM Base", {"model_type": "wavlm"})
TINY = Scale(
    "A tiny WavLM, too small to judge by",
    {
        "model_type": "wavlm",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
    head={"heads": 4, "compression": 8, "embedding": 16},
    batch=2,
    crop_seconds=0.5,
    steps=3,
    seconds=0.5,
    repeats=3,
)


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


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the report: its header, its rows and what to know when reading it."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def latency_ratio(model: SpeechModel, reference: SpeechModel, seconds: float = 4.0, repeats: int = 12) -> Ratio:
    """Return how long a model takes to score one utterance over how long the reference takes; below 1 is faster.

    Args:
        model: the model in question; both are left in evaluation mode.
        reference: what it is compared with, on the same device.
        seconds: length of the utterance, which is noise.
        repeats: rounds, each of one pass through either model.
    """
    tasks = {name: _scoring(net, seconds) for name, net in {"model": model, "reference": reference}.items()}
    times = interleaved(tasks, repeats)
    return ratio(times["model"], times["reference"])


def interleaved(
    tasks: Mapping[str, Task], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time tasks in turn, so that whatever else the machine does falls on all of them.

    Args:
        tasks: what to call, by name; each is called once more beforehand, untimed.
        repeats: rounds; every other one goes through the tasks backwards.
        clock: tells the seconds; the wall's, or with time.process_time those of the processor.

    Returns:
        The same names -> [repeats] seconds.
    """
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for index in range(repeats):
        for name in list(tasks)[:: -1 if index % 2 else 1]:
            times[name].append(_seconds(tasks[name], clock))
    return times


def ratio(costs: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the quartiles of the round-by-round ratios of [rounds] costs to [rounds] reference costs."""
    ratios = [cost / other for cost, other in zip(costs, reference, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median, low, high, min(costs) / min(reference))


def training_step(scale: Scale, gated: bool) -> Task:
    """Return a function that takes one training step of a fresh model: the trainer's, on noise.

    Args:
        scale: shape, batch and crop.
        gated: with gates, multipliers and their optimiser; else the dense model through the same code.
    """
    torch.manual_seed(0)
    config = check_config(_recipe(scale, gated), "benchmark")
    model = SpeechModel.build(skeleton(dict(scale.config), False), config.head, Classes(LABELS, (1, 1)))
    objective = build_objective(config, model).train()
    optimizers = Optimizers(objective, config.training, config.pruning.initial_reg_lr)
    batch = _noise_batch(scale)
    return lambda: _take_step(objective, optimizers, batch)


def shrunk(
    backbone: Backbone, target_sparsity: float, seed: int = 0, constraint: Constraint = "params", align: int = 1
) -> tuple[Backbone, Budget]:
    """Return a copy cut to a share of its parameters or MACs, and its exact size beside the dense one.

    Which units survive is random, as after a training that pressed on channels, heads and neurons alike and closed no
    whole layer; trained gates may choose otherwise, and the time follows the MACs they leave.

    Args:
        backbone: a dense backbone; it is left as it was.
        target_sparsity: fraction to remove.
        seed: of the choice.
        constraint: what it is a fraction of; MACs are counted for 4 s.
        align: kept widths are multiples of it.
    """
    gated = copy.deepcopy(backbone)
    gates = attach(gated, align=align)
    _scatter(gates, target_sparsity, seed, constraint)
    kept = gates.kept(target_sparsity, constraint)
    return shrink(gated, gates, kept).eval(), gates.accounting.exact_kept(kept)


def measure_training(scale: Scale, flags: Sequence[str] = ()) -> Section:
    """Return what gates cost a training step, in time and in memory.

    Args:
        scale: what to train.
        flags: of the command line, for the processes that measure memory.
    """
    peaks = {mode: _peak_elsewhere(mode, flags) for mode in MODES}  # first, while this process is still small
    keep_freed_memory()
    times = interleaved({mode: training_step(scale, mode == "gated") for mode in MODES}, scale.steps)
    time_ratio = ratio(times["gated"], times["dense"])
    spread = f"{time_ratio.median:.3f} ({time_ratio.low:.3f}-{time_ratio.high:.3f})"
    rows = [
        ("time", spread, f"{time_ratio.fastest:.3f}", f"<= {GOAL}: {_verdict(time_ratio)}"),
        ("peak memory", f"{peaks['gated'] / peaks['dense']:.3f}", "", "1"),
    ]
    note = (
        f"{scale.name}, batch of {scale.batch} x {scale.crop_seconds:g} s, float32, {scale.steps} steps of each in "
        "turn: sampling, forward, Lagrangian, backward, clipping, both optimisers; freed memory is kept, as `train` "
        "does. The gates' cost does not grow with the batch, so larger batches come out lower. Memory is what each "
        "adds to a process that has all imported."
    )
    return Section("training step: gated over dense", ("", "ratio", "fastest", "goal"), rows, note)


def measure_latency(scale: Scale) -> Section:
    """Return what shrinking saves in use, beside the share of multiply-accumulates that is left."""
    torch.manual_seed(0)
    dense = skeleton(dict(scale.config), False).eval()
    small = {f"ours, {target:.0%} removed": shrunk(dense, target) for target in TARGETS}
    models = {"transformers": _transformers_model(scale), "ours, dense": dense}
    models |= {name: backbone for name, (backbone, _) in small.items()}
    tasks = {name: _encoding(model, scale.seconds) for name, model in models.items()}
    times = interleaved(tasks, scale.repeats)
    rows = [(name, *_size(small[name][1] if name in small else None), *_latencies(times, name)) for name in models]
    note = (
        f"{scale.name}, random weights, one utterance of {scale.seconds:g} s, all hidden states, float32, "
        f"{scale.repeats} rounds. Latency over ours, dense: median and quartiles of the rounds' ratios, and fastest "
        "round over fastest round; below 1 is faster. Units are chosen at random, channels, heads and neurons alike."
    )
    header = ("backbone", "params", "MACs", "latency", "fastest", "/ transformers")
    return Section("latency: shrunk over dense", header, rows, note)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; what `make bench` runs."""
    options = _parse(arguments)
    scale = TINY if options.quick else BASE
    with _threads(options.threads):
        if options.peak_memory:
            sys.stdout.write(f"{_peak_bytes(scale, options.peak_memory == 'gated')}\n")
            return
        before = _load()
        flags = ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
        for section in (measure_training(scale, flags), measure_latency(scale)):
            _print(section, options.markdown)
        load = f"load average {before} before, {_load()} after, this run's own {options.threads} threads included"
        console.print(f"{_machine()}; {load}", markup=False, soft_wrap=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hybrid_pruning.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows that it runs, says nothing on speed")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch computes with (default 2)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables, for README and dev/LOG.md")
    parser.add_argument("--peak-memory", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: at least 1 is needed")
    return options


def _recipe(scale: Scale, gated: bool) -> dict[str, Any]:
    return {
        "data": {"train": "-", "dev": "-"},
        "backbone": {"source": "-"},
        "head": dict(scale.head),
        "pruning": {"use_pruning_loss": gated, "target_sparsity": TRAINING_TARGET},
    }


def _noise_batch(scale: Scale) -> Batch:
    wave = torch.randn(scale.batch, round(scale.crop_seconds * SAMPLE_RATE_HZ))
    index = torch.arange(scale.batch)
    return Batch(wave, None, index % len(LABELS), index)


def _take_step(objective: Objective, optimizers: Optimizers, batch: Batch) -> None:
    """What Trainer does between two batches, on one process and without the log."""
    objective(batch, TRAINING_TARGET).total.backward()
    optimizers.clip()
    optimizers.step()


@torch.no_grad()
def _scatter(gates: Gates, target_sparsity: float, seed: int, constraint: Constraint) -> None:
    """Set every log_alpha at random around the level where the expected sparsity is the target; layers stay open."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [gate for gate in gates.values() if gate.slot.size > 1]
    noise = [torch.randn(gate.slot.size, generator=generator) for gate in chosen]
    low, high = -20.0, 20.0
    for _ in range(40):
        level = (low + high) / 2
        for gate, values in zip(chosen, noise, strict=True):
            gate.log_alpha.copy_(values + level)
        low, high = (level, high) if gates.budget().removed(constraint) > target_sparsity else (low, level)


def _transformers_model(scale: Scale) -> nn.Module:
    """What a user would take instead of ours, as transformers loads it by default."""
    model: nn.Module = AutoModel.from_config(AutoConfig.for_model(**scale.config))
    return model.eval()


def _encoding(model: nn.Module, seconds: float) -> Task:
    wave = torch.randn(1, round(seconds * SAMPLE_RATE_HZ))
    more = {} if isinstance(model, Backbone) else {"output_hidden_states": True}  # ours always gives them all
    return torch.inference_mode()(lambda: model(wave, **more))


def _scoring(model: SpeechModel, seconds: float) -> Task:
    wave = torch.randn(1, round(seconds * SAMPLE_RATE_HZ), device=next(model.parameters()).device)
    model.eval()
    return torch.inference_mode()(lambda: model.score(wave))


def _seconds(task: Task, clock: Callable[[], float]) -> float:
    start = clock()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def _size(budget: Budget | None) -> tuple[str, str]:
    """The shares of parameters and MACs that are left."""
    if budget is None:
        return "1.00", "1.00"
    return f"{1 - budget.sparsity:.2f}", f"{1 - budget.macs_sparsity:.2f}"


def _latencies(times: Mapping[str, Sequence[float]], name: str) -> tuple[str, str, str]:
    """A model's latency over that of our dense backbone, twice, and over that of transformers' dense model."""
    ours, theirs = (ratio(times[name], times[reference]) for reference in ("ours, dense", "transformers"))
    return str(ours), f"{ours.fastest:.2f}", f"{theirs.fastest:.2f}"


def _verdict(found: Ratio) -> str:
    if found.low <= GOAL <= found.high:
        return "undecided, rounds differ too much"
    return "within" if found.high < GOAL else "above"


def _peak_elsewhere(mode: str, flags: Sequence[str]) -> int:
    """Measure in a process of its own: a process never forgets its peak."""
    command = [sys.executable, "-m", "hybrid_pruning.benchmark", "--peak-memory", mode, *flags]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}  # glibc then keeps no large block that was freed
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def _peak_bytes(scale: Scale, gated: bool) -> int:
    """Return by how much two training steps raise this process's peak of resident memory."""
    before = _high_water_bytes()
    step = training_step(scale, gated)
    for _ in range(2):  # from the second on, Adam's moments are there
        step()
    return _high_water_bytes() - before


def _high_water_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage, on Linux, starts from the peak of the process that launched this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _machine() -> str:
    """The processor and what computes on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = versions()
    processor = next(iter(names), platform.machine())
    return f"{processor}, {os.cpu_count()} cores, torch {found['torch']}, transformers {found['transformers']}"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _print(section: Section, markdown: bool) -> None:
    if markdown:
        lines = [section.header, ("---",) * len(section.header), *section.rows]
        rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        console.print(f"### {section.title}\n\n{rows}\n\n{section.note}\n", markup=False, soft_wrap=True)
        return
    table = Table(title=section.title, title_justify="left", caption=section.note, caption_justify="left")
    for index, name in enumerate(section.header):
        table.add_column(name, justify="right" if index else "left")
    for row in section.rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
