"""The constraint on the size: a target that grows over time, and the multipliers that enforce it.

Source: Wang et al., "Structured Pruning of Large Language Models", EMNLP 2020, section 3.3, as used by the paper:
max over lambda, min over theta and alpha of L_task + lambda1 (s - t) + lambda2 (s - t)^2, with s the expected and t the
target sparsity, both the fraction removed.
"""

import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["linear", "cosine", "exponential", "sigmoid"]

STEEPNESS = {"exponential": 5.0, "sigmoid": 10.0}


def scheduled_target(schedule: Schedule, progress: float, start: float, end: float) -> float:
    """Return the target sparsity at a point of the warm-up: monotone, exactly `start` at 0 and `end` from 1 on.

    Args:
        schedule: the shape; linear, cosine, exponential (slow, then fast) or sigmoid (slow at both ends).
        progress: the share of the warm-up that has passed.
        start: the sparsity before the warm-up, in [0, 1].
        end: the sparsity after it, in [0, 1].
    """
    if progress <= 0:
        return start
    if progress >= 1:
        return end
    return start + (end - start) * _shape(schedule, progress)


def _shape(schedule: Schedule, progress: float) -> float:
    if schedule == "cosine":
        return (1 - math.cos(math.pi * progress)) / 2
    if schedule == "exponential":
        return math.expm1(STEEPNESS["exponential"] * progress) / math.expm1(STEEPNESS["exponential"])
    if schedule == "sigmoid":
        # tanh is the logistic function rescaled to pass through 0 and 1 without the jumps of a truncated one
        half = STEEPNESS["sigmoid"] / 4
        return (1 + math.tanh(half * (2 * progress - 1)) / math.tanh(half)) / 2
    return progress


class Lagrangian(nn.Module):
    """The two multipliers; their optimiser ascends (torch's `maximize=True`), everything else descends.

    Args:
        clamp: keep lambda1 at or above 0, as the recipe does. The quadratic term alone then pushes the sparsity up,
            and lambda1 cannot wind up while fresh gates take their time to move; measured in dev/LOG.md.
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
        """Bring lambda1 back to where it may be; call after each step of the multipliers' optimiser."""
        if self.clamp:
            self.lambda1.clamp_(min=0)
