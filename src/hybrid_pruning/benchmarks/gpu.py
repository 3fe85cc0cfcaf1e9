"""`python -m hybrid_pruning.benchmarks --gpu`, run by `make gpu`: a GPU's results beside the CPU's, and its speed.

Each measurement is a case: its error is its row, rows are written as they come, and cases that are not begun when the
time is spent are named. Weights are random, and noise is the audio: nothing is fetched or decoded.
"""

import copy
import gc
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hybrid_pruning.audio import SAMPLE_RATE_HZ
from hybrid_pruning.benchmarks import roofline
from hybrid_pruning.benchmarks.comparison import machine, print_table
from hybrid_pruning.benchmarks.correctness import Checks, precision
from hybrid_pruning.benchmarks.timing import Task, interleaved, ratio
from hybrid_pruning.benchmarks.workloads import BASE, CLASSES, TINY, Scale, shrunk, training_step
from hybrid_pruning.config import HeadConfig
from hybrid_pruning.console import Table, say
from hybrid_pruning.errors import in_one_line
from hybrid_pruning.files import atomic_write, write_json
from hybrid_pruning.markdown import to_markdown
from hybrid_pruning.models.artifact import versions
from hybrid_pruning.models.backbone import build, read_config
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Accounting, plan_for
from hybrid_pruning.scoring.engine import choose_device
from hybrid_pruning.trees import finite

Row = Mapping[str, Any]
SECONDS = 4.0
"""Length of the clips of inference."""
CUTS = {"50% removed": (0.5, 1), "70% removed": (0.7, 1), "70% removed (multiples of 8)": (0.7, 8)}
"""Name -> fraction of the MACs removed, and the number that widths are multiples of, as tensor cores like them."""
KERNELS = 15
"""Of a profile that are shown."""
PRECISIONS = {"fp32": (False, torch.float32), "tf32": (True, torch.float32), "bf16": (True, torch.bfloat16)}
"""Name -> whether float32 is rounded to TF32 in products and convolutions, and the type of weights and activations."""
GATED: Row = {"gated": True, "solver": "exact"}
EAGER: Mapping[str, Row] = {
    "dense": {"gated": False},
    "gated": GATED,
    "gated, multipliers": {"gated": True},
    "gated, taught": {**GATED, "taught": True},
}
COMPILED = {name: {**EAGER[name], "compiled": True} for name in ("gated", "dense")}
LARGE = Scale(
    "WavLM Large",
    {
        "model_type": "wavlm",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes and batches of training, batches of inference, sides of a product, values of a copy, rounds of each.

    `killed` is the shape whose training is killed and resumed.
    """

    shapes: tuple[Scale, ...]
    batches: tuple[int, ...]
    heard: tuple[int, ...]
    side: int
    copied: int
    rounds: int
    killed: Scale


SHALLOW = replace(BASE, config={**BASE.config, "num_hidden_layers": 3}, crop_seconds=1.0)
FULL = Sizes((BASE, LARGE), (16, 32, 64), (1, 64), 8192, 1 << 28, 10, SHALLOW)
QUICK = Sizes((TINY,), (2,), (2,), 64, 1 << 12, 2, TINY)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement: the labels of its rows, and a function that returns the rest of each."""

    labels: Row
    measure: Callable[[], Sequence[Row]]

    def run(self, seconds: float) -> list[Row]:
        """Return the rows, or one with the error; it is stopped after so many seconds."""
        end = time.monotonic() + seconds
        try:
            if seconds > 0:
                with _limit(seconds):
                    return [{**self.labels, **row} for row in self.measure()]
            fault = "left out, the time was spent"
        except Exception as error:  # whatever a driver or compiler raises: the other cases go on
            late = time.monotonic() >= end  # a compiler wraps the TimeoutError in its own
            fault = "stopped, the time was spent" if late else f"{type(error).__name__}: {in_one_line(error)}"
        return [{**self.labels, "error": fault}]


@dataclass(slots=True)
class Part:
    """The cases of one table, and its rows so far."""

    title: str
    note: str
    cases: Sequence[Measurement]
    rows: list[Row] = field(default_factory=list)

    def table(self) -> Table:
        """Return the rows under the names of all their values."""
        headings = list(dict.fromkeys(name for row in self.rows for name in row))
        rows = [[_shown(row.get(name)) for name in headings] for row in self.rows]
        return Table(headings, rows, self.title, self.note, left=2)


def prepare(name: str) -> torch.device:
    """Return the device, before anything is computed on it: deterministic products want it announced."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    return device


def measure(device: torch.device, quick: bool, out: Path, seconds: float) -> bool:
    """Measure for so many seconds at most, print the tables and write them to gpu.md and gpu.json in a folder.

    Return whether all checks were made and hold.
    """
    end, bench = time.monotonic() + seconds, Bench(device, quick)
    about = f"{torch.cuda.get_device_name(device) if bench.cuda else 'cpu'}; {machine()}"
    parts = bench.parts()
    for part in parts:
        for case in part.cases:
            part.rows += case.run(end - time.monotonic())
            bench.release()
            _write(out, about, [part for part in parts if part.rows])
        print_table(part.table(), False)
    right = all(row.get("holds", "error" not in row) for row in parts[1].rows)
    say(f"{about}; written to {out}; {'all checks hold' if right else 'NOT all checks hold'}")
    return right


class Bench:
    """The parts on one device, and what several of their cases share."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device, self.sizes, self.cuda = device, QUICK if quick else FULL, device.type == "cuda"
        self.flags = ("--device", str(device), *(("--quick",) if quick else ()))
        self.rates: dict[str, float] = {}

    def parts(self) -> list[Part]:
        """Return all parts, those that may take minutes last."""
        sizes, crop = self.sizes, self.sizes.shapes[0].crop_seconds
        most, shape = sizes.batches[-1], sizes.shapes[0].name
        products = [Measurement({"unit": f"GEMM, {name}"}, partial(self._multiply, name)) for name in PRECISIONS]
        checks = Checks(self.device, sizes.shapes[0], sizes.killed, self.flags).all()
        training = [self._training(scale, batch, EAGER) for scale in sizes.shapes for batch in sizes.batches]
        compiled = [
            self._training(scale, sizes.batches[0], {"dense": EAGER["dense"], f"{name}, compiled": options})
            for scale in sizes.shapes
            for name, options in COMPILED.items()
        ]
        compiled.insert(1, Measurement({"shape": shape, "batch": 1}, self._hear_compiled))
        heard = [
            Measurement({"precision": name, "batch": batch}, partial(self._hear, name, batch))
            for batch in sizes.heard
            for name in PRECISIONS
        ]
        rounds = f"Medians of {sizes.rounds} rounds in turn, launches included."
        steps = (
            f"Clips of {crop:g} s, bf16 autocast, fused AdamW; copying the batch and one wait are included. {rounds} "
            "Share: 3 passes of 2 operations for each MAC, and 1 of the teacher's, which has the same shape, over GEMM."
        )
        hours = (
            f"{shape}, clips of {SECONDS:g} s on the device; weights and activations of one type. {rounds} h/s: hours "
            "of audio in a second. Times faster: than transformers in the same precision."
        )
        kernels = f"A gated step of {shape}, batch {most}. Share: of the step's time for all kernels, else of theirs."
        return [
            Part(
                "rates",
                f"Matrices of {sizes.side}; bytes read and written.",
                [*products, Measurement({"unit": "copy"}, self._copy)],
            ),
            Part("correctness", "Relative: to the largest value.", [self._check(*check) for check in checks.items()]),
            Part("training", steps, training),
            Part("inference", hours, heard),
            Part("profile", kernels, [Measurement({}, partial(self._profile, most))]),
            *([Part("torch.compile", "As above, where the encoder is compiled.", compiled)] if self.cuda else []),
        ]

    def release(self) -> None:
        """Give the memory of a case back."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def _check(self, name: str, check: Callable[[], Row]) -> Measurement:
        return Measurement({"check": name}, lambda: [check()])

    def _training(self, scale: Scale, batch: int, steps: Mapping[str, Row]) -> Measurement:
        labels = {"shape": scale.name, "batch": batch}
        return Measurement(labels, partial(self._train, replace(scale, batch=batch), steps))

    def _multiply(self, name: str) -> list[Row]:
        tf32, dtype = PRECISIONS[name]
        with precision(tf32):
            self.rates[name] = roofline.multiply(
                self.sizes.side, dtype, self.device, self.sizes.rounds, roofline.PRODUCTS
            )
        return [{"rate": self.rates[name] / 1e12, "in": "TFLOP/s"}]

    def _copy(self) -> list[Row]:
        rate = roofline.copy(self.sizes.copied, self.device, self.sizes.rounds, roofline.PRODUCTS)
        return [{"rate": rate / 1e9, "in": "GB/s"}]

    def _train(self, scale: Scale, steps: Mapping[str, Row]) -> list[Row]:
        backbone = scale.backbone("meta")
        macs = scale.batch * Accounting(backbone, plan_for(backbone, scale.crop_seconds)).dense_macs
        tasks, peaks, rows = dict[str, Task](), dict[str, float | None](), list[Row]()
        for name, options in steps.items():
            before = self._watch_memory()
            tasks[name] = step = training_step(scale, device=self.device, bf16=True, **options)
            for _ in range(2):  # from the second on, Adam's moments are there
                step()
            peaks[name] = (torch.cuda.max_memory_allocated(self.device) - before) / 1e9 if self.cuda else None
        times = interleaved(tasks, self.sizes.rounds)
        for name, taken in times.items():
            seconds, passes = statistics.median(taken), 4 if "taught" in steps[name] else 3
            row = {"step": name, "ms": seconds * 1e3, "clips/s": scale.batch / seconds}
            share = self._share(passes * macs / seconds, "bf16")
            rows.append({**row, **share, "over dense": ratio(taken, times["dense"]).median, "peak GB": peaks[name]})
        return rows

    def _watch_memory(self) -> int:
        """Return the bytes that are held now, and begin to watch their peak."""
        if not self.cuda:
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def _profile(self, batch: int) -> list[Row]:
        step = training_step(replace(self.sizes.shapes[0], batch=batch), True, self.device, bf16=True)
        wall = statistics.median(interleaved({"": step}, self.sizes.rounds)[""]) * 1e3
        with profile(activities=[ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU]) as found:
            step()
        kind, name = (DeviceType.CUDA, "device") if self.cuda else (DeviceType.CPU, "cpu")
        kernels = [
            {"calls": event.count, "ms": getattr(event, f"self_{name}_time_total") / 1e3, "kernel": event.key[:100]}
            for event in found.key_averages()
            if event.device_type == kind
        ]
        calls, busy = (sum(one[column] for one in kernels) for column in ("calls", "ms"))
        slowest = sorted(kernels, key=lambda one: -one["ms"])[:KERNELS]
        every = {"calls": calls, "ms": busy, "share": busy / wall, "kernel": "all"}
        return [every, *({**one, "share": one["ms"] / busy} for one in slowest)]

    @cached_property
    def _models(self) -> dict[str, tuple[nn.Module, int]]:
        """Models on the device with the MACs of a clip: transformers', ours dense, and ours cut at random."""
        shape = self.sizes.shapes[0]
        dense = shape.backbone(self.device).eval()
        sizes = {name: shrunk(dense, cut, constraint="macs", align=align) for name, (cut, align) in CUTS.items()}
        macs = next(iter(sizes.values()))[1].dense_macs
        backbones = {"dense": (dense, macs), **{name: (small, int(size.macs)) for name, (small, size) in sizes.items()}}
        foreign = build(read_config(dict(shape.config), "benchmark"))
        found: dict[str, tuple[nn.Module, int]] = {"transformers": (foreign.to(self.device).eval(), macs)}
        for name, (backbone, own) in backbones.items():
            model = SpeechModel.build(backbone, HeadConfig(**shape.head), CLASSES)
            found[name] = model.to(self.device).eval(), own
        return found

    def _tasks(self, dtype: torch.dtype, batch: int) -> dict[str, Task]:
        """Return what runs each model on one batch of noise."""
        wave = torch.randn(batch, round(SECONDS * SAMPLE_RATE_HZ), device=self.device)
        tasks: dict[str, Task] = {}
        for name, (model, _) in self._models.items():
            own = copy.deepcopy(model).to(dtype)
            foreign = partial(own, wave.to(dtype), output_hidden_states=True)
            tasks[name] = partial(own.embed, wave) if isinstance(own, SpeechModel) else foreign
        return tasks

    def _hear(self, name: str, batch: int) -> list[Row]:
        tf32, dtype = PRECISIONS[name]
        tasks = self._tasks(dtype, batch)
        with precision(tf32), torch.inference_mode():
            if self.cuda and batch == 1:
                tasks |= {f"{model}, CUDA graph": capture(task) for model, task in list(tasks.items())[1:]}
            return self._time(tasks, name, batch)

    def _hear_compiled(self) -> list[Row]:
        tasks, name = self._tasks(torch.bfloat16, 1), [*CUTS][-1]
        run: Any = tasks[name]
        compiled = torch.compile(run.func, mode="reduce-overhead")
        with precision(True), torch.inference_mode():
            for _ in range(3):  # compiled, recorded, replayed
                compiled(*run.args)
            shown = {
                "transformers": tasks["transformers"],
                name: run,
                f"{name}, compiled": partial(compiled, *run.args),
            }
            return self._time(shown, "bf16", 1)

    def _time(self, tasks: Mapping[str, Task], name: str, batch: int) -> list[Row]:
        times, rows = interleaved(tasks, self.sizes.rounds), list[Row]()
        for model, taken in times.items():
            seconds, macs = statistics.median(taken), batch * self._models[model.partition(",")[0]][1]
            row = {"model": model, "ms": seconds * 1e3, "h/s": batch * SECONDS / 3600 / seconds}
            faster = ratio(times["transformers"], taken).median
            rows.append({**row, **self._share(macs / seconds, name), "times faster": faster})
        return rows

    def _share(self, macs_per_second: float, name: str) -> Row:
        return {"share of GEMM": 2 * macs_per_second / self.rates[name] if name in self.rates else None}


def capture(task: Task) -> Task:
    """Return the replay of a task as a CUDA graph, captured after three calls on a stream of its own."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            task()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        task()
    return graph.replay


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds, and again where something catches it."""

    def stop(*_: object) -> None:
        raise TimeoutError

    handler, before = signal.signal(signal.SIGALRM, stop), signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


def _write(out: Path, about: str, parts: Sequence[Part]) -> None:
    plain = [{"title": part.title, "note": part.note, "rows": part.rows} for part in parts]
    write_json(out / "gpu.json", finite({"machine": about, "versions": versions(), "parts": plain}))
    with atomic_write(out / "gpu.md") as handle:
        handle.write("\n".join([f"{about}\n", *(to_markdown(part.table()) for part in parts)]))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "NO"}[value]
    return str(value) if not isinstance(value, float) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
