"""The sparsities of a sweep, and the recipe at each of them."""

import math
from typing import Any

from hybrid_pruning.config import Config, check_config, expand_stages
from hybrid_pruning.errors import InputError
from hybrid_pruning.training.snapshots import member_name

DENSE = "dense"


def parse_sparsities(text: str) -> tuple[float, ...]:
    """Return the values of `--sparsity`, rising.

    Args:
        text: fractions removed, from 0 to below 1, with commas between them.

    Raises:
        InputError: one is no such number, or stands twice.
    """
    values = [_parse(word.strip()) for word in text.split(",")]
    names = [name_job(value) for value in values]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--sparsity {text}: {twice} stands twice; give each value once")
    return tuple(sorted(values))


def name_job(value: float) -> str:
    """Return what the job at a sparsity is called: 0 -> dense, 0.5 -> hp50."""
    return DENSE if value == 0 else member_name(value)


def set_sparsity(config: Config, value: float) -> Config:
    """Return a recipe at another sparsity.

    In a recipe with stages it is that of the stages that prune; the others are left as they are.

    Args:
        config: the recipe.
        value: fraction removed; 0 trains without pruning.

    Raises:
        InputError: no stage prunes, the recipe has a family of its own, or its other values do not go with this one.
    """
    tree = config.model_dump(mode="json")
    stages = expand_stages(config)
    pruned = {name: stage for name, stage in stages.items() if stage.pruning.use_pruning_loss}
    if stages and not pruned:
        raise InputError(f"sweep: none of the stages {', '.join(stages)} prunes: turn pruning.use_pruning_loss on")
    for stage in pruned.values() if stages else [config]:
        if stage.pruning.export_at:
            raise InputError(
                "sweep: the recipe has pruning.export_at, several sizes from one training: use `run`, or "
                "--set pruning.export_at=[] --set pruning.export_hold_epochs=0"
            )
    changes: dict[str, Any] = {"use_pruning_loss": value > 0}
    if value > 0:
        changes["target_sparsity"] = value
    for part in [tree["stages"][name] for name in pruned] if stages else [tree]:
        part["pruning"] = {**part.get("pruning", {}), **changes}
    return check_config(tree, f"the recipe at sparsity {value:g}")


def _parse(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise InputError(
            f"--sparsity: '{word}', expected fractions removed, from 0 (dense) to below 1, such as 0,0.5,0.7"
        )
    return value
