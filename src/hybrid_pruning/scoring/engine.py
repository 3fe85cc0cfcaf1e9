"""The engine that runs a model, by torch, ONNX Runtime or OpenVINO, over files: windows -> embeddings -> scores."""

import math
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from hybrid_pruning import distributed as processes
from hybrid_pruning.audio import SAMPLE_RATE_HZ, WINDOW_SECONDS
from hybrid_pruning.console import progress_bar
from hybrid_pruning.distributed import FloatArray
from hybrid_pruning.errors import InputError, first_line
from hybrid_pruning.extras import first_absent
from hybrid_pruning.models import artifact
from hybrid_pruning.models.onnx.runtime import FILE, OPENVINO, SUFFIXES, OnnxModel, files_of, find_onnx, read_beside
from hybrid_pruning.scoring.windows import Window, WindowBatch, cut, load_windows, measure_lengths

if TYPE_CHECKING:
    import torch

    from hybrid_pruning.models.speech_model import SpeechModel

Embedder: TypeAlias = Union["SpeechModel", OnnxModel]
"""A trained model, from waveforms to embeddings and scores."""
Quantity = Literal["scores", "embeddings"]
Vector = npt.NDArray[np.float32]

MOST_SECONDS = 86_400.0
DEVICES = ("cpu", "cuda", "mps")
BATCH_SECONDS = 120.0
"""Audio in a batch at most, padding included; only a single longer window may exceed it."""
CPU_SECONDS = 10.0
"""And in a CPU's batch, again but for a longer window: more gains no speed and costs memory."""


def load_embedder(model: str | Path | Embedder, device: str = "auto") -> Embedder:
    """Return a model by its name, on a device; a loaded one as it is. A graph runs without torch, on the CPU.

    Without torch, an artifact is run by the graph beside it.
    """
    if not isinstance(model, (str, Path)):
        return model
    file = find_onnx(prefer_onnx(model, device) if first_absent("torch") else model)
    if file is None:
        from hybrid_pruning.models.speech_model import SpeechModel

        return SpeechModel.from_pretrained(model).to(choose_device(device))
    if device not in ("auto", "cpu"):
        raise InputError(f"device '{device}': {file} runs on the CPU; leave --device out, or export no graph")
    return OnnxModel.from_file(file)


def prefer_onnx(model: str | Path, device: str = "auto", names: Sequence[str] = (OPENVINO, FILE)) -> str | Path:
    """Return the first of the named graphs that can be run, lies in the folder, or the hub's, of a model's artifact and
    is up to date; the model where none is.
    """
    graphs = [Path(name) for name in names if first_absent(SUFFIXES[Path(name).suffix]) is None]
    if not graphs or device not in ("auto", "cpu") or Path(model).is_file():
        return model
    try:
        belonging = [path.name for graph in graphs for path in (*files_of(graph), graph.with_suffix(".json"))]
        folder = artifact.locate(model, belonging)
        config = artifact.read_config(folder)
    except InputError:
        return model
    for graph in graphs:
        with suppress(InputError):
            exported = read_beside(folder / graph.with_suffix(".json"))
            if exported.get("calibration") == config.get("calibration") and (folder / graph).is_file():
                return folder / graph
    return model


def choose_device(name: str = "auto") -> "torch.device":
    """Return a device by its name; `auto` is CUDA where there is one, and otherwise the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise InputError(f"device '{name}' is unknown; expected one of auto, {', '.join(DEVICES)}, or e.g. cuda:1")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        problem = f"cannot be used here ({first_line(error)}); 'hybrid-pruning doctor' lists them"
        raise InputError(f"device '{name}' {problem}") from error
    return device


@dataclass(slots=True)
class Throughput:
    """Seconds of audio scored and computed (padding included), and of waiting for it and in all, of one process."""

    audio_seconds: float = 0.0
    computed_seconds: float = 0.0
    waiting_seconds: float = 0.0
    wall_seconds: float = 0.0

    def of_all_processes(self) -> "Throughput":
        """Return the audio of all processes together, and their mean times."""
        parts = processes.join_lists([self])
        audio, computed, waiting, wall = (sum(column) for column in zip(*map(astuple, parts), strict=True))
        return Throughput(audio, computed, waiting / len(parts), wall / len(parts))

    def __str__(self) -> str:
        if not self.computed_seconds or not self.wall_seconds:
            return "no audio was scored"
        return (
            f"{self.audio_seconds:.0f} s of audio in {self.wall_seconds:.1f} s, "
            f"{self.audio_seconds / self.wall_seconds:.1f} times real time; "
            f"{1 - self.audio_seconds / self.computed_seconds:.1%} of what was computed was padding, "
            f"{self.waiting_seconds / self.wall_seconds:.1%} of the time went on waiting for decoded audio"
        )


@dataclass(frozen=True, slots=True)
class Recordings:
    """Audio files [N], their samples [N] at 16 kHz (nan: left out), and stated durations [N] (nan: not known)."""

    paths: Sequence[Path]
    samples: FloatArray
    seconds: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The scores or embeddings [E] of a group's recordings; all by place, also reasons of failure and silent files."""

    number: int
    values: Mapping[int, Any]
    failed: Mapping[int, str]
    silent: frozenset[int] = frozenset()

    def fill(self, table: FloatArray) -> None:
        """Write the values into those of all recordings, [N] or [N, E]."""
        if self.values:
            table[list(self.values)] = list(self.values.values())


@dataclass(frozen=True, slots=True)
class Engine:
    """A model as it is run over files, on the device it is on, and the throughput of all its passes.

    With `crops` a recording longer than the window is one random crop of that length instead of all its windows, a
    function of its place alone.
    """

    model: Embedder
    batch_size: int = 16
    workers: int = 2
    window_seconds: float = WINDOW_SECONDS
    crops: bool = False
    throughput: Throughput = field(default_factory=Throughput)

    @property
    def window(self) -> int:
        """The longest window, in samples at 16 kHz."""
        if not 1 / SAMPLE_RATE_HZ <= self.window_seconds < MOST_SECONDS:  # nan is neither
            raise InputError(
                f"windows of {self.window_seconds:g} s; expected more than 0 and less than {MOST_SECONDS:g} s"
            )
        return round(self.window_seconds * SAMPLE_RATE_HZ)

    def check_window(self) -> None:
        """Require that the model takes windows of this length."""
        longest = self.model.longest_samples if isinstance(self.model, OnnxModel) else None
        if longest is not None and self.window > longest:
            raise InputError(
                f"windows of {self.window / SAMPLE_RATE_HZ:g} s: this model takes {longest // SAMPLE_RATE_HZ} s; lower "
                "--window-seconds"
            )

    def plan(self, samples: FloatArray) -> dict[int, list[int]]:
        """Return groups of recordings whose windows are of similar length, longest first, so that little is padded.

        A group is one batch, or all the batches of one recording too long for a single one: all windows of a recording
        are in the same group. The groups, numbered, depend on the lengths [N], the batch size and the window, and on
        nothing else; recordings with a nan for a length are left out.
        """
        known = ((index, self._cut(index, int(value))) for index, value in enumerate(samples) if not math.isnan(value))
        groups: list[list[int]] = []
        free = 0
        for index, windows in sorted(known, key=lambda one: (-one[1][0][1], one[0])):
            if len(windows) > free:
                groups.append([])
                free = self.rows(windows[0][1])
            groups[-1].append(index)
            free -= len(windows)
        return dict(enumerate(groups))

    def batches(self, recordings: Recordings, group: Sequence[int]) -> list[list[Window]]:
        """Return the batches of a group's windows."""
        pieces: list[Window] = []
        for index in group:
            path, total = recordings.paths[index], int(recordings.samples[index])
            seconds = math.nan if recordings.seconds is None else recordings.seconds[index]
            pieces += [Window(index, path, start, size, total, seconds) for start, size in self._cut(index, total)]
        rows = self.rows(max(piece.samples for piece in pieces))
        return [pieces[first : first + rows] for first in range(0, len(pieces), rows)]

    def run(
        self, recordings: Recordings, groups: Mapping[int, Sequence[int]], quantity: Quantity
    ) -> Generator[GroupResult]:
        """Embed or score numbered groups of places; close the generator to have the model in the mode it was in."""
        model, clock = self.model, self.throughput
        self.check_window()
        started, before = time.perf_counter() - clock.wall_seconds, clock.audio_seconds
        batches = (batch for group in groups.values() for batch in self.batches(recordings, group))
        total = recordings.samples[[index for group in groups.values() for index in group]].sum() / SAMPLE_RATE_HZ
        with (
            model.evaluating(),
            closing(load_windows(batches, self.window, model.minimum_samples, self.workers)) as loaded,
            progress_bar() as bar,
        ):
            task = bar.add_task("scoring, seconds of audio", total=round(float(total)))
            for number, group in groups.items():
                sums, windows = dict[int, Vector](), Counter[int]()
                failed, audible = dict[int, str](), set[int]()
                for _ in self.batches(recordings, group):
                    asked = time.perf_counter()
                    batch = next(loaded)
                    clock.waiting_seconds += time.perf_counter() - asked
                    failed |= batch.failed
                    audible |= batch.audible
                    for index, embedding in zip(batch.index, self.embed(batch), strict=True):
                        sums[index] = sums[index] + embedding if index in sums else embedding
                        windows[index] += 1
                    clock.wall_seconds = time.perf_counter() - started
                    bar.update(task, completed=round(clock.audio_seconds - before))
                means = {place: sums[place] / np.float32(windows[place]) for place in sums if place not in failed}
                values: dict[int, Any] = means
                if quantity == "scores" and means:
                    scores = model.classify_arrays(np.stack(list(means.values()))).tolist()
                    values = dict(zip(means, scores, strict=True))
                for index, value in values.items():
                    if not np.isfinite(value).all():
                        raise InputError(
                            f"{recordings.paths[index]}: its {quantity.removesuffix('s')} is not finite; has the "
                            "training diverged?"
                        )
                yield GroupResult(number, values, failed, frozenset(means.keys() - audible))

    def run_paths(
        self, paths: Sequence[str | Path], quantity: Quantity, seconds: Sequence[float] | None = None
    ) -> FloatArray:
        """Return [N] scores or [N, E] embeddings of files, the same to every process; a bad file is an error."""
        files = [Path(path) for path in paths]
        samples, failed = measure_lengths(files, seconds, self.window)
        raise_first(failed)
        values = self.empty(quantity, len(files))
        with closing(self.run(Recordings(files, samples, seconds), share(self.plan(samples)), quantity)) as results:
            for result in results:
                raise_first(result.failed)
                result.fill(values)
        processes.wait()
        return processes.join_arrays(values)

    def empty(self, quantity: Quantity, count: int) -> FloatArray:
        """Return [N] or [N, E] of nan, to be filled with scores or embeddings."""
        return np.full((count,) if quantity == "scores" else (count, self.model.embedding_width), np.nan)

    def _cut(self, index: int, samples: int) -> list[tuple[int, int]]:
        """Return (start, samples) of the pieces of the recording at a place that are embedded."""
        if not self.crops:
            return cut(samples, self.window)
        length = min(samples, self.window)
        return [(int(np.random.default_rng(index).integers(samples - length + 1)), length)]

    def rows(self, longest: int) -> int:
        """Return how many windows of up to `longest` samples make a batch."""
        return max(1, min(self.batch_size, int(BATCH_SECONDS * SAMPLE_RATE_HZ) // max(1, longest)))

    def embed(self, batch: WindowBatch) -> Iterable[Vector]:
        """Yield the embedding [E] of each window of a batch.

        A batch of more audio than the device gains by (planned for a GPU, or of wrong durations) is computed in parts.
        """
        wave, lengths = batch.wave, batch.lengths
        if not len(wave):
            return
        most = CPU_SECONDS if self.model.device_type == "cpu" else BATCH_SECONDS
        rows = -(-len(wave) // -(-wave.size // round(most * SAMPLE_RATE_HZ)))
        padded = bool((lengths != wave.shape[1]).any())
        self.throughput.audio_seconds += int(lengths.sum()) / SAMPLE_RATE_HZ
        self.throughput.computed_seconds += wave.size / SAMPLE_RATE_HZ
        for first in range(0, len(wave), rows):
            part = slice(first, first + rows)
            yield from self.model.embed_arrays(wave[part], lengths[part] if padded else None)


def share(groups: Mapping[int, Sequence[int]]) -> dict[int, Sequence[int]]:
    """Return this process's groups: longest first to each in turn, so that all are done at about the same time."""
    return dict(list(groups.items())[processes.rank() :: processes.count()])


def raise_first(failed: Mapping[int, str]) -> None:
    """Raise the reason of the first recording that failed, if there is one."""
    if failed:
        raise InputError(failed[min(failed)])
