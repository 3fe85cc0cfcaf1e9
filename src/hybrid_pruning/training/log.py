"""The log of a run: one JSON line per record, and the same numbers for TensorBoard where that is installed."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_pruning.console import say
from hybrid_pruning.files import atomic_write, cannot_write
from hybrid_pruning.training.runs import Run
from hybrid_pruning.trees import finite

GROUPS = ("loss", "learning_rate", "gradient_norm", "sparsity", "removed", "multipliers", "dev")
"""Parts of a record that are numbers by name."""
TAGS = {"audio_seconds_per_second": "throughput", "padding": "padding"}
"""Numbers of their own, and their tags in TensorBoard."""


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
        try:
            self._board: Board | None = Board(run.tensorboard, step + 1 if lines else 0)
        except ImportError:
            self._board = None
            say(f"log: {self.path.name} alone; for TensorBoard beside it: pip install 'hybrid-pruning[tensorboard]'")
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
        self._event: Any = Event
        self._summary: Any = Summary
        self._histogram: Any = HistogramProto
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
    """Yield the numbers of a record under their TensorBoard tags."""
    for group in GROUPS:
        yield from ((f"{group}/{name}", value) for name, value in record.get(group, {}).items())
    for slot, kept in record.get("kept", {}).items():
        yield f"kept/{slot.replace('.', '/')}", kept
    yield from ((tag, record[name]) for name, tag in TAGS.items() if name in record)
