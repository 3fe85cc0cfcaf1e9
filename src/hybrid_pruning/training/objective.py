"""The objective: minimised over the network and gates, maximised over the multipliers, as named parts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning.config import Config, PruningConfig
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Constraint, Gates, Growth, Lagrangian, attach, check_target
from hybrid_pruning.training.losses import ClassLoss, build_loss

MARGIN = "margin."
"""Prefix of an objective's weights for the classes of its training data, which no model has."""


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

    One module holds everything that learns, so that one wrapper serves any number of processes. Dense training has no
    gates; `margin` is speaker verification's loss on embeddings, None for the softmax over the model's own classifier.
    """

    def __init__(
        self,
        model: SpeechModel,
        gates: Gates | None = None,
        lagrangian: Lagrangian | None = None,
        constraint: Constraint = "params",
        margin: ClassLoss | None = None,
    ) -> None:
        super().__init__()
        self.model, self.gates, self.lagrangian, self.constraint = model, gates, lagrangian, constraint
        self.margin = margin

    def forward(self, batch: Batch, target_sparsity: float, margin_share: float = 1.0) -> Losses:
        """Return the losses of a batch; draws the gates' noise.

        Only the network computes in the precision of a surrounding autocast: losses, gates and multipliers stay in
        float32. Of the margins the share from 0 to 1 counts.
        """
        with torch.autocast(batch.wave.device.type, enabled=False):
            if self.gates is not None:
                self.gates.sample()
        found = self.model(batch.wave, batch.lengths)  # logits, or for speaker verification embeddings
        with torch.autocast(batch.wave.device.type, enabled=False):
            if self.margin is None:
                task = F.cross_entropy(found.float(), batch.target)
            else:
                task = self.margin(found.float(), batch.target, margin_share)
            parts = {"task": task}
            if self.gates is not None and self.lagrangian is not None:
                parts["sparsity"] = self.lagrangian(self.expected_sparsity(), target_sparsity)
        return Losses(parts)

    def expected_sparsity(self) -> torch.Tensor:
        """Return the expected sparsity of what the target counts, with gradients to the gates."""
        assert self.gates is not None
        return torch.as_tensor(self.gates.budget().removed(self.constraint))


def build_objective(config: Config, model: SpeechModel, classes: int = 0) -> Objective:
    """Put gates on a model's backbone, in place, where the recipe prunes, and join it with its losses.

    A model without a classifier has a loss on embeddings, of so many classes.

    Raises:
        PlanError: a target sparsity that the chosen units cannot reach.
    """
    backbone, asked, pruning = model.backbone, config.backbone, config.pruning
    backbone.gradient_checkpointing, backbone.frozen = asked.gradient_checkpointing, asked.frozen
    backbone.extractor_gradient = asked.extractor_gradient
    freeze_unreached(model)
    margin = build_loss(config.objective, model.head.embedding_width, classes) if classes else None
    if not pruning.use_pruning_loss:
        return Objective(model, margin=margin)
    rates = pruning.drop_rate
    gates = attach(
        backbone,
        pruning.units,
        drop_rate=rates if isinstance(rates, float) else {str(unit): rate for unit, rate in rates.items()},
        seed=config.seed,
        seconds=pruning.macs_seconds,
        align=pruning.align,
    )
    check_target(gates.accounting, pruning.target_sparsity, pruning.constraint)
    return Objective(model, gates, Lagrangian(pruning.clamp_lambda1), pruning.constraint, margin)


def target_growth(pruning: PruningConfig, batches_per_epoch: float) -> Growth:
    """Return the target sparsity over the steps of a training."""
    return Growth(
        pruning.sparsity_schedule,
        pruning.min_sparsity,
        pruning.target_sparsity,
        pruning.sparsity_warmup_epochs * batches_per_epoch,
        pruning.snapshots,
        round(pruning.export_hold_epochs * batches_per_epoch),
    )


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
