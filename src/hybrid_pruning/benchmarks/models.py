"""`benchmark`: models side by side, by every engine, beside the dense model in transformers, all in one run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks import timing
from hybrid_pruning.benchmarks.engines import ENGINES, TRANSFORMERS, choose_engines, size_on_disk
from hybrid_pruning.benchmarks.memory import peak_elsewhere
from hybrid_pruning.benchmarks.timing import Ratio, interleaved, quartiles, ratio
from hybrid_pruning.console import progress_bar
from hybrid_pruning.errors import InputError
from hybrid_pruning.models.artifact import locate, versions
from hybrid_pruning.models.backbone import build, load_config
from hybrid_pruning.models.onnx.runtime import OnnxModel, find_onnx
from hybrid_pruning.models.size import count_kept, count_units
from hybrid_pruning.models.speech_model import SpeechModel

SECONDS, BATCHES, REPEATS = (1.0, 4.0, 10.0), (1, 8), 10
SHORTEST = 0.1
"""Seconds that every encoder takes."""
MEMORY = "hybrid_pruning.benchmarks.memory"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model as one engine runs it.

    Args:
        model: its name, for people.
        engine: a name in `ENGINES`.
        path: what the engine loads.
        params: of the backbone; None where they cannot be counted.
        macs: of the backbone, for 4 s; None likewise.
    """

    model: str
    engine: str
    path: str
    params: int | None
    macs: int | None


@dataclass(frozen=True, slots=True)
class Case:
    """What is computed at a time: a batch of utterances of one length."""

    seconds: float
    batch: int

    def wave(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return noise of that size."""
        shape = self.batch, round(self.seconds * SAMPLE_RATE_HZ)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.seconds:g} s" if self.batch == 1 else f"{self.batch} x {self.seconds:g} s"


Times = dict[Case, dict[Contestant, list[float]]]
"""Seconds, round by round."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a contestant takes for a case.

    Args:
        median: seconds of wall clock.
        low: their first quartile.
        high: their third.
        speedup: the reference's time over this one's, round by round; above 1 is faster.
        real_time_factor: seconds of computing for a second of audio.
    """

    median: float
    low: float
    high: float
    speedup: Ratio
    real_time_factor: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a contestant.

    Args:
        contestant: which.
        disk_bytes: the size of its files.
        peak_bytes: memory of a process that loads it and computes the longest utterance, alone.
        latencies: case by case.
    """

    contestant: Contestant
    disk_bytes: int
    peak_bytes: int
    latencies: Mapping[Case, Latency]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A whole run; the first contestant is the reference.

    Args:
        measured: contestant by contestant.
        cases: what each computed.
        rounds: how often.
        threads: that each computed with.
        load: of the machine, before and after.
    """

    measured: Sequence[Measured]
    cases: Sequence[Case]
    rounds: int
    threads: int
    load: tuple[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return plain values: seconds, bytes, counts and ratios."""
        rows = [
            {
                **asdict(found.contestant),
                "disk_bytes": found.disk_bytes,
                "peak_bytes": found.peak_bytes,
                "latency": [{**asdict(case), **asdict(found.latencies[case])} for case in self.cases],
            }
            for found in self.measured
        ]
        about = {"rounds": self.rounds, "threads": self.threads, "load": self.load, "machine": timing.machine()}
        return {**about, "versions": versions(), "reference": rows[0]["model"], "models": rows}


def compare_models(
    models: Sequence[str],
    against: str | None = None,
    engines: str = "",
    seconds: Sequence[float] = SECONDS,
    batches: Sequence[int] = BATCHES,
    repeats: int = REPEATS,
    threads: int = 2,
) -> Comparison:
    """Measure models beside a dense one in transformers.

    Args:
        models: artifacts (folders or hub ids), each run by every engine, and .onnx files.
        against: the dense model: a transformers folder or hub id; by default one of the first artifact's dense shape
            with random weights, which take as long.
        engines: separated by commas; all that are installed by default.
        seconds: lengths of utterances.
        batches: how many are computed at a time.
        repeats: rounds, each of every contestant once.
        threads: that each computes with.

    Raises:
        InputError: a model that cannot be loaded, an unknown engine, or numbers that make no sense.
    """
    cases = [Case(*pair) for pair in product(seconds, batches)]
    _check(cases, repeats, threads)
    before = timing.load()
    with timing.threads(threads), contestants(models, against, choose_engines(engines)) as found:
        longest = max(cases, key=lambda case: (case.seconds, -case.batch))
        samples = round(longest.seconds * SAMPLE_RATE_HZ)
        peaks = [peak_elsewhere(MEMORY, one.engine, one.path, "1", str(samples)) for one in found]
        times = _time(found, cases, repeats)
        measured = [
            Measured(one, size_on_disk(one.path), peak, _latencies(times, one, found[0]))
            for one, peak in zip(found, peaks, strict=True)
        ]
    return Comparison(measured, cases, repeats, threads, (before, timing.load()))


@contextmanager
def contestants(models: Sequence[str], against: str | None, engines: Sequence[str]) -> Iterator[list[Contestant]]:
    """Yield the reference and then each model by each engine; what has to be written for that is removed at the end."""
    places = {name: find_onnx(name) or locate(name) for name in models}  # a wrong name is told at once
    with TemporaryDirectory() as folder:
        reference = _reference([*places.values()], against, Path(folder) / "dense")
        found = [
            one
            for number, (name, place) in enumerate(places.items())
            for one in _enter(name, place, engines, Path(folder) / str(number))
        ]
        yield [reference, *found]


def _enter(name: str, place: Path, engines: Sequence[str], folder: Path) -> Iterator[Contestant]:
    """Yield a model by each engine, exporting it where the engine wants it so."""
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
            from hybrid_pruning.models.onnx.graph import export_onnx

            source = str(export_onnx(model, folder / engine, int8=engine == "onnx-int8"))
        yield Contestant(name, engine, source, int(budget.params), int(budget.macs))


def _reference(models: Sequence[Path], against: str | None, folder: Path) -> Contestant:
    """Return the dense model in transformers; random weights take as long as trained ones."""
    if against is None:
        artifact = next((place for place in models if place.suffix != ".onnx"), None)
        if artifact is None:
            raise InputError("benchmark: .onnx files alone do not tell the dense model; name one with --against")
        build(SpeechModel.from_pretrained(artifact).backbone.config).save_pretrained(folder)
    path = str(folder if against is None else against)
    config = load_config(path)
    budget = count_units(config.to_dict(), False, {}).budget
    return Contestant("dense" if against is None else against, TRANSFORMERS, path, int(budget.params), int(budget.macs))


def _time(found: Sequence[Contestant], cases: Sequence[Case], repeats: int) -> Times:
    """Measure case by case, all contestants of a case in turn."""
    runs = {one: ENGINES[one.engine](one.path) for one in found}
    times: Times = {}
    with progress_bar() as bar:
        task = bar.add_task("timing", total=len(cases) * len(found) * repeats)
        for case in cases:
            wave = case.wave()
            tasks = {one: partial(run, wave) for one, run in runs.items()}
            times[case] = interleaved(tasks, repeats, told=lambda: bar.advance(task))
    return times


def _latencies(times: Times, one: Contestant, reference: Contestant) -> dict[Case, Latency]:
    found = {}
    for case, seconds in times.items():
        low, median, high = quartiles(seconds[one])
        factor = median / (case.seconds * case.batch)
        found[case] = Latency(median, low, high, ratio(seconds[reference], seconds[one]), factor)
    return found


def _check(cases: Sequence[Case], repeats: int, threads: int) -> None:
    if not cases or min(case.batch for case in cases) < 1:
        raise InputError("benchmark: --batch takes numbers from 1 on, separated by commas")
    if not min(case.seconds for case in cases) >= SHORTEST:
        raise InputError(f"benchmark: --seconds takes numbers from {SHORTEST:g} on, separated by commas")
    if repeats < 1 or threads < 1:
        raise InputError(f"benchmark: {repeats} rounds on {threads} threads: at least 1 of each is needed")
