"""The importance of units, as logarithms: the order in which binary gates keep them.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8 (Taylor expansion).
"""

from typing import Any

import torch

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
