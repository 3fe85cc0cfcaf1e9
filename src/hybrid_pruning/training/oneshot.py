"""One-shot pruning: the network cut to the target before the first step of a training, which then heals it.

All methods score the units, and one ranking by exact count cuts them, as binary gates do. Scores of `random`,
`magnitude`, `truncation`, `layers` and `small` do not weigh a unit's cost, so that each kind loses a like share.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import islice

import torch

from hybrid_pruning import distributed as processes
from hybrid_pruning.config import Config
from hybrid_pruning.console import say
from hybrid_pruning.data.batches import Batch
from hybrid_pruning.models.speech_model import SpeechModel
from hybrid_pruning.pruning import Gates, ImportanceOptimizer, Role
from hybrid_pruning.pruning.plan import parameter
from hybrid_pruning.training.export import shrink_model
from hybrid_pruning.training.objective import Objective, attach_gates, sum_losses

Scores = Mapping[str, torch.Tensor]
"""Slot name -> [units] in the order in which units are kept, the highest first."""
TINY = 1e-30
FAR = 1e3
"""Between the scores of two layers, of which the one goes before any unit of the other."""


def cut_model(config: Config, objective: Objective, batches: Iterable[Batch]) -> SpeechModel:
    """Return the network of an objective without gates, cut by the recipe's one-shot method; the old one is spent.

    The batches are of the training data, for Taylor importance. A target that the units cannot reach is a PlanError.
    """
    pruning, model = config.pruning, objective.model
    gates = attach_gates(config, model)
    if pruning.method == "taylor":
        measure_importance(Objective(model, gates, margin=objective.margin), islice(batches, pruning.score_batches))
    else:
        costs = dict(zip(gates, gates.accounting.unit_costs(pruning.constraint), strict=True))
        for name, score in score_units(config, model, gates).items():
            gates[name].log_alpha.data.copy_(score + math.log(max(costs[name], 1.0)))
    processes.share_tensors(gate.log_alpha.data for gate in gates.values())
    size = gates.accounting.exact_kept(gates.kept(pruning.target_sparsity, pruning.constraint))
    small = shrink_model(Objective(model, gates, constraint=pruning.constraint), pruning.target_sparsity)
    if processes.is_main():
        removed = f"{size.sparsity:.1%} of the parameters and {size.macs_sparsity:.1%} of the MACs"
        say(f"cut by {pruning.method} before the first step: {removed} removed")
    return small.to(model.device)


def measure_importance(objective: Objective, batches: Iterable[Batch]) -> None:
    """Set the gates to the log of the mean squared gradient of each unit's factor (Molchanov et al. 2019, equation 8).

    The network is left as it was; every batch has the gradients of its task loss alone.
    """
    gates = objective.gates
    assert gates is not None
    measure = ImportanceOptimizer([{"params": list(gates.parameters())}])
    objective.train()
    for step, batch in enumerate(batches):
        torch.manual_seed(step)  # of dropout
        losses = objective(batch.to(objective.model.device), 0.0)
        sum_losses(losses).backward()
        measure.step()
        objective.zero_grad()


def score_units(config: Config, model: SpeechModel, gates: Gates) -> Scores:
    """Return the scores of the methods that need no data."""
    slots, method = gates.plan.slots, config.pruning.method
    even = {slot.name: -torch.arange(slot.size) / slot.size for slot in slots}
    if method == "magnitude":
        return {slot.name: _magnitudes(model, gates, slot.name) for slot in slots}
    if method == "random":
        generator = torch.Generator().manual_seed(config.seed)
        return {slot.name: torch.rand(slot.size, generator=generator) for slot in slots}
    if method == "small":
        return even
    weights = torch.tensor([*model.head.mixtures().values()]).mean(0)[1:]  # the first is the first layer's input
    by_use = torch.argsort(weights, descending=True, stable=True).tolist()
    layers = by_use if method == "layers" else range(len(weights))
    place = {layer: rank + 1 for rank, layer in enumerate(layers)}
    return {slot.name: even[slot.name] - FAR * place.get(slot.layer, 0) for slot in slots}


@torch.no_grad()
def _magnitudes(model: SpeechModel, gates: Gates, name: str) -> torch.Tensor:
    """Return [units] logarithms of the squared norm of each unit's weights over the mean of its slot."""
    slot = gates[name].slot
    norms = torch.zeros(slot.size, dtype=torch.float64)
    for cut in slot.cuts:
        if cut.dim is not None and cut.role is not Role.HARD:
            weight = parameter(model.backbone, cut.tensor).double().cpu().movedim(cut.dim, 0)
            norms += weight.reshape(slot.size, -1).square().sum(1)
    return (norms / norms.mean().clamp_min(TINY) + TINY).log()
