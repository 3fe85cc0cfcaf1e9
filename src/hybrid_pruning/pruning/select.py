"""Kept units whose exact size meets a target.

Rounding each gate on its own leaves the size points away from the expected one. So layers and heads are decided by
their gates, and the finest units (neurons, channels) fill up to the target in the order of their log_alpha. Only where
those cannot make up the difference do heads change, and layers last. Slots with a step are decided in blocks of so
many units, so that the target is met to within half of one block of the finest kind.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from hybrid_pruning.pruning.budget import Accounting, Constraint
from hybrid_pruning.pruning.plan import Kept, PlanError

FINE = 10.0
"""Units that weigh up to this many times the lightest one are ranked together."""
TOLERANCE = 1e-3
"""Distance from the target up to which a choice is taken without a search for another."""
FLOOR = 0.05
"""Of the units of a slot that nothing bypasses, such as a convolution's, which `rank_units` keeps where it can."""
TRIES = 8
"""Choices of a coarse tier that are followed up, the ones closest to its gates' own first."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Slots whose units weigh alike, decided together, block by block; a block is a slot's step of its units.

    Args:
        slots: indices of the slots in the plan.
        order: [blocks] the slot of each block, and
        blocks: [blocks] its units there, both in the order in which blocks are kept.
        sizes: [blocks] how many units each has.
        minimum: the number of them that are always kept.
    """

    slots: tuple[int, ...]
    order: torch.Tensor
    blocks: tuple[tuple[int, ...], ...]
    sizes: torch.Tensor
    minimum: int

    def counts(self, kept: int, slots: int) -> torch.Tensor:
        """Return the kept-unit counts [slots] of the first `kept` blocks of the order."""
        return torch.bincount(self.order[:kept], self.sizes[:kept], minlength=slots).long()


def meet_target(
    accounting: Accounting, rounded: Kept, scores: Mapping[str, torch.Tensor], target: float, constraint: Constraint
) -> dict[str, tuple[int, ...]]:
    """Return kept units whose exact sparsity is as close to the target, in [0, 1], as was found.

    `rounded` are the units each gate keeps on its own, scores slot name -> [units] log_alpha, of which within and
    across the slots of a tier the highest are kept. A target out of reach of all units is a PlanError.
    """
    check_target(accounting, target, constraint)
    search = _Search(accounting, rounded, scores, target, constraint)
    return search.kept(search.best(len(search.tiers) - 1, ())[1])


def rank_units(
    accounting: Accounting, importance: Mapping[str, torch.Tensor], target: float, constraint: Constraint
) -> dict[str, torch.Tensor]:
    """Return which units [units] of each slot are kept: those of highest log-importance per parameter (or MAC).

    All slots stand in one order, so that each layer ends as wide as it is needed. A heavy unit that lies across the cut
    is kept, and the least of the finest kind go in its place, or it goes, and the next of the finest kind come in:
    whichever keeps more importance. The size is exact to one of the finest.

    Importances add up only where others take over: of a slot that nothing bypasses `FLOOR` is kept wherever the target
    allows, for a convolution with one channel left cuts the network in two, however little each of its channels is
    worth (layer collapse: Tanaka et al., NeurIPS 2020). Given are slot name -> [units] logarithms of importances; a
    target out of reach is a PlanError.
    """
    check_target(accounting, target, constraint)
    slots, costs = accounting.plan.slots, accounting.unit_costs(constraint)
    always = torch.tensor([-(-math.ceil(FLOOR * slot.size) // slot.step) * slot.step for slot in slots])
    always = torch.where(accounting.at_least > 0, always.maximum(accounting.at_least), 0).minimum(accounting.sizes)
    if accounting.exact(always).removed(constraint) < target:
        always = accounting.at_least
    orders, values, sizes = [], [], []
    for index, slot in enumerate(slots):
        score = importance[slot.name].detach().double().cpu() - math.log(max(costs[index], 1.0))
        score, order = torch.sort(score, descending=True, stable=True)
        score[: int(always[index])] = torch.inf
        blocks = score.split(slot.step) if slot.step > 1 else ()
        orders.append(order)
        values.append(torch.stack([block.mean() for block in blocks]).cummin(0).values if blocks else score)
        sizes.append(torch.tensor([len(block) for block in blocks]) if blocks else torch.ones_like(order))
    owner = torch.repeat_interleave(torch.tensor([len(its) for its in values]))
    value, rank = torch.sort(torch.cat(values), descending=True, stable=True)
    owner, size = owner[rank], torch.cat(sizes)[rank]

    def counts(chosen: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(slots), dtype=torch.int64).index_add_(0, owner[chosen], size[chosen])

    def removed(kept: torch.Tensor) -> float:
        return float(accounting.exact(kept).removed(constraint))

    places, finest = torch.arange(len(rank)), torch.tensor([cost <= max(min(costs), 1.0) * FINE for cost in costs])
    enough = bisect_left(range(len(rank)), True, key=lambda kept: removed(counts(places[:kept])) <= target)
    kept = counts(places[:enough])  # and of the finest among these the least go again, as far as the size allows
    before = places[:enough][((value < torch.inf) & finest[owner])[:enough]].flip(0)
    more = bisect_left(range(len(before)), True, key=lambda gone: removed(kept - counts(before[: gone + 1])) > target)
    kept -= counts(before[:more])
    if enough and value[enough - 1] < torch.inf and not finest[owner[enough - 1]]:  # or without the heavy one
        other, after = counts(places[: enough - 1]), places[enough:][finest[owner[enough:]]]
        need = bisect_left(range(len(after)), True, key=lambda come: removed(other + counts(after[:come])) <= target)
        other += counts(after[:need])
        weights = (value - value[enough - 1]).clamp(max=100).exp() * size * torch.tensor(costs)[owner]
        loses = weights[enough - 1] < weights[before[:more]].sum() + weights[after[:need]].sum()
        miss, others = (abs(removed(its) - target) for its in (kept, other))
        if (others <= TOLERANCE and loses) or miss > max(others, TOLERANCE):
            kept = other
    return {
        slot.name: torch.zeros(slot.size, dtype=torch.bool).index_fill_(0, order[: int(count)], True)
        for slot, order, count in zip(slots, orders, kept, strict=True)
    }


def check_target(accounting: Accounting, target: float, constraint: Constraint) -> None:
    """Raise PlanError, naming the largest sparsity the slots allow, unless the target lies within reach."""
    maximum = accounting.maximum(constraint)
    if not 0 <= target <= maximum:
        units = ", ".join(dict.fromkeys(slot.unit for slot in accounting.plan.slots)) or "no units"
        wide = any(slot.step > 1 for slot in accounting.plan.slots)
        raise PlanError(
            f"target_sparsity {target:g} of the {constraint} cannot be reached by pruning {units}: "
            f"the maximum is {maximum:.4f}; lower the target or prune more kinds of units"
            + (", or align widths to a smaller multiple" if wide else "")
        )


class _Search:
    """Decides tier after tier, the heaviest units first; a decision is a number of kept blocks, or None: rounded."""

    def __init__(
        self,
        accounting: Accounting,
        rounded: Kept,
        scores: Mapping[str, torch.Tensor],
        target: float,
        constraint: Constraint,
    ) -> None:
        self.accounting, self.rounded, self.target, self.constraint = accounting, rounded, target, constraint
        self.slots = accounting.plan.slots
        self.tiers = [_tier(accounting, scores, slots) for slots in _by_weight(accounting, constraint)]
        self.own = torch.tensor([len(rounded[slot.name]) for slot in self.slots])

    def best(self, level: int, decided: tuple[int | None, ...]) -> tuple[float, tuple[int | None, ...]]:
        """Return (distance from the target, decisions) over the tiers from the heaviest down to the finest."""
        found = []
        for choice in self._choices(level, decided):
            here = (*decided, choice)
            found.append(self.best(level - 1, here) if level else (abs(self._sparsity(here) - self.target), here))
            if level and found[-1][0] <= TOLERANCE:
                break
        return min(found, key=lambda result: result[0])

    def kept(self, decisions: tuple[int | None, ...]) -> dict[str, tuple[int, ...]]:
        """Return the units of every slot."""
        kept = {slot.name: list(self.rounded[slot.name]) for slot in self.slots}
        for tier, choice in zip(reversed(self.tiers), decisions, strict=True):
            if choice is None:
                continue
            for index in tier.slots:
                kept[self.slots[index].name] = []
            for index, block in zip(tier.order[:choice].tolist(), tier.blocks[:choice], strict=True):
                kept[self.slots[index].name] += block
        return {name: tuple(sorted(units)) for name, units in kept.items()}

    def _choices(self, level: int, decided: tuple[int | None, ...]) -> Iterator[int | None]:
        """Yield numbers of blocks with which the finer tiers can still meet the target, the preferred first."""
        tier = self.tiers[level]
        low = self._first(tier, lambda kept: self._sparsity((*decided, kept), finer_open=True) <= self.target)
        high = self._first(tier, lambda kept: self._sparsity((*decided, kept), finer_open=False) < self.target) - 1
        if level == 0 or low > high:  # nothing meets it exactly: the two neighbours of the target
            yield from (kept for kept in (low, low - 1) if tier.minimum <= kept <= len(tier.blocks))
            return
        own = sum(-(-int(self.own[index]) // self.slots[index].step) for index in tier.slots)
        wide, narrow = (self._sparsity((*decided, None), finer_open=is_open) for is_open in (False, True))
        if narrow <= self.target <= wide:
            yield None
        yield from sorted(range(low, high + 1), key=lambda kept: abs(kept - own))[:TRIES]

    def _first(self, tier: Tier, holds: Callable[[int], bool]) -> int:
        """The smallest number of kept blocks for which a condition, false at first, holds; one more than all: none."""
        low, high = tier.minimum, len(tier.blocks) + 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if middle > len(tier.blocks) or holds(middle) else (middle + 1, high)
        return low

    def _sparsity(self, decided: tuple[int | None, ...], finer_open: bool = True) -> float:
        """The exact sparsity of these decisions, with all finer tiers fully open or closed as far as they may be."""
        counts = self.own.clone()
        for place, tier in enumerate(reversed(self.tiers)):
            if place >= len(decided):
                choice: int | None = len(tier.blocks) if finer_open else tier.minimum
            else:
                choice = decided[place]
            if choice is not None:
                chosen = list(tier.slots)
                counts[chosen] = tier.counts(choice, len(self.slots))[chosen]
        return float(self.accounting.exact(counts).removed(self.constraint))


def _by_weight(accounting: Accounting, constraint: Constraint) -> list[list[int]]:
    """Return the slots in tiers of similar weight per unit, the lightest first."""
    costs = sorted((cost, index) for index, cost in enumerate(accounting.unit_costs(constraint)))
    tiers: list[list[int]] = []
    bound = -1.0
    for cost, index in costs:
        if cost > bound:
            bound = max(cost, 1.0) * FINE
            tiers.append([])
        tiers[-1].append(index)
    return tiers


def _tier(accounting: Accounting, scores: Mapping[str, torch.Tensor], slots: Sequence[int]) -> Tier:
    """Rank the blocks of some slots by their mean scores; those that must be kept come first."""
    ranked = []
    for index in slots:
        slot = accounting.plan.slots[index]
        score = scores[slot.name].double()
        order = torch.argsort(score, descending=True, stable=True)
        score = score.index_fill(0, order[: slot.at_least], torch.inf)
        blocks = order.split(slot.step)
        # cummin: rounding must not let a later block of the slot, the short last one above all, pass an earlier
        means = torch.stack([score[block].mean() for block in blocks]).cummin(0).values
        ranked += [(-mean, index, place, blocks[place]) for place, mean in enumerate(means.tolist())]
    ranked.sort(key=lambda block: block[:3])
    minimum = sum(-(-accounting.plan.slots[index].at_least // accounting.plan.slots[index].step) for index in slots)
    order = torch.tensor([index for _, index, _, _ in ranked], dtype=torch.int64)
    units = tuple(tuple(block.tolist()) for *_, block in ranked)
    return Tier(tuple(slots), order, units, torch.tensor([len(block) for block in units]), minimum)
