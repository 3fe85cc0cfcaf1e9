"""What is minimised over the network and maximised over the multipliers, as named parts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.batches import Batch
from hybrid_pruning.config import Config, PruningConfig
from hybrid_pruning.model import SpeechModel
from hybrid_pruning.pruning import Constraint, Gates, Lagrangian, attach, check_target


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
        """Return the losses of a batch at this step's target sparsity; draws the gates' noise.

        Only the network computes in the precision of a surrounding autocast: gates and multipliers stay in float32.
        """
        with torch.autocast(batch.wave.device.type, enabled=False):
            if self.gates is not None:
                self.gates.sample()
        logits = self.model(batch.wave, batch.lengths)
        with torch.autocast(batch.wave.device.type, enabled=False):
            parts = {"task": F.cross_entropy(logits.float(), batch.target)}
            if self.gates is not None and self.lagrangian is not None:
                parts["sparsity"] = self.lagrangian(self.expected_sparsity(), target_sparsity)
        return Losses(parts)

    def expected_sparsity(self) -> torch.Tensor:
        """Return the expected sparsity of what the target counts, with gradients to the gates."""
        assert self.gates is not None
        return torch.as_tensor(self.gates.budget().removed(self.constraint))


def build_objective(config: Config, model: SpeechModel) -> Objective:
    """Put gates on a model's backbone where the recipe prunes, and join it with its losses.

    Raises:
        PlanError: a target sparsity that the chosen units cannot reach.
    """
    model.backbone.gradient_checkpointing = config.backbone.gradient_checkpointing
    freeze_unreached(model)
    pruning = config.pruning
    if not pruning.use_pruning_loss:
        return Objective(model)
    gates = attach(
        model.backbone,
        pruning.units,
        drop_rate=_rates(pruning),
        seed=config.seed,
        seconds=pruning.macs_seconds,
        align=pruning.align,
    )
    check_target(gates.accounting, pruning.target_sparsity, pruning.constraint)
    return Objective(model, gates, Lagrangian(pruning.clamp_lambda1), pruning.constraint)


def freeze_unreached(model: SpeechModel) -> None:
    """Freeze the parameters that no gradient reaches, as the norms in front of a sub-layer that is gone.

    Several processes wait for every gradient that is asked for, and those would never come.
    """
    training = model.training
    model.eval()  # no dropout: no randomness is drawn
    wave = torch.ones(1, 2 * model.backbone.minimum_samples, device=next(model.parameters()).device)
    model(wave).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    model.zero_grad()
    model.train(training)


def _rates(pruning: PruningConfig) -> float | dict[str, float]:
    rates = pruning.drop_rate
    return rates if isinstance(rates, float) else {str(unit): rate for unit, rate in rates.items()}
