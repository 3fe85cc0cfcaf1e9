"""The optimisers, one for the network and one for gates and multipliers, and the learning rates over time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hybrid_pruning.config import TrainingConfig
from hybrid_pruning.training.objective import Objective

FUSED = True
"""One pass over all tensors instead of a dozen over each: a fifth of the time at WavLM Base's size, on a CPU too."""


class Optimizers:
    """The optimisers of the dual formulation, as one: the network and the gates descend, the multipliers ascend."""

    def __init__(self, objective: Objective, training: TrainingConfig, pruning_lr: float) -> None:
        self.objective, self.training = objective, training
        self.network = network_optimizer(objective, training)
        self.pruning = pruning_optimizer(objective, pruning_lr)
        self._named: dict[str, torch.optim.Optimizer] = {"network": self.network}
        if self.pruning is not None:
            self._named["pruning"] = self.pruning

    def set_learning_rates(self, factor: float) -> None:
        """Bring the network's groups to a share of their peak learning rates; the pruning's stay."""
        for group in self.network.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of every group."""
        return {group["name"]: group["lr"] for group in self._groups()}

    def describe_groups(self) -> list[dict[str, Any]]:
        """Return the groups by name, with their sizes, peak rates and weight decay."""
        described = []
        for group in self._groups():
            sizes = {"name": group["name"], "parameters": sum(parameter.numel() for parameter in group["params"])}
            rates = {"peak_learning_rate": group.get("peak_lr", group["lr"]), "weight_decay": group["weight_decay"]}
            described.append({**sizes, **rates})
        return described

    def clip(self) -> dict[str, torch.Tensor]:
        """Clip the network's gradients; return the norms before, of "network" and of its parts that learn."""
        parts: dict[str, list[nn.Parameter]] = {}
        for group in self.network.param_groups:
            parts.setdefault(group["name"].partition(".")[0], []).extend(group["params"])
        device = self.network.param_groups[0]["params"][0].device
        norms = {part: _norm(parameters).to(device) for part, parameters in parts.items()}
        norms = {"network": torch.linalg.vector_norm(torch.stack(list(norms.values()))), **norms}
        every = [parameter for parameters in parts.values() for parameter in parameters]
        nn.utils.clip_grads_with_norm_(every, self.training.clip_norm, norms["network"])
        return norms

    def pruning_norms(self) -> dict[str, torch.Tensor]:
        """Return the gradient norms of "gates" and "multipliers", which are not clipped; nothing in dense training."""
        groups = [] if self.pruning is None else self.pruning.param_groups
        return {group["name"]: _norm(group["params"]) for group in groups}

    def step(self) -> None:
        """Take one step with each, clear the gradients, and project the multipliers to their range."""
        for optimizer in self._named.values():
            optimizer.step()
            optimizer.zero_grad()
        if self.objective.lagrangian is not None:
            self.objective.lagrangian.project()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimisers' states by name."""
        return {name: optimizer.state_dict() for name, optimizer in self._named.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take up the optimisers' states."""
        for name, optimizer in self._named.items():
            optimizer.load_state_dict(states[name])

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._named.values() for group in optimizer.param_groups]


def network_optimizer(objective: Objective, training: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD over named groups: backbone, head and class weights, each with and without weight decay."""
    groups: list[dict[str, Any]] = []
    model, margin = objective.model, objective.margin
    parts: dict[str, tuple[float, list[nn.Module]]] = {
        "backbone": (training.lr * training.backbone_lr_ratio, [model.backbone]),
        "head": (training.lr, [model.head, model.classifier]),
        "objective": (training.lr, [] if margin is None else [margin]),
    }
    for name, (lr, modules) in parts.items():
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for suffix, decays in (("", True), (".no_decay", False)):
            chosen = [parameter for parameter in parameters if (parameter.dim() > 1) == decays]
            decay = training.weight_decay if decays else 0.0
            groups.append({"params": chosen, "name": f"{name}{suffix}", "peak_lr": lr, "lr": lr, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, nesterov=training.momentum > 0, fused=FUSED)
    return torch.optim.AdamW(groups, fused=FUSED)


def pruning_optimizer(objective: Objective, lr: float) -> torch.optim.Optimizer | None:
    """Return the dual formulation's own optimiser: gates descend, multipliers ascend; None without gates."""
    if objective.gates is None or objective.lagrangian is None:
        return None
    groups: list[dict[str, Any]] = [
        {"params": list(objective.gates.parameters()), "name": "gates"},
        {"params": list(objective.lagrangian.parameters()), "name": "multipliers", "maximize": True},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.0, fused=FUSED)


def learning_rate_factor(training: TrainingConfig, step: int, total_steps: int, warmup_steps: float) -> float:
    """Return the factor on every group's peak learning rate: exponential decay under a linear warm-up."""
    decay = (training.final_lr / training.lr) ** (step / max(total_steps - 1, 1))
    return float(decay * min(1.0, (step + 1) / max(warmup_steps, 1)))


def annealed(training: TrainingConfig, factor: float, progress: float) -> float:
    """Return the factor annealed towards the training's last one, so that a snapshot is as settled as the last model.

    At progress 0 it is the schedule's, at 1 the last, with equal ratios from step to step.
    """
    return float(factor ** (1 - progress) * min(factor, training.final_lr / training.lr) ** progress)


def _norm(parameters: list[nn.Parameter]) -> torch.Tensor:
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
