"""The run's numbers in TensorBoard's own format, where the `tensorboard` extra is installed.

Written in step with the log and one event for all numbers of a record. The writer that torch brings has a thread of its
own, which opens the file anew for every number and prints a traceback where the disk is full.
"""

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Board:
    """Appends events to a new file in a folder of them; one that is read later wins over those before it.

    Args:
        folder: where TensorBoard is pointed at.
        purge_step: the first step whose earlier events no longer count.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event: Any = Event
        self._summary: Any = Summary
        self._histogram: Any = HistogramProto
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = path.open("ab")
        self._writer = RecordWriter(self._file)
        self._append(file_version="brain.Event:2")  # from this version on earlier events can be purged
        self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append numbers by tag."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append(step=step, summary=self._summary(value=values))

    def add_histogram(self, step: int, tag: str, counts: Sequence[int]) -> None:
        """Append how many values lie in bins of equal width from 0 to 1."""
        width = 1 / len(counts)
        middles = [(index + 0.5) * width for index in range(len(counts))]
        histogram = self._histogram(
            min=0.0,
            max=1.0,
            num=sum(counts),
            sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
            sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
            bucket_limit=[middle + width / 2 for middle in middles],
            bucket=counts,
        )
        self._append(step=step, summary=self._summary(value=[self._summary.Value(tag=tag, histo=histogram)]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, **content: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()
