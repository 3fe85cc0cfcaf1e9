"""The folder of a training, in one type: recipe, architecture, data, log, dev scores, checkpoints, snapshots, gates.

A line of the log is a JSON record; TensorBoard, where that is installed, has the same numbers. Torch is loaded where
tensors are read or written.
"""

import hashlib
import json
import os
import pickle
import re
import socket
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_pruning.config import Config, expand_stages, load_config, save_config
from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.extras import remedy
from hybrid_pruning.files import atomic_write, cannot_write, remove_leftovers, write_json
from hybrid_pruning.trees import finite, parse_json, read_json

if TYPE_CHECKING:
    from hybrid_pruning.models.speech_model import SpeechModel
    from hybrid_pruning.pruning import Gates

EPOCH, STEP = "epoch", "step"
"""Kinds of checkpoints: `epoch-0003.pt` after each epoch, `step-00001500.pt` every so many steps."""
DIGITS = {EPOCH: 4, STEP: 8}
AVERAGED = 2
"""Checkpoints whose mean a model is, unless asked otherwise."""
MAY_DIFFER: Any = {"corpus": True, "data": {"workers", "eval", "trials"}, "cohort": True, "stages": True}
"""Parts of a recipe that a resumed run may have otherwise; of trials and stages see `decisive`."""
SOLVER = "constraint_solver"
"""Key of `pruning` that recipes of older versions lack."""
GROUPS = ("loss", "learning_rate", "gradient_norm", "sparsity", "removed", "multipliers", "dev", "dev_eer")
"""Parts of a record that are numbers by name."""
TAGS = {"audio_seconds_per_second": "throughput", "padding": "padding"}
"""Numbers of their own, and their tags in TensorBoard."""


class DamagedError(InputError):
    """A checkpoint that is there and can be read, but is not whole."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The rows of a manifest, list or folder of recordings that decide a training: their number and digest."""

    path: Path | str
    rows: int
    sha256: str

    @classmethod
    def of(cls, path: Path | str, rows: Iterable[str]) -> "Digest":
        """Return the digest of rows without their ends of line."""
        lines = list(rows)
        content = "\n".join(lines).encode(errors="surrogateescape")
        return cls(path, len(lines), hashlib.sha256(content).hexdigest())


class Run:
    """A run's folder; in a recipe with stages, each stage is a run of its own below it.

    Checkpoints are whole states, of which the last few stay; snapshots are states as the target passed a sparsity of
    `export_at`, `hp30.pt`, without optimisers; the architecture is that of the model as the training began.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        self.config, self.architecture, self.data = (
            folder / name for name in ("config.yaml", "architecture.json", "data.json")
        )
        self.log, self.tensorboard = folder / "log.jsonl", folder / "tensorboard"
        self.dev_scores, self.evaluation = folder / "dev_scores.tsv", folder / "evaluation"
        self.checkpoints, self.snapshots = folder / "checkpoints", folder / "snapshots"

    def stages(self, config: Config | None = None) -> list["Run"]:
        """Return the runs of the stages in order, begun or not; none without stages, or without a readable recipe."""
        try:
            config = self.read_config() if config is None else config
        except InputError:
            return []
        return [Run(self.folder / name) for name in config.stages]

    def last_stage(self, config: Config | None = None) -> "Run":
        """Return the run of the last stage, or this one where it has none."""
        return [self, *self.stages(config)][-1]

    def read_config(self) -> Config:
        """Return the resolved recipe; one of before there were several solvers has the paper's."""
        there = self.config.read_text(encoding="utf-8", errors="replace") if self.config.is_file() else SOLVER
        return load_config(self.config, () if SOLVER in there else (f"pruning.{SOLVER}=lagrangian",))

    def read_model(self) -> "SpeechModel":
        """Return the model as the training began, with fresh weights."""
        from hybrid_pruning.models.speech_model import SpeechModel, understanding

        try:
            about = read_json(self.architecture)
            with understanding(self.folder):
                return SpeechModel.from_architecture(about)
        except InputError as error:
            problem = f"is no training run ({self.architecture.name} is missing or damaged)"
            raise InputError(f"{self.folder}: {problem}") from error

    def read_log(self) -> list[dict[str, Any] | None]:
        """Return the records of the log, a line each; None for a line that is cut off or damaged."""
        records: list[dict[str, Any] | None] = []
        for line in self.log.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            try:
                record = parse_json(line)
            except ValueError:
                record = None
            records.append(record if isinstance(record, dict) else None)
        return records

    def write(self, config: Config, architecture: Mapping[str, Any], data: Mapping[str, Digest]) -> None:
        """Write the recipe, the architecture, and the digests of the data by their keys in the recipe."""
        save_config(config, self.config)
        write_json(self.architecture, architecture)
        write_json(self.data, {key: {"rows": digest.rows, "sha256": digest.sha256} for key, digest in data.items()})

    def check_recipe(self, config: Config) -> None:
        """Refuse to resume a folder that is no run, or one of another recipe."""
        try:
            there = self.config.exists()
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be read ({error.strerror}); check its permissions") from error
        if not there:
            raise InputError(f"{self.folder}: is no training run ({self.config.name} is missing)")
        if decisive(self.read_config()) != decisive(config):
            raise InputError(f"{self.config}: differs from the recipe given; resume with the run's own")
        if self.checkpoints.exists():  # a run killed before its first checkpoint begins again
            self.read_model()
        remove_leftovers(self.folder)

    def check_data(self, data: Mapping[str, Digest]) -> None:
        """Refuse to go on from checkpoints with other data; print where a run of an older version has no digests."""
        if not any(self.checkpoints.glob("*.pt")):  # it begins again
            return
        if not self.data.exists():
            age = f"has no {self.data.name}, as runs of older versions"
            say(f"{self.folder}: {age}; that the data are the same cannot be checked")
            return
        try:
            known = read_json(self.data)
            then = {key: (int(known[key]["rows"]), str(known[key]["sha256"])) for key in data}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.data}: is damaged; remove it to resume without checking the data") from error
        for key, now in data.items():
            if then[key] != (now.rows, now.sha256):
                same = then[key][0] == now.rows
                counts = "as many rows, but others" if same else f"{then[key][0]} rows then, {now.rows} now"
                raise InputError(
                    f"{now.path}: {key} has changed since {self.folder} was begun ({counts}); bring back what it was, "
                    "or start a new run"
                )

    def list_checkpoints(self, kind: str = EPOCH) -> list[Path]:
        """Return the checkpoints of one kind, oldest first."""
        paths = self.checkpoints.glob(f"{kind}-*.pt")
        return sorted(path for path in paths if re.fullmatch(rf"{kind}-\d+\.pt", path.name))

    def newest_checkpoints(self, count: int = AVERAGED) -> list[Path]:
        """Return the last `count` epochs' checkpoints, or where there is none the newest of any kind."""
        newest = sorted(self.checkpoints.glob("*.pt"), key=lambda path: path.stat().st_mtime)
        return self.list_checkpoints()[-count:] or newest[-1:]

    def trained_epochs(self) -> int:
        """Return after how many epochs the last checkpoint was written; 0 where there is none."""
        epochs = self.list_checkpoints()
        return int(epochs[-1].stem.removeprefix(f"{EPOCH}-")) if epochs else 0

    def checkpoint(self, kind: str, number: int) -> Path:
        """Return where the checkpoint after so many epochs or steps lies."""
        return self.checkpoints / f"{kind}-{number:0{DIGITS[kind]}d}.pt"

    def snapshot(self, sparsity: float) -> Path:
        """Return where the snapshot of a sparsity lies."""
        return self.snapshots / f"{snapshot_name(sparsity)}.pt"

    def save_checkpoint(self, kind: str, number: int, state: Mapping[str, Any], keep: int) -> None:
        """Write a checkpoint whole or not at all, and remove all but the last `keep` of its kind."""
        write_state(self.checkpoint(kind, number), state)
        for old in self.list_checkpoints(kind)[:-keep]:
            old.unlink(missing_ok=True)

    def find_latest(self) -> Path | None:
        """Return the checkpoint that has come furthest, or None where there is none; damaged ones are set aside."""
        for folder in (self.checkpoints, self.snapshots):
            remove_leftovers(folder)
        damaged: list[Path] = []
        whole: list[tuple[int, int, Path]] = []
        for kind in (EPOCH, STEP):
            for path in reversed(self.list_checkpoints(kind)):
                try:
                    state = read_checkpoint(path)
                except DamagedError:
                    damaged.append(path)
                else:
                    whole.append((state["step"], state["epoch"], path))
                    break
        if not whole:
            if damaged:
                problem = "all checkpoints are damaged; remove them to start from the beginning"
                raise InputError(f"{self.checkpoints}: {problem}")
            return None
        latest = max(whole)[-1]
        for path in damaged:
            path.rename(path.with_suffix(".damaged"))
            say(f"{path}: is damaged and set aside; going on from {latest.name}")
        return latest

    def average_objectives(self, count: int = AVERAGED) -> dict[str, Any]:
        """Return the mean of the last `count` epochs' learnt tensors; of the rest, the last epoch's."""
        paths = self.list_checkpoints()
        if not 1 <= count <= len(paths):
            raise InputError(
                f"{self.folder}: {len(paths)} checkpoints are there, cannot average {count}; "
                "finish the training, or raise training.keep_checkpoints"
            )
        return average([read_objective(path) for path in paths[-count:]])

    def read_snapshot(self, sparsity: float) -> dict[str, Any]:
        """Return the state of network and gates in the snapshot of a sparsity."""
        path = self.snapshot(sparsity)
        if not path.exists():
            raise InputError(f"{path}: is not there; the training leaves it when its target passes that sparsity")
        return read_objective(path)

    def read_gates(self, checkpoints: Sequence[Path]) -> "Gates":
        """Return the gates of a pruning training with their mean log_alpha over checkpoints, without the network.

        Their `kept(target, constraint)` are the units that an export keeps. No other tensor of the checkpoints is read.
        One that cannot be read, or whose gates are not those of the architecture, is a PlanError.
        """
        import torch

        from hybrid_pruning.models.speech_model import SpeechModel
        from hybrid_pruning.pruning import Accounting, Gates, PlanError, plan_for

        pruning = self.read_config().pruning
        with torch.device("meta"):  # sizes without weights
            backbone = SpeechModel.from_architecture(read_json(self.architecture)).backbone
        plan = plan_for(backbone, pruning.macs_seconds).only(pruning.gated_units).aligned(pruning.align)
        gates = Gates(plan, Accounting(backbone, plan), binary=pruning.binary)
        wanted = {f"gates.{name}.log_alpha" for name in gates}
        states = []
        for path in checkpoints:
            objective = (open_checkpoint(path) or {}).get("objective", {})
            states.append({name: value for name, value in objective.items() if name.endswith(".log_alpha")})
            if set(states[-1]) != wanted:
                raise PlanError(f"{path}: its gates are not those of {self.architecture}, or it is damaged")
        mean = average(states)
        for name, gate in gates.items():
            gate.log_alpha.data.copy_(mean[f"gates.{name}.log_alpha"])
        return gates


class RunLog:
    """Appends records to a run's log; only the main process has one.

    Of an earlier log the first `lines` are true, up to `step`; those beyond the checkpoint are dropped.
    """

    def __init__(self, run: Run, lines: int = 0, step: int = 0) -> None:
        self.path = run.log
        try:
            kept = self.path.read_bytes().split(b"\n")[:-1][:lines]  # a line that was cut off is never whole
        except FileNotFoundError:
            kept = []
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.lines = len(kept)
        with atomic_write(self.path, "wb") as handle:
            handle.writelines(line + b"\n" for line in kept)
        self._board: Board | None = None
        try:
            self._board = Board(run.tensorboard, step + 1 if lines else 0)
        except ImportError:
            say(f"log: {self.path.name} alone; for TensorBoard beside it: {remedy('tensorboard')}")
        except OSError as error:
            raise cannot_write(run.tensorboard, error) from error

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record of plain values, whole or not at all; `step` becomes its first entry."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(finite({"step": step, **record}), allow_nan=False) + "\n")
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, size)
            raise cannot_write(self.path, error) from error
        self.lines += 1
        if self._board is not None:
            try:
                histograms = {f"gates/{unit}": counts for unit, counts in record.get("gates", {}).items()}
                self._board.write(step, dict(_numbers(record)), histograms)
            except OSError as error:
                raise cannot_write(self._board.folder, error) from error

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()


class Board:
    """Writes TensorBoard's events in step with the log.

    torch's SummaryWriter writes in a thread, which prints a traceback where the disk is full and is lost in a fork.
    Events of earlier files no longer count from `purge_step` on. Without TensorBoard this is an ImportError.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder = folder
        self._event, self._summary, self._histogram = Event, Summary, HistogramProto
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}").open("ab")
        self._writer = RecordWriter(self._file)
        self._append(file_version="brain.Event:2")  # from this version on earlier events can be purged
        self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Sequence[int]]) -> None:
        """Append numbers by tag, and the numbers of values in bins of equal width from 0 to 1."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        for tag, counts in histograms.items():
            middles = [(index + 0.5) / len(counts) for index in range(len(counts))]
            moments = [sum(n * middle**power for n, middle in zip(counts, middles, strict=True)) for power in (1, 2)]
            ends = [middle + 0.5 / len(counts) for middle in middles]
            sums = {"num": sum(counts), "sum": moments[0], "sum_squares": moments[1]}
            histogram = self._histogram(min=0.0, max=1.0, **sums, bucket_limit=ends, bucket=counts)
            values.append(self._summary.Value(tag=tag, histo=histogram))
        self._append(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, **content: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record by their TensorBoard tags."""
    for group in GROUPS:
        yield from ((f"{group}/{name}", value) for name, value in record.get(group, {}).items())
    for slot, kept in record.get("kept", {}).items():
        yield f"kept/{slot.replace('.', '/')}", kept
    yield from ((tag, record[name]) for name, tag in TAGS.items() if name in record)


def snapshot_name(sparsity: float) -> str:
    """Return the name of the snapshot of a sparsity: 0.3 -> hp30."""
    return f"hp{100 * sparsity:g}"


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint or snapshot; where that fails, the file that was there before is as it was."""
    import torch

    with atomic_write(path, "wb") as handle:
        torch.save(dict(state), handle)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it; one that is not whole is a DamagedError."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch itself never compares the checksums it writes
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(broken)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _damaged(path) from error
    return state


def open_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint whose tensors are read when they are used, or None where it is damaged."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises whatever it likes on a damaged file
        return None
    return state if isinstance(state, dict) else None


def read_objective(path: Path) -> dict[str, Any]:
    """Return the state of network and gates in a checkpoint, if it is fit to be exported."""
    import torch

    state = read_checkpoint(path)
    objective = state.get("objective") if isinstance(state, dict) else None
    if not isinstance(objective, dict):
        raise _damaged(path)
    for name, value in objective.items():
        if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
            raise InputError(f"{path}: {name} is not finite; has the training diverged? Lower training.lr")
    return objective


def average(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the floating-point tensors of some states; of everything else, the last state's."""
    import torch

    mean = dict(states[-1])
    for name, last in mean.items():
        if isinstance(last, torch.Tensor) and last.is_floating_point():
            mean[name] = torch.stack([state[name].double() for state in states]).mean(0).to(last.dtype)
    return mean


def _damaged(path: Path) -> DamagedError:
    return DamagedError(f"{path}: cannot be read as a checkpoint; remove it to fall back on the one before")


def decisive(config: Config) -> dict[str, Any]:
    """Return the part of a recipe that decides a training's weights and log, stage by stage where it has stages."""
    stages = {name: decisive(stage) for name, stage in expand_stages(config).items()}
    if stages:
        return stages
    return {**config.model_dump(mode="json", exclude=MAY_DIFFER), "trials": str(config.data.trials.get("dev"))}
