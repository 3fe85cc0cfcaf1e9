"""One run, several models: the members of a family, when their snapshots are due, and what they are called."""

import math
from pathlib import Path

from hybrid_pruning.config import Config, PruningConfig
from hybrid_pruning.errors import InputError
from hybrid_pruning.pruning import Growth


def early_points(pruning: PruningConfig) -> tuple[float, ...]:
    """Return the sparsities of `export_at` below the target's, whose model is the run's own; none in dense training."""
    return tuple(point for point in pruning.export_at if pruning.use_pruning_loss and point < pruning.target_sparsity)


def members(pruning: PruningConfig) -> tuple[float, ...]:
    """Return the sparsities of all that a run can export, rising; the last is the target itself."""
    return (*early_points(pruning), pruning.target_sparsity)


def member_name(point: float) -> str:
    """Return what a member is called: 0.3 -> hp30."""
    return f"hp{100 * point:g}"


def find_member(config: Config, point: float, run: Path) -> float:
    """Return the member of a run that has a sparsity.

    Raises:
        InputError: there is none, naming those that there are.
    """
    there = members(config.pruning) if config.pruning.use_pruning_loss else ()
    for member in there:
        if math.isclose(member, point, rel_tol=0, abs_tol=1e-9):
            return member
    known = ", ".join(f"{member:g}" for member in there) or "none, it is dense"
    raise InputError(f"{run}: --at {point:g}: no such model in this run; it has {known} (pruning.export_at)")


def growth(pruning: PruningConfig, batches_per_epoch: float) -> Growth:
    """Return the target's way over the steps of a training."""
    return Growth(
        pruning.sparsity_schedule,
        pruning.min_sparsity,
        pruning.target_sparsity,
        pruning.sparsity_warmup_epochs * batches_per_epoch,
        early_points(pruning),
        round(pruning.export_hold_epochs * batches_per_epoch),
    )


def snapshots_due(way: Growth, total_steps: int) -> dict[int, list[float]]:
    """Return after how many steps which snapshots are due.

    Raises:
        InputError: the target does not pass one of them within the training.
    """
    due: dict[int, list[float]] = {}
    for point, step in zip(way.points, way.last_steps(), strict=True):
        if not 0 < step <= total_steps:
            raise InputError(
                f"pruning.export_at {point:g}: the target passes it after step {step} of {total_steps}; "
                + ("lengthen" if step < 1 else "shorten")
                + " pruning.sparsity_warmup_epochs or pruning.export_hold_epochs, or train longer"
            )
        due.setdefault(step, []).append(point)
    return due
