"""The target sparsity: it grows in one of five shapes, may rest in between, and is enforced by multipliers."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import nn

Schedule = Literal["linear", "cosine", "exponential", "expm1", "sigmoid"]

# tanh is the logistic function rescaled to pass through 0 and 1 without the jumps of a truncated one
SHAPES: Mapping[Schedule, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
    "exponential": lambda progress: progress * progress,
    "expm1": lambda progress: math.expm1(5.0 * progress) / math.expm1(5.0),
    "sigmoid": lambda progress: (1 + math.tanh(2.5 * (2 * progress - 1)) / math.tanh(2.5)) / 2,
}


def scheduled_target(schedule: Schedule, progress: float, start: float, end: float) -> float:
    """Return the target sparsity after a share of the warm-up: monotone, exactly `start` at 0 and `end` from 1 on.

    Exponential is progress squared, as in the published code; expm1 is slower at first, sigmoid at both ends.
    """
    if 0 < progress < 1:
        return start + (end - start) * SHAPES[schedule](progress)
    return start if progress <= 0 else end


class Growth:
    """A target that is a function of the step alone, so that a resumed run has the same; it never falls.

    Args:
        warmup: steps over which it grows, rests not counted; it may be no whole number.
        points: ascending targets above `start` and below `end` at which it rests, `rest` steps each.
    """

    def __init__(
        self,
        schedule: Schedule,
        start: float,
        end: float,
        warmup: float,
        points: Sequence[float] = (),
        rest: int = 0,
    ) -> None:
        self.schedule, self.start, self.end = schedule, start, end
        self.warmup, self.points, self.rest = warmup, tuple(points), rest
        grown = range(math.ceil(warmup) + 1)
        self._reached = [bisect_left(grown, point, key=self._grown) for point in self.points]

    def target(self, step: int) -> float:
        """Return the target sparsity of a step, counted from 0."""
        resting = self._resting(step)
        if resting is not None:
            return self.points[resting[0]]
        before = sum(step >= reached + self.rest * (index + 1) for index, reached in enumerate(self._reached))
        return self._grown(step - self.rest * before)

    def rested(self, step: int) -> float:
        """Return the share of a rest that has passed by a step, 0 outside of rests and 1 in the last step of one."""
        resting = self._resting(step)
        return 0.0 if resting is None else (resting[1] + 1) / self.rest

    def last_steps(self) -> list[int]:
        """Return, point by point, after how many steps the target goes beyond it."""
        return [
            reached + self.rest * (index + 1) + (self._grown(reached) == self.points[index])
            for index, reached in enumerate(self._reached)
        ]

    def _resting(self, step: int) -> tuple[int, int] | None:
        """Return the index of the point that the target rests at and the steps since, None where it grows."""
        for index, reached in enumerate(self._reached):
            passed = step - reached - self.rest * index
            if 0 <= passed < self.rest:
                return index, passed
        return None

    def _grown(self, steps: int) -> float:
        """The target after so many steps of growing; the warm-up's last step has the final one exactly."""
        progress = steps / (self.warmup - 1) if self.warmup > 1 else 1.0
        return scheduled_target(self.schedule, progress, self.start, self.end)


class Lagrangian(nn.Module):
    """The two multipliers; their optimiser ascends (torch's `maximize=True`), everything else descends.

    Source: Wang et al., "Structured Pruning of Large Language Models", EMNLP 2020, section 3.3, as used by the paper:
    max over lambda, min over theta and alpha of L_task + lambda1 (s - t) + lambda2 (s - t)^2, with s the expected and t
    the target sparsity, both the fraction removed.

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
