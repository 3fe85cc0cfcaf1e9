"""The log of a run: one JSON line per record, and the same numbers for TensorBoard where that is installed."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_pruning.files import atomic_write, cannot_write
from hybrid_pruning.terminal import console

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
GROUPS = ("loss", "learning_rate", "gradient_norm", "sparsity", "multipliers", "dev")
"""Parts of a record that are numbers by name."""
TAGS = {"audio_seconds_per_second": "throughput", "padding": "padding"}
"""Numbers of their own, and what TensorBoard calls them."""


class RunLog:
    """Appends records to a run's log; the main process has one, nobody else writes.

    Args:
        run: the run's folder.
        lines: how many records of an earlier log are true; what was logged beyond the checkpoint is forgotten.
        step: the last step that they tell of.

    Raises:
        InputError: the log cannot be written.
    """

    def __init__(self, run: Path, lines: int = 0, step: int = 0) -> None:
        self.path, self.lines = run / LOG, lines
        self._forget()
        self._board = _open_board(run / TENSORBOARD, step + 1 if lines else 0)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record of plain values, whole or not at all; `step` becomes its first entry.

        Raises:
            InputError: the disk is full, or the log was taken away.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": step, **record}) + "\n")
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, size)
            raise cannot_write(self.path, error) from error
        self.lines += 1
        self._show(lambda board: [board.add_scalar(tag, value, step) for tag, value in _numbers(record)])

    def show_gates(self, step: int, opened: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Draw, in TensorBoard alone, the histogram of how likely the units of each kind are open."""
        self._show(lambda board: [board.add_histogram(f"gates/{unit}", p, step) for unit, p in opened.items()])

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        self._show(lambda board: board.close())

    def _show(self, draw: Callable[[Any], object]) -> None:
        if self._board is None:
            return
        try:
            draw(self._board)
        except OSError as error:
            raise cannot_write(self.path.parent / TENSORBOARD, error) from error

    def _forget(self) -> None:
        """Drop what a killed run logged beyond its checkpoint, the line it was cut in included."""
        kept = self.path.read_text(encoding="utf-8").splitlines(True)[: self.lines] if self.path.exists() else []
        self.lines = len(kept)
        with atomic_write(self.path) as handle:
            handle.writelines(kept)


def _open_board(folder: Path, purge_step: int) -> Any:
    """Return TensorBoard's writer, which hides what it has from `purge_step` on; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its own imports complain of is nothing the user can mend
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print(f"log: {LOG} alone; for TensorBoard beside it: pip install 'hybrid-pruning[tensorboard]'")
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record under their TensorBoard tags."""
    for group in GROUPS:
        yield from ((f"{group}/{name}", value) for name, value in record.get(group, {}).items())
    for slot, kept in record.get("kept", {}).items():
        yield f"kept/{slot.replace('.', '/')}", kept
    yield from ((tag, record[name]) for name, tag in TAGS.items() if name in record)
