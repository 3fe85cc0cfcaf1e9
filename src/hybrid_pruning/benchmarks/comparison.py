"""The verb `benchmark`: models by every engine beside the dense model in transformers, timed in turn in one run."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks.engines import (
    ENGINES,
    MODULE,
    TRANSFORMERS,
    choose_engines,
    peak_elsewhere,
    precision,
    program,
)
from hybrid_pruning.benchmarks.roofline import measure_rates
from hybrid_pruning.benchmarks.timing import Ratio, Task, interleaved, quartiles, ratio
from hybrid_pruning.console import Table, progress_bar, say, say_table
from hybrid_pruning.errors import InputError
from hybrid_pruning.markdown import to_markdown
from hybrid_pruning.models.artifact import locate, versions
from hybrid_pruning.models.backbone import build, load_config
from hybrid_pruning.models.onnx.runtime import SUFFIXES, OnnxModel, files_of, find_onnx
from hybrid_pruning.models.size import SECONDS as SIZED
from hybrid_pruning.models.size import count_kept, count_units
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Budget

SECONDS, BATCHES, ROUNDS = (1.0, 2.0, 4.0), (1,), 10
SHORTEST = 0.1
"""Seconds that every encoder takes."""
THREADS = "OMP_NUM_THREADS"


class Contestant(NamedTuple):
    """One model as one engine runs it: parameters of its backbone and its MACs for each length, none for a graph."""

    model: str
    engine: str
    path: str
    params: int | None
    macs: tuple[tuple[float, int], ...]

    def work(self, seconds: float) -> int | None:
        """Return the MACs for an utterance of a length."""
        return dict(self.macs).get(seconds)


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
        share: of the limit that the backbone's operations have at the machine's rate; None where either is not known.
        real_time_factor: seconds of computing for a second of audio.
    """

    median: float
    low: float
    high: float
    speedup: Ratio
    share: float | None
    real_time_factor: float


class Measured(NamedTuple):
    """A contestant's files, peak memory of a process that computes the longest utterance alone, and latencies."""

    contestant: Contestant
    disk_bytes: int
    peak_bytes: int
    latencies: Mapping[Case, Latency]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A whole run; the first contestant is the reference. `load` is the machine's, before and after.

    Rates are the machine's, in operations and bytes per second, as `measure_rates` names them.
    """

    measured: Sequence[Measured]
    cases: Sequence[Case]
    rounds: int
    threads: int
    load: tuple[str, str]
    rates: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return plain values: seconds, bytes, counts and ratios."""
        rows = []
        for one, disk, peak, found in self.measured:
            latency = [{**case._asdict(), **asdict(found[case])} for case in self.cases]
            size = {"params": one.params, "macs": one.work(SIZED), "disk_bytes": disk, "peak_bytes": peak}
            rows.append({"model": one.model, "engine": one.engine, **size, "latency": latency})
        about = {"rounds": self.rounds, "threads": self.threads, "load": self.load, "machine": machine()}
        about |= {"rates": dict(self.rates)}
        return {**about, "versions": versions(), "reference": rows[0]["model"], "models": rows}

    def machine(self) -> str:
        """Return the machine, its threads and its load in one line."""
        return f"{machine()}; {self.threads} threads; load average {self.load[0]} before, {self.load[1]} after"

    def tables(self) -> list[Table]:
        """Return the tables of sizes, of the machine's rates and of latencies."""
        size_note = (
            "Parameters and MACs (for 4 s) are the backbone's. Peak memory is that of a whole process that loads the "
            f"model and computes one utterance of {max(case.seconds for case in self.cases):g} s."
        )
        sizes = []
        for one, *files, _ in self.measured:
            params = "-" if one.params is None else f"{one.params / 1e6:.3g} M"
            macs = "-" if (work := one.work(SIZED)) is None else f"{work / 1e9:.3g} G"
            megabytes = (f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB" for size in files)
            sizes.append((one.model, one.engine, params, macs, *megabytes))
        headings = ("model", "engine", "params", "MACs", "on disk", "peak memory")
        return [Table(headings, sizes, "size", size_note), self._rates(), self._latencies()]

    def _rates(self) -> Table:
        rows = [
            (f"products, {name}", f"{rate / 1e9:.0f} {'GFLOP/s' if name != 'int8' else 'GOP/s'}")
            for name, rate in self.rates.items()
            if name != "copy"
        ]
        rows.append(("copying", f"{self.rates['copy'] / 1e9:.1f} GB/s"))
        return Table(
            ("", "rate"), rows, "machine", "The fastest of some rounds, before the others and on the same threads."
        )

    def _latencies(self) -> Table:
        reference = self.measured[0].contestant
        note = (
            f"Milliseconds, times faster than {reference.model} in {reference.engine} (quartiles), and share of the "
            "limit: the backbone's operations at the machine's rate for the engine's products. Medians of "
            f"{self.rounds} rounds, all models in turn. The reference gives hidden states, the others embeddings."
        )
        rows = []
        for one, *_, latencies in self.measured:
            cells = []
            for it in (latencies[case] for case in self.cases):
                share = "" if it.share is None else f", {it.share:.0%}"
                milliseconds = f"{it.median * 1e3:.3g}" if it.median < 1 else f"{it.median * 1e3:.0f}"
                cells.append(f"{milliseconds} ms, {it.speedup}{share}")
            rows.append((one.model, one.engine, *cells))
        return Table(("model", "engine", *map(str, self.cases)), rows, "latency", note, left=2)


def benchmark(
    models: Sequence[str | Path] | Mapping[str, Path],
    against: str | None = None,
    engines: Sequence[str] = (),
    seconds: Sequence[float] = SECONDS,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    threads: int = 2,
) -> Benchmark:
    """Measure size, latency and memory of models beside a dense one in transformers.

    Args:
        models: artifacts (folders or hub ids), each run by every engine, and graphs (.onnx, .xml); or such folders and
            files by the names to show.
        against: the dense model: a transformers folder or hub id; by default one of the first artifact's dense shape
            with random weights, which take as long.
        engines: of torch, torch-bf16, onnx, onnx-int8, openvino, openvino-bf16 and openvino-int8; by default all that
            are installed, bf16 only where the processor has it.
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
    named = models if isinstance(models, Mapping) else {str(name): find_onnx(name) or locate(name) for name in models}
    lengths = sorted({*seconds, SIZED})
    with set_threads(threads), _contestants(named, against, choose_engines(engines), lengths) as found:
        rates = measure_rates()
        samples = str(round(max(case.seconds for case in cases) * SAMPLE_RATE_HZ))
        peaks = [peak_elsewhere(MODULE, one.engine, one.path, "1", samples) for one in found]
        times = _time(found, cases, rounds)
        measured = []
        for one, peak in zip(found, peaks, strict=True):
            path, latencies = Path(one.path), {}
            for case, taken in times.items():
                low, median, high = quartiles(taken[one])
                speedup, factor = ratio(taken[found[0]], taken[one]), median / (case.seconds * case.batch)
                work, rate = one.work(case.seconds), rates.get(precision(one.engine))
                share = 2 * case.batch * work / rate / median if work and rate else None
                latencies[case] = Latency(median, low, high, speedup, share, factor)
            files = files_of(path) if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            measured.append(Measured(one, sum(file.stat().st_size for file in files), peak, latencies))
    return Benchmark(measured, cases, rounds, threads, (before, load()), rates)


def print_table(table: Table, markdown: bool) -> None:
    """Print a table, for a terminal or in Markdown for README and dev/LOG.md."""
    if markdown:
        for line in [*to_markdown(table).splitlines(), ""]:
            say(line)
    else:
        say_table(table)


@contextmanager
def _contestants(
    places: Mapping[str, Path], against: str | None, engines: Sequence[str], lengths: Sequence[float]
) -> Iterator[list[Contestant]]:
    """Yield the reference, then each model by each engine; files written for the engines are removed at the end."""
    with TemporaryDirectory() as folder:
        found = [_reference([*places.values()], against, Path(folder) / "dense", lengths)]
        for number, (name, place) in enumerate(places.items()):
            found += _enter(name, place, engines, Path(folder) / str(number), lengths)
        yield found


def _reference(models: Sequence[Path], against: str | None, folder: Path, lengths: Sequence[float]) -> Contestant:
    """Return the dense model in transformers; random weights take as long as trained ones."""
    if against is None:
        artifact = next((place for place in models if place.suffix not in SUFFIXES), None)
        if artifact is None:
            raise InputError("benchmark: graphs alone do not tell the dense model; name one with --against")
        build(SpeechModel.from_pretrained(artifact).backbone.config).save_pretrained(folder)
    path = str(folder if against is None else against)
    config = load_config(path)
    whole = 2 * config.max_source_positions / 100 if config.model_type == "whisper" else None  # its only length there
    sizes = {seconds: count_units(config.to_dict(), False, {}, whole or seconds).budget for seconds in lengths}
    return _contestant("dense" if against is None else against, TRANSFORMERS, path, sizes)


def _enter(
    name: str, place: Path, engines: Sequence[str], folder: Path, lengths: Sequence[float]
) -> Iterator[Contestant]:
    """Yield a model by each engine, exported where the engine needs a graph."""
    path = str(place)
    if place.suffix in SUFFIXES:
        about = OnnxModel.from_file(place).description
        found = about.get("precision", about.get("weights"))
        engine = "onnx" if place.suffix == ".onnx" else "openvino"
        yield Contestant(name, engine if found in ("f32", "float32") else f"{engine}-{found}", path, None, ())
        return
    model = SpeechModel.from_pretrained(path)
    sizes = {seconds: count_kept(model.backbone, seconds).budget for seconds in lengths}
    proto = None
    for engine in engines:
        source = path
        if program(engine) != "torch":
            from hybrid_pruning.models.onnx import graph

            out = folder / engine
            if engine == "onnx-int8":
                source = str(graph.export_onnx(model, out, int8=True))
            else:
                proto = proto or graph.trace(model)
                if engine == "onnx":
                    source = str(graph.export_onnx(model, out, proto=proto))
                else:  # noise fits 8 bits well enough for their speed
                    noise = np.random.default_rng(0).normal(0, 0.1, (4, max(SAMPLE_RATE_HZ, model.minimum_samples)))
                    clips = list(noise.astype(np.float32))
                    source = str(graph.export_openvino(model, out, precision(engine), clips, proto))
        yield _contestant(name, engine, source, sizes)


def _contestant(name: str, engine: str, path: str, sizes: Mapping[float, Budget]) -> Contestant:
    params = next(iter(sizes.values())).params
    return Contestant(
        name, engine, path, int(params), tuple((seconds, int(size.macs)) for seconds, size in sizes.items())
    )


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
