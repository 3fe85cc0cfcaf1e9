"""The verb `benchmark`: models by every engine beside the dense model in transformers, in one run, and its tables."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks import timing
from hybrid_pruning.benchmarks.engines import ENGINES, MODULE, TRANSFORMERS, choose_engines, peak_elsewhere
from hybrid_pruning.benchmarks.timing import Ratio, interleaved, quartiles, ratio
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

    def wave(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return noise of that size."""
        shape = self.batch, round(self.seconds * SAMPLE_RATE_HZ)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.seconds:g} s" if self.batch == 1 else f"{self.batch} x {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of wall clock that a contestant takes for a case, and their quartiles.

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
        about = {"rounds": self.rounds, "threads": self.threads, "load": self.load, "machine": timing.machine()}
        return {**about, "versions": versions(), "reference": rows[0]["model"], "models": rows}

    def machine(self) -> str:
        """Return the machine, its threads and its load in one line."""
        return f"{timing.machine()}; {self.threads} threads; load average {self.load[0]} before, {self.load[1]} after"

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
        sizes, latencies = [], []
        for one, disk, peak, _ in self.measured:
            params = "-" if one.params is None else f"{one.params / 1e6:.3g} M"
            macs = "-" if one.macs is None else f"{one.macs / 1e9:.3g} G"
            sizes.append((one.model, one.engine, params, macs, _megabytes(disk), _megabytes(peak)))
        for case in self.cases:
            rows = []
            for one, *_, found in self.measured:
                it = found[case]
                spread = f"{it.median * 1e3:.1f} ({it.low * 1e3:.1f}-{it.high * 1e3:.1f})"
                rows.append((one.model, one.engine, spread, str(it.speedup), f"{it.real_time_factor:.4f}"))
            header = ("model", "engine", "ms", "times faster", "real-time factor")
            latencies.append(Table(header, rows, f"latency, {case}", note))
        columns = ("model", "engine", "params", "MACs", "on disk", "peak memory")
        return [Table(columns, sizes, "size", size_note), *latencies]


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
    before = timing.load()
    with timing.threads(threads), _contestants(list(map(str, models)), against, choose_engines(engines)) as found:
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
    return Benchmark(measured, cases, rounds, threads, (before, timing.load()))


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
    """Return the seconds of each round, case by case, all contestants of a case in turn."""
    runs = {one: ENGINES[one.engine](one.path) for one in found}
    times = {}
    with progress_bar() as bar:
        task = bar.add_task("timing", total=len(cases) * len(found) * rounds)
        for case in cases:
            wave = case.wave()
            tasks = {one: partial(run, wave) for one, run in runs.items()}
            times[case] = interleaved(tasks, rounds, advance=lambda: bar.advance(task))
    return times


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
