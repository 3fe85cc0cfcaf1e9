"""The constraint on the size: the multipliers that enforce the target.

Source: Wang et al., "Structured Pruning of Large Language Models", EMNLP 2020, section 3.3, as used by the paper:
max over lambda, min over theta and alpha of L_task + lambda1 (s - t) + lambda2 (s - t)^2, with s the expected and t the
target sparsity, both the fraction removed.
"""

import torch
from torch import nn


class Lagrangian(nn.Module):
    """The two multipliers; their optimiser ascends (torch's `maximize=True`), everything else descends.

    Args:
        clamp: keep lambda1 at or above 0, as the public recipe does. The quadratic term alone then pushes the sparsity
            up, and lambda1 does not accumulate while fresh gates still move slowly; measured in dev/LOG.md.
    """

    def __init__(self, clamp: bool = True) -> None:
        super().__init__()
        self.clamp = clamp
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, sparsity: torch.Tensor, target: float) -> torch.Tensor:
        """Return lambda1 (s - t) + lambda2 (s - t)^2, a scalar with gradients to gates and multipliers."""
        excess = (sparsity - target).float()
        return self.lambda1 * excess + self.lambda2 * excess.square()

    @torch.no_grad()
    def project(self) -> None:
        """Project lambda1 to its range; call after each step of the multipliers' optimiser."""
        if self.clamp:
            self.lambda1.clamp_(min=0)
