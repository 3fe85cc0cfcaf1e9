"""What is minimised over the network and maximised over the multipliers, as named parts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.batches import Batch
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.pruning import Constraint, Gates, Lagrangian


@dataclass(frozen=True, slots=True)
class Losses:
    """A step's losses by name, scalars with gradients."""

    parts: Mapping[str, torch.Tensor]

    @property
    def total(self) -> torch.Tensor:
        """Their sum."""
        return torch.stack(list(self.parts.values())).sum()


class Objective(nn.Module):
    """Task loss plus, where there are gates, the Lagrangian of the size: L_task + R (paper, section 2).

    One module holds everything that learns, so that one wrapper serves any number of processes.

    Args:
        model: the network.
        gates: the gates on its backbone, or None for dense training.
        lagrangian: the multipliers, with the gates.
        constraint: whether the target counts parameters or MACs.
    """

    def __init__(
        self,
        model: SpeechModel,
        gates: Gates | None = None,
        lagrangian: Lagrangian | None = None,
        constraint: Constraint = "params",
    ) -> None:
        super().__init__()
        self.model, self.gates, self.lagrangian, self.constraint = model, gates, lagrangian, constraint

    def forward(self, batch: Batch, target_sparsity: float) -> Losses:
        """Return the losses of a batch at this step's target sparsity; draws the gates' noise."""
        if self.gates is not None:
            self.gates.sample()
        logits = self.model(batch.wave, batch.lengths)
        parts = {"task": F.cross_entropy(logits.float(), batch.target)}
        if self.gates is not None and self.lagrangian is not None:
            parts["sparsity"] = self.lagrangian(self.expected_sparsity(), target_sparsity)
        return Losses(parts)

    def expected_sparsity(self) -> torch.Tensor:
        """Return the expected sparsity of what the target counts, with gradients to the gates."""
        assert self.gates is not None
        return torch.as_tensor(self.gates.budget().removed(self.constraint))
