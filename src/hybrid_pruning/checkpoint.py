"""The checkpoints of a run: written whole or not at all, the last few kept, averaged on request."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write

FOLDER = "checkpoints"


def save_checkpoint(run: Path, epoch: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write the state after an epoch and remove all but the last `keep` checkpoints."""
    path = run / FOLDER / f"epoch-{epoch:04d}.pt"
    with atomic_write(path, "wb") as handle:
        torch.save(dict(state), handle)
    for old in list_checkpoints(run)[:-keep]:
        old.unlink()
    return path


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
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


def _mean(values: list[Any]) -> Any:
    last = values[-1]
    if not (isinstance(last, torch.Tensor) and last.is_floating_point()):
        return last
    return torch.stack([value.double() for value in values]).mean(0).to(last.dtype)
