"""Plan -> masked weights, on and off again.

Masks go on the weights of whatever consumes a unit, through torch's parametrisations: hooks on activations miss
weights that go straight into a functional call, as those of transformers' WavLM attention do.
"""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from hybrid_pruning.pruning.budget import Accounting
from hybrid_pruning.pruning.gate import DROP_RATE, Gate, Gates
from hybrid_pruning.pruning.plan import Cut, Plan, PlanError, Role, along, owner, plan_for


class Product(torch.autograd.Function):
    """weight x factor, where the factor broadcasts.

    torch's own product computes both gradients in fresh memory, and on a CPU fresh memory is most of what masks cost
    (dev/LOG.md); here the weight's gradient takes the place of the factor's summands.
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return the product, shaped like the weight."""
        ctx.save_for_backward(weight, factor)
        return weight * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of weight and factor."""
        weight, factor = ctx.saved_tensors
        summands = gradient * weight
        if factor.shape == weight.shape:  # nothing to sum: both gradients need their memory
            return gradient * factor, summands
        of_factor = summands.sum_to_size(factor.shape)
        return torch.mul(gradient, factor, out=summands), of_factor


class Mask(nn.Module):
    """Multiplies one weight by the gates of every cut that scales or silences it."""

    def __init__(self, gates: list[tuple[Gate, Cut]], order: tuple[str, ...], model: nn.Module) -> None:
        super().__init__()
        self.order = order  # of the module's parameters before masks, by which optimisers resume
        self.gates = gates  # in a list, so that gates are no part of the masked model and its state dict
        self.model = (model,)  # nor a part of itself

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the masked weight, same shape."""
        factors = [self._factor(gate, cut, weight.dim()) for gate, cut in self.gates]
        masked: torch.Tensor = Product.apply(weight, reduce(torch.mul, factors).to(weight.dtype))
        return masked

    def _factor(self, gate: Gate, cut: Cut, dims: int) -> torch.Tensor:
        value = gate.value(self.training)
        if cut.role is Role.HARD:
            value = (value != 0).to(value.dtype)
        multiplier = getattr(self.model[0], "extractor_gradient", 1.0) if cut.multiplied else 1.0
        return along(scale_gradient(value, multiplier), cut, dims)


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return a tensor whose gradient from here is multiplied by a factor; what else reads it gets its own."""
    if factor == 1.0 or not x.requires_grad:
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient * factor)
    return x


def attach(
    model: nn.Module,
    units: Iterable[str] | None = None,
    *,
    plan: Plan | None = None,
    drop_rate: float | Mapping[str, float] = DROP_RATE,
    seed: int = 0,
    seconds: float = 4.0,
    align: int = 1,
    binary: bool = False,
) -> Gates:
    """Put gates on a model's weights; the model then computes with its sampled (training) or soft (eval) gates.

    Args:
        model: a backbone; it is changed in place and keeps its own parameters. It may have been shrunk before: sparsity
            is then the fraction of that smaller model.
        units: the kinds of units to prune; None for all the plan has.
        plan: slots and cuts; None for the plan of the model's family.
        drop_rate: probability of units to start closed, one number or one per kind.
        seed: of the gates' noise.
        seconds: the length of the input that MACs are counted for; used where `plan` is None.
        binary: gates of 0 or 1, by `gates.choose`, instead of sampled ones.
        align: kept widths (channels, neurons, heads x their size) are multiples of it, or what they were.

    Returns:
        The gates, a module of their own: train them with an optimiser of their own. A plan that does not fit the model,
        or gates that are attached already, are a PlanError.
    """
    if any(isinstance(module, Mask) for module in model.modules()):
        raise PlanError("gates are attached to this model already; detach() them first")
    plan = plan_for(model, seconds) if plan is None else plan
    plan = (plan if units is None else plan.only(units)).aligned(align)
    if isinstance(drop_rate, Mapping):
        plan.check_units(drop_rate)
    gates = Gates(plan, Accounting(model, plan), drop_rate, seed, binary)
    gates.to(next(model.parameters()).device)
    masks: dict[str, list[tuple[Gate, Cut]]] = {}
    for name, cuts in plan.cuts_by_tensor().items():
        if parametrize.is_parametrized(owner(model, name)[0]):
            raise PlanError(f"{name}: its module is parametrised by something else; gates cannot be added")
        masks[name] = [(gates[slot.name], cut) for slot, cut in cuts if cut.role is not Role.DROP]
    orders: dict[nn.Module, tuple[str, ...]] = {}
    for name in filter(masks.__getitem__, masks):
        module, attribute = owner(model, name)
        order = orders.setdefault(module, tuple(module._parameters))
        mask = Mask(masks[name], order, model).train(module.training)
        # unsafe skips torch's trial run, which would need a sample
        parametrize.register_parametrization(module, attribute, mask, unsafe=True)
    return gates


def detach(model: nn.Module) -> None:
    """Take all masks off again; the model is the plain one it was, with the weights it has now.

    torch's own remove_parametrizations edits the class, which a copied module shares with the gated original.
    """
    for module in list(model.modules()):
        chains: dict[str, Any] = dict(module.parametrizations) if parametrize.is_parametrized(module) else {}  # type: ignore[arg-type]
        if not chains or not all(isinstance(chain[0], Mask) for chain in chains.values()):
            continue
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for attribute, chain in chains.items():
            module.register_parameter(attribute, chain.original)
        for attribute in next(iter(chains.values()))[0].order:
            module._parameters[attribute] = module._parameters.pop(attribute)
