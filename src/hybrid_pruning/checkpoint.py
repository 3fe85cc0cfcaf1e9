"""The checkpoints of a run: written whole or not at all, the last epochs' kept, averaged on request."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write

FOLDER = "checkpoints"
WITHIN = "within-epoch.pt"
"""The one checkpoint from the middle of an epoch, replaced by the next and removed by the epoch's own."""


def save_epoch(run: Path, epoch: int, state: Mapping[str, Any], keep: int) -> None:
    """Write the state after an epoch and remove all but the last `keep` epochs'."""
    _save(run / FOLDER / f"epoch-{epoch:04d}.pt", state)
    for old in (*list_checkpoints(run)[:-keep], run / FOLDER / WITHIN):
        old.unlink(missing_ok=True)


def save_within_epoch(run: Path, state: Mapping[str, Any]) -> None:
    """Write the state in the middle of an epoch."""
    _save(run / FOLDER / WITHIN, state)


def latest_state(run: Path) -> dict[str, Any] | None:
    """Return the state a run has come furthest with, or None where it has no checkpoint.

    Raises:
        InputError: a checkpoint is damaged.
    """
    paths = [path for path in (*list_checkpoints(run)[-1:], run / FOLDER / WITHIN) if path.exists()]
    return max(map(read_checkpoint, paths), key=lambda state: int(state["step"]), default=None)


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run's epochs, oldest first."""
    return sorted(path for path in (run / FOLDER).glob("*.pt") if re.fullmatch(r"epoch-\d+\.pt", path.name))


def trained_epochs(run: Path) -> int:
    """Return after how many epochs a run's last checkpoint was written; 0 where there is none."""
    checkpoints = list_checkpoints(run)
    return int(checkpoints[-1].stem.removeprefix("epoch-")) if checkpoints else 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint; remove it to fall back on the one before") from error
    return state


def average_objectives(run: Path, count: int) -> dict[str, Any]:
    """Return the mean of the last `count` checkpoints' learnt tensors; what is no float is the last one's.

    Raises:
        InputError: the run has fewer checkpoints than that.
    """
    paths = list_checkpoints(run)
    if not 1 <= count <= len(paths):
        raise InputError(
            f"{run}: {len(paths)} checkpoints are there, cannot average {count}; "
            "finish the training, or raise training.keep_checkpoints"
        )
    states = [read_checkpoint(path)["objective"] for path in paths[-count:]]
    return {name: _mean([state[name] for state in states]) for name in states[-1]}


def _save(path: Path, state: Mapping[str, Any]) -> None:
    with atomic_write(path, "wb") as handle:
        torch.save(dict(state), handle)


def _mean(values: list[Any]) -> Any:
    last = values[-1]
    if not (isinstance(last, torch.Tensor) and last.is_floating_point()):
        return last
    return torch.stack([value.double() for value in values]).mean(0).to(last.dtype)
