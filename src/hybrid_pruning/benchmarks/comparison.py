"""The verb `benchmark`: models by every engine beside the dense model in transformers, timed in turn in one run."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.engines import ENGINES, MODULE, TRANSFORMERS, choose_engines, peak_elsewhere
from hybrid_pruning.console import Table, progress_bar, say, say_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.markdown import to_markdown
from hybrid_pruning.models.artifact import locate, versions
from hybrid_pruning.models.backbone import build, load_config
from hybrid_pruning.models.onnx.runtime import OnnxModel, find_onnx
from hybrid_pruning.models.size import count_kept, count_units
from hybrid_pruning.models.speech_model import SpeechModel

SECONDS, BATCHES, ROUNDS = (1.0, 4.0, 10.0), (1, 8), 10
SHORTEST = 0.1
"""Seconds that every encoder takes."""
THREADS = "OMP_NUM_THREADS"
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


class Contestant(NamedTuple):
    """One model as one engine runs it: parameters and MACs (4 s) of its backbone, None for an .onnx file."""

    model: str
    engine: str
    path: str
    params: int | None
    macs: int | None


class Case(NamedTuple):
    """A batch of utterances of one length."""

    seconds: float
    batch: int

    def __str__(self) -> str:
        return f"{self.seconds:g} s" if self.batch == 1 else f"{self.batch} x {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall clock of a contestant for a case in seconds, with quartiles.

    Args:
        speedup: the reference's time over this one's, round by round; above 1 is faster.
        real_time_factor: seconds of computing for a second of audio.
    """

    median: float
    low: float
    high: float
    speedup: Ratio
    real_time_factor: float


class Measured(NamedTuple):
    """A contestant's files, peak memory of a process that computes the longest utterance alone, and latencies."""

    contestant: Contestant
    disk_bytes: int
    peak_bytes: int
    latencies: Mapping[Case, Latency]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A whole run; the first contestant is the reference. `load` is the machine's, before and after."""

    measured: Sequence[Measured]
    cases: Sequence[Case]
    rounds: int
    threads: int
    load: tuple[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return plain values: seconds, bytes, counts and ratios."""
        rows = []
        for one, disk, peak, found in self.measured:
            latency = [{**case._asdict(), **asdict(found[case])} for case in self.cases]
            rows.append({**one._asdict(), "disk_bytes": disk, "peak_bytes": peak, "latency": latency})
        about = {"rounds": self.rounds, "threads": self.threads, "load": self.load, "machine": machine()}
        return {**about, "versions": versions(), "reference": rows[0]["model"], "models": rows}

    def machine(self) -> str:
        """Return the machine, its threads and its load in one line."""
        return f"{machine()}; {self.threads} threads; load average {self.load[0]} before, {self.load[1]} after"

    def tables(self) -> list[Table]:
        """Return the table of sizes, and one of latencies for each case."""
        reference = self.measured[0].contestant
        size_note = (
            "Parameters and MACs (for 4 s) are the backbone's. Peak memory is that of a whole process that loads the "
            f"model and computes one utterance of {max(case.seconds for case in self.cases):g} s."
        )
        note = (
            f"Median and quartiles of {self.rounds} rounds, all models in turn. Times faster: than {reference.model} "
            f"in {reference.engine}, which gives hidden states where the others give embeddings, round by round. "
            "Real-time factor: seconds of computing for a second of audio."
        )
        sizes = []
        for one, *files, _ in self.measured:
            params = "-" if one.params is None else f"{one.params / 1e6:.3g} M"
            macs = "-" if one.macs is None else f"{one.macs / 1e9:.3g} G"
            megabytes = (f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB" for size in files)
            sizes.append((one.model, one.engine, params, macs, *megabytes))
        found = [Table(("model", "engine", "params", "MACs", "on disk", "peak memory"), sizes, "size", size_note)]
        for case in self.cases:
            rows = []
            for one, *_, latencies in self.measured:
                it = latencies[case]
                spread = f"{it.median * 1e3:.1f} ({it.low * 1e3:.1f}-{it.high * 1e3:.1f})"
                rows.append((one.model, one.engine, spread, str(it.speedup), f"{it.real_time_factor:.4f}"))
            header = ("model", "engine", "ms", "times faster", "real-time factor")
            found.append(Table(header, rows, f"latency, {case}", note))
        return found


def benchmark(
    models: Sequence[str | Path],
    against: str | None = None,
    engines: Sequence[str] = (),
    seconds: Sequence[float] = SECONDS,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    threads: int = 2,
) -> Benchmark:
    """Measure size, latency and memory of models beside a dense one in transformers.

    Args:
        models: artifacts (folders or hub ids), each run by every engine, and .onnx files.
        against: the dense model: a transformers folder or hub id; by default one of the first artifact's dense shape
            with random weights, which take as long.
        engines: of torch, torch-bf16, onnx and onnx-int8; all that are installed by default.
        seconds: lengths of utterances.
        batches: utterances that are computed at a time.
        rounds: each of every contestant once.
        threads: of each contestant.
    """
    cases = [Case(*pair) for pair in product(seconds, batches)]
    if not cases or min(case.batch for case in cases) < 1:
        raise InputError("benchmark: --batch takes numbers from 1 on, separated by commas")
    if not min(case.seconds for case in cases) >= SHORTEST:
        raise InputError(f"benchmark: --seconds takes numbers from {SHORTEST:g} on, separated by commas")
    if rounds < 1 or threads < 1:
        raise InputError(f"benchmark: {rounds} rounds on {threads} threads: at least 1 of each is needed")
    before = load()
    with set_threads(threads), _contestants(list(map(str, models)), against, choose_engines(engines)) as found:
        samples = str(round(max(case.seconds for case in cases) * SAMPLE_RATE_HZ))
        peaks = [peak_elsewhere(MODULE, one.engine, one.path, "1", samples) for one in found]
        times = _time(found, cases, rounds)
        measured = []
        for one, peak in zip(found, peaks, strict=True):
            path, latencies = Path(one.path), {}
            for case, taken in times.items():
                low, median, high = quartiles(taken[one])
                speedup, factor = ratio(taken[found[0]], taken[one]), median / (case.seconds * case.batch)
                latencies[case] = Latency(median, low, high, speedup, factor)
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            measured.append(Measured(one, sum(file.stat().st_size for file in files), peak, latencies))
    return Benchmark(measured, cases, rounds, threads, (before, load()))


def print_table(table: Table, markdown: bool) -> None:
    """Print a table, for a terminal or in Markdown for README and dev/LOG.md."""
    if markdown:
        for line in [*to_markdown(table).splitlines(), ""]:
            say(line)
    else:
        say_table(table)


@contextmanager
def _contestants(models: Sequence[str], against: str | None, engines: Sequence[str]) -> Iterator[list[Contestant]]:
    """Yield the reference, then each model by each engine; files written for the engines are removed at the end."""
    places = {name: find_onnx(name) or locate(name) for name in models}  # a wrong name is reported at once
    with TemporaryDirectory() as folder:
        found = [_reference([*places.values()], against, Path(folder) / "dense")]
        for number, (name, place) in enumerate(places.items()):
            found += _enter(name, place, engines, Path(folder) / str(number))
        yield found


def _reference(models: Sequence[Path], against: str | None, folder: Path) -> Contestant:
    """Return the dense model in transformers; random weights take as long as trained ones."""
    if against is None:
        artifact = next((place for place in models if place.suffix != ".onnx"), None)
        if artifact is None:
            raise InputError("benchmark: .onnx files alone do not tell the dense model; name one with --against")
        build(SpeechModel.from_pretrained(artifact).backbone.config).save_pretrained(folder)
    path = str(folder if against is None else against)
    budget = count_units(load_config(path).to_dict(), False, {}).budget
    return Contestant("dense" if against is None else against, TRANSFORMERS, path, int(budget.params), int(budget.macs))


def _enter(name: str, place: Path, engines: Sequence[str], folder: Path) -> Iterator[Contestant]:
    """Yield a model by each engine, exported where the engine needs an .onnx file."""
    path = str(place)
    if place.suffix == ".onnx":
        int8 = OnnxModel.from_file(place).description.get("weights") == "int8"
        yield Contestant(name, "onnx-int8" if int8 else "onnx", path, None, None)
        return
    model = SpeechModel.from_pretrained(path)
    budget = count_kept(model.backbone).budget
    for engine in engines:
        source = path
        if engine.startswith("onnx"):
            from hybrid_pruning.models.onnx import graph

            source = str(graph.export_onnx(model, folder / engine, int8=engine == "onnx-int8"))
        yield Contestant(name, engine, source, int(budget.params), int(budget.macs))


def _time(found: Sequence[Contestant], cases: Sequence[Case], rounds: int) -> dict[Case, dict[Contestant, list[float]]]:
    """Return the seconds of each round on noise, case by case, all contestants of a case in turn."""
    runs = {one: ENGINES[one.engine](one.path) for one in found}
    times = {}
    with progress_bar() as bar:
        task = bar.add_task("timing", total=len(cases) * len(found) * rounds)
        for case in cases:
            shape = case.batch, round(case.seconds * SAMPLE_RATE_HZ)
            wave = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            tasks = {one: partial(run, wave) for one, run in runs.items()}
            times[case] = interleaved(tasks, rounds, advance=lambda: bar.advance(task))
    return times


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


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    """Let torch, and sessions of ONNX Runtime that are opened meanwhile, compute with so many threads."""
    before, environment = torch.get_num_threads(), os.environ.get(THREADS)
    torch.set_num_threads(count)
    os.environ[THREADS] = str(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop(THREADS)
        if environment is not None:
            os.environ[THREADS] = environment


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
