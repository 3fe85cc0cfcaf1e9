"""The log of a run: one JSON line per record, and the same numbers for TensorBoard where that is installed."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid_pruning.console import say
from hybrid_pruning.files import atomic_write, cannot_write
from hybrid_pruning.plain import finite
from hybrid_pruning.training.board import Board

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
GROUPS = ("loss", "learning_rate", "gradient_norm", "sparsity", "removed", "multipliers", "dev")
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
                handle.write(json.dumps(finite({"step": step, **record}), allow_nan=False) + "\n")
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, size)
            raise cannot_write(self.path, error) from error
        self.lines += 1
        self._show(step, record)

    def close(self) -> None:
        """Let go of the files."""
        if self._board is not None:
            self._board.close()

    def _show(self, step: int, record: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        try:
            self._board.add_scalars(step, dict(_numbers(record)))
            for unit, counts in record.get("gates", {}).items():
                self._board.add_histogram(step, f"gates/{unit}", counts)
        except OSError as error:
            raise cannot_write(self.path.parent / TENSORBOARD, error) from error

    def _forget(self) -> None:
        """Drop what a killed run logged beyond its checkpoint, the line it was cut in included."""
        try:
            kept = self.path.read_bytes().split(b"\n")[:-1][: self.lines]
        except FileNotFoundError:
            kept = []
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.lines = len(kept)
        with atomic_write(self.path, "wb") as handle:
            handle.writelines(line + b"\n" for line in kept)


def _open_board(folder: Path, purge_step: int) -> Board | None:
    try:
        return Board(folder, purge_step)
    except ImportError:
        line = f"log: {LOG} alone; for TensorBoard beside it: pip install 'hybrid-pruning[tensorboard]'"
        say(line)
        return None
    except OSError as error:
        raise cannot_write(folder, error) from error


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record under their TensorBoard tags."""
    for group in GROUPS:
        yield from ((f"{group}/{name}", value) for name, value in record.get(group, {}).items())
    for slot, kept in record.get("kept", {}).items():
        yield f"kept/{slot.replace('.', '/')}", kept
    yield from ((tag, record[name]) for name, tag in TAGS.items() if name in record)
