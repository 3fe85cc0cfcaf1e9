"""The kept units of a backbone, slot by slot and in all, beside its dense original."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from hybrid_pruning.models.backbone import Backbone
    from hybrid_pruning.pruning import Budget

SECONDS = 4.0
"""Length of the utterance that MACs are counted for."""


@dataclass(frozen=True, slots=True)
class KeptUnits:
    """The kept units and all units of every slot the family has, and exact parameters and MACs."""

    kept: Mapping[str, int]
    sizes: Mapping[str, int]
    budget: "Budget"


def count_kept(backbone: "Backbone", seconds: float = SECONDS) -> KeptUnits:
    """Count a backbone, dense or cut, beside the dense skeleton of its config."""
    from hybrid_pruning.pruning import shape_of

    shape = shape_of(backbone)
    kept = {} if shape is None else {name: len(units) for name, units in shape.kept.items()}
    size = count_units(backbone.config.to_diff_dict(), backbone.normalize, kept, seconds)
    if size.budget.params != (found := count_parameters(backbone)):
        raise RuntimeError(f"{size.budget.params} parameters counted from the kept units, the backbone holds {found}")
    return size


def count_units(
    config: Mapping[str, Any], normalize: bool, kept: Mapping[str, int], seconds: float = SECONDS
) -> KeptUnits:
    """Count a dense backbone, given as plain values, cut to `kept` units of the named slots and all of the others."""
    import torch

    from hybrid_pruning.models.backbone import skeleton
    from hybrid_pruning.pruning import Accounting, PlanError, plan_for

    with torch.device("meta"):  # sizes without weights
        dense = skeleton(dict(config), normalize)
    plan = plan_for(dense, seconds)
    sizes = {slot.name: slot.size for slot in plan.slots}
    if unknown := sorted(set(kept) - set(sizes)):
        raise PlanError(f"slot '{unknown[0]}' is unknown; this backbone has: {', '.join(sizes)}")
    counts = {name: kept.get(name, size) for name, size in sizes.items()}
    return KeptUnits(counts, sizes, Accounting(dense, plan).exact(torch.tensor(list(counts.values()))))


def count_parameters(*modules: "nn.Module") -> int:
    """Return the number of parameters of modules together."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
