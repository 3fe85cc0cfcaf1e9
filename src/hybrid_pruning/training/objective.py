"""The dual formulation: losses minimised over network and gates, maximised over multipliers, and their optimisers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config, DistillationConfig, ObjectiveConfig, PruningConfig, TrainingConfig
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.backbone import Hidden
from hybrid_pruning.models.backbone.base import mask_of
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Constraint, Gates, Growth, ImportanceOptimizer, Lagrangian, attach, check_target
from hybrid_pruning.training.losses import ClassLoss, build_loss


class Teacher:
    """A network in evaluation mode, and the losses of distillation; no part of what is trained or saved.

    Gates cut what lies inside of a layer, never its width: states are compared layer by layer without a projection. Of
    a backbone alone only hidden states are compared.
    """

    def __init__(self, model: nn.Module, asked: DistillationConfig) -> None:
        self.model, self.asked = model.eval().requires_grad_(False), asked
        self.backbone: Any = getattr(model, "backbone", model)
        self.backbone.frozen = True  # its input is the student's, whose check for NaN would wait for a GPU

    def losses(
        self, wave: torch.Tensor, lengths: torch.Tensor | None, hidden: Hidden, output: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the weighted losses by name for wave [B, S], from the student's hidden states and output.

        "hidden" is the mean over layers of L1 relative to the teacher's mean magnitude, plus 1 - cosine, as in DPHuBERT
        (Peng et al., Interspeech 2023, section 2.2) but for that scale, which lets layers of any magnitude weigh alike.
        "output" is the divergence KL(teacher || student) of the classes, or 1 - cosine of embeddings.
        """
        if next(self.model.parameters()).device != wave.device:  # to() looks at every tensor: milliseconds
            self.model.to(wave.device)
        found: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            expected = self.backbone(wave, lengths)
            wanted = None if self.asked.output == 0 else self.model.classifier(self.model.head(expected))  # type: ignore[operator]
        with torch.autocast(wave.device.type, enabled=False):
            if self.asked.hidden:
                found["hidden"] = self.asked.hidden * hidden_loss(hidden, expected, self.asked.layers)
            if wanted is not None:
                classes = isinstance(self.model, SpeechModel) and self.model.classes is not None
                loss = class_divergence if classes else embedding_distance
                found["output"] = self.asked.output * loss(output.float(), wanted.float())
        return found


def hidden_loss(student: Hidden, teacher: Hidden, layers: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return the mean over layers of |s - t|_1 / |t|_1 + 1 - cos(s, t) over valid frames; layer 0 is the input."""
    s, t = student.frames.float(), teacher.frames.float()
    if layers is not None:
        s, t = s[list(layers)], t[list(layers)]
    valid = s.new_ones(s.shape[1:3]) if student.lengths is None else mask_of(student.lengths, s.shape[2]).to(s)
    distance = ((s - t).abs().sum(-1) * valid).sum((1, 2)) / (t.abs().sum(-1) * valid).sum((1, 2))
    cosine = (F.cosine_similarity(s, t, dim=-1) * valid).sum((1, 2)) / valid.sum()
    return (distance + 1 - cosine).mean()


def class_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean KL(teacher || student), in nats, of logits [B, classes] (Hinton et al., 2015)."""
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")


def embedding_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - cosine of embeddings [B, E]."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


MARGIN = "margin."
"""Prefix of an objective's weights for the classes of its training data, which no model has."""
LEFT = 1e-3
"""Of the margins, at the end of their exponential growth."""
FUSED = True
"""One pass over all tensors instead of a dozen over each: a fifth of the time at WavLM Base's size, on a CPU too."""


class Objective(nn.Module):
    """Task loss plus, where there are gates, the Lagrangian of the size: L_task + R (paper, section 2).

    A teacher adds its losses where there is one; it is no part of the module, and so of no checkpoint. One module holds
    everything that learns, so that one wrapper serves any number of processes. Dense training has no gates; `margin` is
    speaker verification's loss on embeddings, None for the softmax over the model's own classifier.
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
        self.teacher: Teacher | None = None

    def forward(self, batch: Batch, target_sparsity: float, margin_share: float = 1.0) -> dict[str, torch.Tensor]:
        """Return a batch's losses by name, scalars with gradients; draws the gates' noise.

        Only the network computes in the precision of a surrounding autocast: losses, gates and multipliers stay in
        float32. Of the margins the share from 0 to 1 counts.
        """
        with torch.autocast(batch.wave.device.type, enabled=False):
            self.draw(target_sparsity)
        hidden = self.model.backbone(batch.wave, batch.lengths)
        found = self.model.classifier(self.model.head(hidden))  # logits, or for speaker verification embeddings
        with torch.autocast(batch.wave.device.type, enabled=False):
            if self.margin is None:
                losses = {"task": F.cross_entropy(found.float(), batch.target)}
            else:
                losses = {"task": self.margin(found.float(), batch.target, margin_share)}
            if self.lagrangian is not None:
                losses["sparsity"] = self.lagrangian(self.expected_sparsity(), target_sparsity)
        if self.teacher is not None:
            losses |= self.teacher.losses(batch.wave, batch.lengths, hidden, found)
        return losses

    def draw(self, target_sparsity: float) -> None:
        """Set the gates of a step, in the way of the constraint's solver; nothing without gates."""
        if self.gates is None:
            return
        if self.gates.binary:
            self.gates.choose(target_sparsity, self.constraint)
            return
        self.meet(target_sparsity)
        self.gates.sample()

    def meet(self, target_sparsity: float) -> None:
        """Project the gates onto the target after a step, where the solver does."""
        if self.gates is not None and self.lagrangian is None and not self.gates.binary:
            self.gates.project(target_sparsity, self.constraint)

    def expected_sparsity(self) -> torch.Tensor:
        """Return the expected sparsity of what the target counts, with gradients to the gates."""
        assert self.gates is not None
        return torch.as_tensor(self.gates.budget().removed(self.constraint))


def sum_losses(losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss that is minimised, the sum of its parts."""
    return torch.stack([*losses.values()]).sum()


def build_objective(config: Config, model: SpeechModel, classes: int = 0) -> Objective:
    """Put gates on a model's backbone, in place, where the recipe prunes, and join it with its losses.

    A model without a classifier has a loss on embeddings, of so many classes. A target sparsity that the chosen units
    cannot reach is a PlanError.
    """
    backbone, asked, pruning = model.backbone, config.backbone, config.pruning
    backbone.gradient_checkpointing, backbone.frozen = asked.gradient_checkpointing, asked.frozen
    backbone.frozen_dropout, backbone.extractor_gradient = asked.frozen_dropout, asked.extractor_gradient
    model.head.gradient = asked.hidden_gradient
    freeze_unreached(model)
    margin = build_loss(config.objective, model.head.embedding_width, classes) if classes else None
    if not pruning.gated:
        return Objective(model, margin=margin)
    gates = attach_gates(config, model)
    if pruning.start_noise:
        add_noise(gates, pruning.start_noise, config.seed)
    lagrangian = Lagrangian(pruning.clamp_lambda1) if pruning.constraint_solver == "lagrangian" else None
    return Objective(model, gates, lagrangian, pruning.constraint, margin)


def attach_gates(config: Config, model: SpeechModel) -> Gates:
    """Put the recipe's gates on a model's backbone, in place; a target that they cannot reach is a PlanError."""
    pruning, rates = config.pruning, config.pruning.drop_rate
    gates = attach(
        model.backbone,
        pruning.gated_units,
        drop_rate=rates if isinstance(rates, float) else {str(unit): rate for unit, rate in rates.items()},
        seed=config.seed,
        seconds=pruning.macs_seconds,
        align=pruning.align,
        binary=pruning.binary,
    )
    check_target(gates.accounting, pruning.target_sparsity, pruning.constraint)
    return gates


@torch.no_grad()
def add_noise(gates: Gates, deviation: float, seed: int) -> None:
    """Add normal noise to every log_alpha, in place, a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    for gate in gates.values():
        noise = deviation * torch.randn(gate.log_alpha.shape, generator=generator)
        gate.log_alpha.add_(noise.to(gate.log_alpha))


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


class Optimizers:
    """The optimisers as one: network and gates descend, the multipliers ascend; without gates the network's alone."""

    def __init__(self, objective: Objective, training: TrainingConfig, pruning_lr: float) -> None:
        self.objective, self.training = objective, training
        self.network = network_optimizer(objective, training)
        self.pruning: torch.optim.Optimizer | None = None
        self._by_name: dict[str, torch.optim.Optimizer] = {"network": self.network}
        if objective.gates is not None:
            groups: list[dict[str, Any]] = [{"params": list(objective.gates.parameters()), "name": "gates"}]
            if objective.lagrangian is not None:
                multipliers = list(objective.lagrangian.parameters())
                groups.append({"params": multipliers, "name": "multipliers", "maximize": True})
            if objective.gates.binary:
                self.pruning = ImportanceOptimizer(groups)
            else:
                self.pruning = torch.optim.AdamW(groups, lr=pruning_lr, weight_decay=0.0, fused=FUSED)
            self._by_name["pruning"] = self.pruning

    def set_learning_rates(self, factor: float) -> None:
        """Bring the network's groups to a share of their peak learning rates; the pruning's stay."""
        for group in self.network.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of every group."""
        return {group["name"]: group["lr"] for group in self._groups()}

    def describe_groups(self) -> list[dict[str, Any]]:
        """Return the groups by name, with their sizes, peak rates and weight decay."""
        return [
            {
                "name": group["name"],
                "parameters": sum(parameter.numel() for parameter in group["params"]),
                "peak_learning_rate": group.get("peak_lr", group["lr"]),
                "weight_decay": group["weight_decay"],
            }
            for group in self._groups()
        ]

    def clip(self) -> dict[str, torch.Tensor]:
        """Clip the network's gradients, and with `clip_gates` the gates'; return the norms before.

        They are those of "network" and of its parts that learn.
        """
        parts: dict[str, list[nn.Parameter]] = {}
        for group in self.network.param_groups:
            parts.setdefault(group["name"].partition(".")[0], []).extend(group["params"])
        every = [parameter for parameters in parts.values() for parameter in parameters]
        norms = {part: _norm(parameters).to(every[0].device) for part, parameters in parts.items()}
        norms = {"network": torch.linalg.vector_norm(torch.stack(list(norms.values()))), **norms}
        whole = norms["network"]
        if self.training.clip_gates and self.objective.gates is not None:
            gates = list(self.objective.gates.parameters())
            whole = torch.linalg.vector_norm(torch.stack([whole, _norm(gates).to(whole)]))
            every += gates
        if self.training.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(every, self.training.clip_norm, whole)
        return norms

    def pruning_norms(self) -> dict[str, torch.Tensor]:
        """Return the gradient norms of "gates" and "multipliers"; nothing in dense training."""
        groups = [] if self.pruning is None else self.pruning.param_groups
        return {group["name"]: _norm(group["params"]) for group in groups}

    def step(self, frozen: bool = False) -> None:
        """Take one step with each, clear the gradients, and project the multipliers to their range.

        With `frozen` binary gates stay as they are.
        """
        for name, optimizer in self._by_name.items():
            if not (frozen and name == "pruning" and self.objective.gates is not None and self.objective.gates.binary):
                optimizer.step()
            optimizer.zero_grad()
        if self.objective.lagrangian is not None:
            self.objective.lagrangian.project()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimisers' states by name."""
        return {name: optimizer.state_dict() for name, optimizer in self._by_name.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take up the optimisers' states."""
        for name, optimizer in self._by_name.items():
            optimizer.load_state_dict(states[name])

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._by_name.values() for group in optimizer.param_groups]


def network_optimizer(objective: Objective, training: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD over named groups: backbone, head and class weights, each with and without weight decay."""
    groups: list[dict[str, Any]] = []
    model, margin, peak = objective.model, objective.margin, peak_rate(training)
    parts: dict[str, tuple[float, list[nn.Module]]] = {
        "backbone": (peak * training.backbone_lr_ratio, [model.backbone]),
        "head": (peak, [model.head, model.classifier]),
        "objective": (peak, [] if margin is None else [margin]),
    }
    for name, (lr, modules) in parts.items():
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for suffix, decay in (("", training.weight_decay), (".no_decay", 0.0)):
            chosen = [parameter for parameter in parameters if (parameter.dim() > 1) == (suffix == "")]
            if chosen:
                named = {"params": chosen, "name": f"{name}{suffix}"}
                groups.append({**named, "peak_lr": lr, "lr": lr, "weight_decay": decay})
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, nesterov=training.momentum > 0, fused=FUSED)
    return torch.optim.AdamW(groups, fused=FUSED)


def peak_rate(training: TrainingConfig) -> float:
    """Return the head's peak learning rate: `lr` times the utterances of a step over `lr_batch`, if that is given."""
    if training.lr_batch is None:
        return training.lr
    return training.lr * processes.count() * training.batch_size / training.lr_batch


def margin_share(objective: ObjectiveConfig, step: int, batches_per_epoch: int) -> float:
    """Return the share of the margins that counts in a step, counted from 0; whole from the warm-up's last step on."""
    passed = step - objective.margin_start_epochs * batches_per_epoch
    if passed < 0:
        return 0.0
    warmup = objective.margin_warmup_epochs * batches_per_epoch
    progress = min(1.0, passed / (warmup - 1)) if warmup > 1 else 1.0
    return 1 - LEFT**progress if objective.margin_growth == "exponential" and progress < 1 else progress


def learning_rate_factor(
    training: TrainingConfig, step: int, total_steps: int, warmup_steps: float, rested: float = 0.0
) -> float:
    """Return the factor on every group's peak learning rate: exponential decay under a linear warm-up.

    Over a rest of the target, of which the share `rested` has passed, it is annealed to the training's last one, with
    equal ratios from step to step, so that a snapshot is as settled as the last model.
    """
    last = training.final_lr / training.lr
    factor = last ** (step / max(total_steps - 1, 1)) * min(1.0, (step + 1) / max(warmup_steps, 1))
    return float(factor ** (1 - rested) * min(factor, last) ** rested)


def _norm(parameters: list[nn.Parameter]) -> torch.Tensor:
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
