"""The importance of units: the order that one cut, or a choice at every step, keeps them in; all as logarithms.

Sources: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8 (Taylor); Li et
al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (magnitude).
"""

import math
from typing import Any

import torch
from torch import nn

from hybrid_pruning.pruning.gate import Gates
from hybrid_pruning.pruning.plan import Plan, Role, parameter

TINY = 1e-30
DECAY = 0.99


class ImportanceOptimizer(torch.optim.Optimizer):
    """Sets log_alpha to the log of a running mean of its squared gradient, the loss's change without the unit squared.

    With factors of 1 on open units the gradient of the factor is that of the Taylor expansion (equation 8).
    """

    def __init__(self, params: Any, decay: float = DECAY) -> None:
        super().__init__(params, {"decay": decay, "lr": 1 - decay, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, _: Any = None) -> None:  # type: ignore[override]
        """Take up the gradients of one step."""
        for group in self.param_groups:
            for gate in group["params"]:
                if gate.grad is None:
                    continue
                state = self.state[gate]
                if not state:
                    state["mean"], state["steps"] = torch.zeros_like(gate), 0
                state["steps"] += 1
                state["mean"].lerp_(gate.grad.square(), 1 - group["decay"])
                gate.copy_((state["mean"] / (1 - group["decay"] ** state["steps"]) + TINY).log())


@torch.no_grad()
def magnitude(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    """Return the log of the mean square of each unit's weights, slot name -> [units]."""
    sums = {slot.name: torch.zeros(slot.size) for slot in plan.slots}
    weights = dict.fromkeys(sums, 0)
    for name, cuts in plan.cuts_by_tensor().items():
        square = parameter(model, name).detach().float().cpu().square()
        for slot, cut in cuts:
            if cut.dim is not None and cut.role is not Role.HARD:
                each = square.movedim(cut.dim, 0).reshape(slot.size, -1)
                sums[slot.name] += each.sum(1)
                weights[slot.name] += each.shape[1]
    return {name: (total / max(weights[name], 1) + TINY).log() for name, total in sums.items()}


def chance(plan: Plan, seed: int) -> dict[str, torch.Tensor]:
    """Return a random order of all units."""
    generator = torch.Generator().manual_seed(seed)
    return {slot.name: torch.randn(slot.size, generator=generator) for slot in plan.slots}


def set_importance(gates: Gates, importance: dict[str, torch.Tensor]) -> None:
    """Make the gates keep units by given log-importances."""
    for name, gate in gates.items():
        gate.log_alpha.data.copy_(importance[name].clamp(math.log(TINY)))
