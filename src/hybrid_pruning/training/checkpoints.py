"""The checkpoints of a run: written whole or not at all, the last of each kind kept, averaged on request.

Two kinds: `epoch-0003.pt` after each epoch, and `step-00001500.pt` every so many steps. An export averages the epochs':
those that are kept are the averaging window. Apart from them, a snapshot per member of a family, `hp30.pt`: no training
goes on from it, so it leaves the optimisers out.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hybrid_pruning.console import say
from hybrid_pruning.errors import InputError
from hybrid_pruning.files import atomic_write, remove_leftovers

FOLDER, SNAPSHOTS = "checkpoints", "snapshots"
EPOCH, STEP = "epoch", "step"
DIGITS = {EPOCH: 4, STEP: 8}


class DamagedError(InputError):
    """A checkpoint that is there and can be read, but is not whole."""


def save_epoch(run: Path, epoch: int, state: Mapping[str, Any], keep: int) -> None:
    """Write the state after an epoch and remove all but the last `keep` epochs'.

    Raises:
        InputError: it cannot be written; what was there before is as it was.
    """
    _save(run, EPOCH, epoch, state, keep)


def save_step(run: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Write the state within an epoch and remove all but the last `keep` of these.

    Raises:
        InputError: it cannot be written; what was there before is as it was.
    """
    _save(run, STEP, step, state, keep)


def save_snapshot(run: Path, name: str, state: Mapping[str, Any]) -> None:
    """Write the state of a member of the run's family.

    Raises:
        InputError: it cannot be written; what was there before is as it was.
    """
    with atomic_write(run / SNAPSHOTS / f"{name}.pt", "wb") as handle:
        torch.save(dict(state), handle)


def read_snapshot(run: Path, name: str) -> dict[str, Any]:
    """Return what a member's snapshot holds of network and gates.

    Raises:
        InputError: there is none yet, or it is damaged.
    """
    path = run / SNAPSHOTS / f"{name}.pt"
    if not path.exists():
        raise InputError(f"{path}: is not there; the training leaves it when its target passes that sparsity")
    return _read_objective(path)


def find_latest(run: Path) -> Path | None:
    """Return the checkpoint a run has come furthest with, or None where it has none; damaged ones are set aside.

    Raises:
        InputError: all are damaged, or one cannot be read at all.
    """
    for folder in (FOLDER, SNAPSHOTS):
        remove_leftovers(run / folder)
    damaged: list[Path] = []
    found = [_newest_whole(list_checkpoints(run, kind), damaged) for kind in (EPOCH, STEP)]
    whole = sorted((state["step"], state["epoch"], path) for path, state in filter(None, found))
    if damaged and not whole:
        raise InputError(f"{run / FOLDER}: all checkpoints are damaged; remove them to start from the beginning")
    for path in damaged:
        path.rename(path.with_suffix(".damaged"))
        line = f"{path}: is damaged and set aside; going on from {whole[-1][-1].name}"
        say(line)
    return whole[-1][-1] if whole else None


def list_checkpoints(run: Path, kind: str = EPOCH) -> list[Path]:
    """Return a run's checkpoints of one kind, oldest first."""
    paths = (run / FOLDER).glob(f"{kind}-*.pt")
    return sorted(path for path in paths if re.fullmatch(rf"{kind}-\d+\.pt", path.name))


def trained_epochs(run: Path) -> int:
    """Return after how many epochs a run's last checkpoint was written; 0 where there is none."""
    checkpoints = list_checkpoints(run)
    return int(checkpoints[-1].stem.removeprefix(f"{EPOCH}-")) if checkpoints else 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        InputError: it cannot be read.
        DamagedError: it is not whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself never compares the checksums it writes
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(broken)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DamagedError(
            f"{path}: cannot be read as a checkpoint; remove it to fall back on the one before"
        ) from error
    return state


def _read_objective(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds of network and gates, if it is fit to be exported."""
    state = read_checkpoint(path)
    objective = state.get("objective") if isinstance(state, dict) else None
    if not isinstance(objective, dict):
        raise DamagedError(f"{path}: cannot be read as a checkpoint; remove it to fall back on the one before")
    for name, value in objective.items():
        if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
            raise InputError(f"{path}: {name} is not finite; has the training diverged? Lower training.lr")
    return objective


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
    states = [_read_objective(path) for path in paths[-count:]]
    return {name: _mean([state[name] for state in states]) for name in states[-1]}


def _save(run: Path, kind: str, number: int, state: Mapping[str, Any], keep: int) -> None:
    with atomic_write(run / FOLDER / f"{kind}-{number:0{DIGITS[kind]}d}.pt", "wb") as handle:
        torch.save(dict(state), handle)
    for old in list_checkpoints(run, kind)[:-keep]:
        old.unlink(missing_ok=True)


def _newest_whole(paths: list[Path], damaged: list[Path]) -> tuple[Path, dict[str, Any]] | None:
    """Return the last of the checkpoints that is whole, with its position, and note the damaged ones after it."""
    for path in reversed(paths):
        try:
            state = read_checkpoint(path)
        except DamagedError:
            damaged.append(path)
            continue
        return path, {name: state[name] for name in ("step", "epoch")}
    return None


def _mean(values: list[Any]) -> Any:
    last = values[-1]
    if not (isinstance(last, torch.Tensor) and last.is_floating_point()):
        return last
    return torch.stack([value.double() for value in values]).mean(0).to(last.dtype)
