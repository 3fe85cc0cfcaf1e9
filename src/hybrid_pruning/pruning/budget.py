"""The size of the model: expected parameters and MACs with gradients, exact ones for given kept units.

Sparsity is the fraction REMOVED of the dense model's parameters (or MACs), gates and head not counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from hybrid_pruning.pruning.plan import Kept, Plan, PlanError, parameter

if TYPE_CHECKING:
    from hybrid_pruning.pruning.gate import Gates

Constraint = Literal["params", "macs"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The size of a model beside its dense original; tensors with gradients where expected, integers where exact.

    Multiply-accumulates are those of one utterance of the length the plan was made for.
    """

    params: torch.Tensor | int
    macs: torch.Tensor | int
    dense_params: int
    dense_macs: int

    @property
    def sparsity(self) -> torch.Tensor | float:
        """The fraction of parameters removed."""
        return self.removed("params")

    @property
    def macs_sparsity(self) -> torch.Tensor | float:
        """The fraction of multiply-accumulates removed; 1 where the plan declares none."""
        return self.removed("macs")

    def removed(self, constraint: Constraint) -> torch.Tensor | float:
        """Return the fraction removed of what the constraint counts."""
        if constraint == "params":
            return 1 - self.params / self.dense_params
        return 1 - self.macs / max(self.dense_macs, 1)


class Ledger:
    """A sum of products of kept-unit counts, compiled once so that counting costs a handful of tensor operations.

    Every tensor contributes (what it holds per unit) x (kept units of each slot that cuts it); a tensor cut as a
    whole counts while any unit of that slot is kept. The same entries serve integers (exact) and expectations.
    """

    def __init__(self, entries: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        merged: dict[tuple[int, ...], int] = {}
        for amount, factors in entries:
            merged[factors] = merged.get(factors, 0) + amount
        depth = max((len(factors) for factors in merged), default=0)
        self.amounts = torch.tensor(list(merged.values()), dtype=torch.int64)
        self.factors = torch.tensor([(*key, *[0] * (depth - len(key))) for key in merged], dtype=torch.int64)

    def total(self, quantities: torch.Tensor) -> torch.Tensor:
        """Return the sum; `quantities` is [1 + 2 S]: a one, S unit counts, S values of 'any unit is kept'."""
        device = quantities.device
        if self.amounts.device != device:
            self.amounts, self.factors = self.amounts.to(device), self.factors.to(device)
        columns = quantities[self.factors].unbind(-1)
        return reduce(torch.mul, columns, self.amounts.to(quantities.dtype)).sum()


class Accounting:
    """Counts a dense model, masked or not, under its plan; PlanError where a tensor is no multiple of its slots."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        plan.check(model)
        self.plan = plan
        self.at_least = torch.tensor([slot.at_least for slot in plan.slots])
        self.sizes = torch.tensor([slot.size for slot in plan.slots])
        self.ledgers = {"params": Ledger(list(_params(model, plan))), "macs": Ledger(list(_macs(model, plan)))}
        self.dense_params = self._exact("params", self.sizes)
        self.dense_macs = self._exact("macs", self.sizes)
        self._costs: dict[Constraint, list[float]] = {}

    def exact(self, counts: torch.Tensor) -> Budget:
        """Return the size for kept-unit counts [S], in plan order."""
        return self._budget(self._exact("params", counts), self._exact("macs", counts))

    def exact_kept(self, kept: Kept) -> Budget:
        """Return the size for given kept units; PlanError where they do not fit the plan."""
        self.plan.check_kept(kept)
        return self.exact(torch.tensor([len(kept[slot.name]) for slot in self.plan.slots]))

    def expected(self, probabilities: torch.Tensor, slot_of: torch.Tensor) -> Budget:
        """Return the expected size, products of expectations (paper, section 2), with gradients.

        Given are [N] each unit's probability to be open, and [N] the plan's slot it belongs to.
        """
        p = probabilities.double()
        zeros = p.new_zeros(len(self.plan.slots))
        counts = zeros.index_add(0, slot_of, p)
        # 1 - prod(1 - p); the bound keeps the logarithm and its gradient finite where a gate is certainly open.
        closed = zeros.index_add(0, slot_of, torch.log1p(-p.clamp(max=1 - 1e-6)))
        quantities = torch.cat([p.new_ones(1), counts, 1 - closed.exp()])
        return self._budget(self.ledgers["params"].total(quantities), self.ledgers["macs"].total(quantities))

    def maximum(self, constraint: Constraint) -> float:
        """Return the largest sparsity that closing everything would reach."""
        return float(self.exact(self.at_least).removed(constraint))

    def unit_costs(self, constraint: Constraint) -> list[float]:
        """Return the parameters or MACs of one unit of each slot in the dense model."""
        if constraint not in self._costs:
            left = [self._exact(constraint, self.sizes * (1 - row)) for row in torch.eye(len(self.sizes)).long()]
            dense, sizes = self._exact(constraint, self.sizes), self.sizes.tolist()
            self._costs[constraint] = [(dense - less) / size for less, size in zip(left, sizes, strict=True)]
        return self._costs[constraint]

    def _exact(self, constraint: Constraint, counts: torch.Tensor) -> int:
        counts = counts.to("cpu", torch.int64)
        one = torch.ones(1, dtype=torch.int64)
        return int(self.ledgers[constraint].total(torch.cat([one, counts, (counts > 0).long()])))

    def _budget(self, params: torch.Tensor | int, macs: torch.Tensor | int) -> Budget:
        return Budget(params, macs, self.dense_params, self.dense_macs)


def budget(model: nn.Module, gates: "Gates", kept: Kept | None = None) -> Budget:
    """Return the size of a gated model: expected, with gradients to the gates, or exact for given kept units.

    Gates of another model, or units that do not fit it, are a PlanError.
    """
    if (found := sum(p.numel() for p in model.parameters())) != gates.accounting.dense_params:
        raise PlanError(
            f"the model has {found} parameters, the gates were attached to one with {gates.accounting.dense_params}; "
            "pass the gated model that attach() was given"
        )
    return gates.budget() if kept is None else gates.accounting.exact_kept(kept)


def _params(model: nn.Module, plan: Plan) -> Iterator[tuple[int, tuple[int, ...]]]:
    cuts = _factors(plan)
    cut_amount = 0
    for tensor in cuts:
        numel = parameter(model, tensor).numel()
        cut_amount += numel
        yield _entry(tensor, numel, cuts[tensor])
    yield sum(p.numel() for p in model.parameters()) - cut_amount, ()


def _macs(model: nn.Module, plan: Plan) -> Iterator[tuple[int, tuple[int, ...]]]:
    cuts = _factors(plan)
    for tensor, positions in plan.positions.items():
        macs = parameter(model, tensor).numel() * positions
        yield _entry(tensor, macs, cuts.get(tensor, []))
    order = {slot.name: index for index, slot in enumerate(plan.slots)}
    for work in plan.work:
        found = [(1 + order[name], plan.slots[order[name]].size) for name in work.slots if name in order]
        yield _entry("attention", work.macs, found)


def _factors(plan: Plan) -> dict[str, list[tuple[int, int]]]:
    """Tensor -> [(index into the ledger's quantities, units the amount divides by)]."""
    order = {slot.name: index for index, slot in enumerate(plan.slots)}
    found: dict[str, list[tuple[int, int]]] = {}
    for tensor, cuts in plan.cuts_by_tensor().items():
        for slot, cut in cuts:
            whole = cut.dim is None and slot.size > 1
            index = 1 + order[slot.name] + (len(plan.slots) if whole else 0)
            found.setdefault(tensor, []).append((index, 1 if cut.dim is None else slot.size))
    return found


def _entry(tensor: str, amount: int, factors: list[tuple[int, int]]) -> tuple[int, tuple[int, ...]]:
    """Return an entry of the ledger: the amount of a unit, and the indices of its quantities."""
    units = prod(size for _, size in factors)
    if amount % units:
        raise PlanError(f"{tensor}: {amount} is no multiple of the {units} units that share it")
    return amount // units, tuple(sorted(index for index, _ in factors))
