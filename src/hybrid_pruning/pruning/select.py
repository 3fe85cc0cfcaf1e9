"""Which units survive when the exact size has to meet a target.

Rounding each gate on its own leaves the size points away from the expected one, so layers and heads are decided by
their gates, and the finest units (neurons, channels) fill up to the target in the order of their log_alpha.
"""

from collections.abc import Mapping

import torch

from .budget import Accounting, Constraint
from .plan import Kept, PlanError

_Choice = tuple[float, dict[str, tuple[int, ...]]]
"""An exact sparsity and the kept units that have it."""

FINE = 10.0
"""Units that weigh up to this many times the lightest one are adjusted together."""


def meet_target(
    accounting: Accounting, rounded: Kept, scores: Mapping[str, torch.Tensor], target: float, constraint: Constraint
) -> dict[str, tuple[int, ...]]:
    """Return the kept units whose exact sparsity is closest to the target.

    Args:
        accounting: counts the model.
        rounded: the units each gate keeps on its own.
        scores: slot name -> [units] log_alpha; within and across the adjusted slots the highest survive.
        target: fraction removed, in [0, 1].
        constraint: of parameters or of MACs.

    Raises:
        PlanError: the target is out of reach even when every unit may be adjusted.
    """
    check_target(accounting, target, constraint)
    levels = _widening(accounting, constraint)

    def ranked(level: int, decided: Kept) -> _Ranking:
        return _Ranking(accounting, decided, scores, levels[level], constraint)

    def fill(level: int, decided: Kept) -> _Choice:
        """Adjust this level's units, then let the finer ones make up for its coarse steps."""
        choices = ranked(level, decided).around(target)
        if level:
            finer = [fill(level - 1, kept) for _, kept in choices if ranked(level - 1, kept).reaches(target)]
            choices = finer or choices
        return min(choices, key=lambda choice: abs(choice[0] - target))

    level = next(level for level in range(len(levels)) if ranked(level, rounded).reaches(target))
    return fill(level, rounded)[1]


def check_target(accounting: Accounting, target: float, constraint: Constraint) -> None:
    """Raise PlanError, naming the largest sparsity the slots allow, unless the target lies within reach."""
    maximum = accounting.maximum(constraint)
    if not 0 <= target <= maximum:
        units = ", ".join(dict.fromkeys(slot.unit for slot in accounting.plan.slots)) or "no units"
        raise PlanError(
            f"target_sparsity {target:g} of the {constraint} cannot be reached by pruning {units}: "
            f"the maximum is {maximum:.4f}; lower the target or prune more kinds of units"
        )


def _widening(accounting: Accounting, constraint: Constraint) -> list[set[int]]:
    """Return growing sets of slots: the lightest units first, then ten times heavier ones, at last all."""
    costs = [accounting.unit_cost(index, constraint) for index in range(len(accounting.plan.slots))]
    levels: list[set[int]] = []
    bound = 0.0
    for cost in sorted(costs):
        if cost > bound:
            bound = max(cost, 1) * FINE
            levels.append({index for index, other in enumerate(costs) if other <= bound})
    return levels or [set()]


class _Ranking:
    """The adjusted units in the order in which they are kept, on top of the slots that are already decided."""

    def __init__(
        self,
        accounting: Accounting,
        rounded: Kept,
        scores: Mapping[str, torch.Tensor],
        adjusted: set[int],
        constraint: Constraint,
    ) -> None:
        self.accounting, self.rounded, self.adjusted, self.constraint = accounting, rounded, adjusted, constraint
        ranked = []
        for index in sorted(adjusted):
            slot = accounting.plan.slots[index]
            score = scores[slot.name].double().clone()
            score[torch.argsort(score, descending=True, stable=True)[: slot.at_least]] = torch.inf
            ranked += [(-float(value), index, unit) for unit, value in enumerate(score)]
        self.order = sorted(ranked)
        self.slots = torch.tensor([index for _, index, _ in self.order], dtype=torch.int64)
        self.minimum = int(accounting.at_least[sorted(adjusted)].sum()) if adjusted else 0

    def sparsity(self, units: int) -> float:
        """Return the exact sparsity when the first `units` of the order survive; it falls as they grow."""
        slots = self.accounting.plan.slots
        counts = torch.bincount(self.slots[:units], minlength=len(slots))
        for index, slot in enumerate(slots):
            if index not in self.adjusted:
                counts[index] = len(self.rounded[slot.name])
        return float(self.accounting.exact(counts).removed(self.constraint))

    def reaches(self, target: float) -> bool:
        return self.sparsity(len(self.order)) <= target <= self.sparsity(self.minimum)

    def around(self, target: float) -> list[_Choice]:
        """Return the two neighbouring choices between which the target lies (one, at the end of the order)."""
        low, high = self.minimum, len(self.order)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.sparsity(middle) > target else (low, middle)
        return [(self.sparsity(units), self._kept(units)) for units in (low, low - 1) if units >= self.minimum]

    def _kept(self, units: int) -> dict[str, tuple[int, ...]]:
        kept = {slot.name: list(self.rounded[slot.name]) for slot in self.accounting.plan.slots}
        for index in self.adjusted:
            kept[self.accounting.plan.slots[index].name] = []
        for _, index, unit in self.order[:units]:
            kept[self.accounting.plan.slots[index].name].append(unit)
        return {name: tuple(sorted(found)) for name, found in kept.items()}
