"""Plan + kept units -> narrow modules: the masked model's function in a smaller model.

Whatever a gate multiplied is folded into the weights; nothing is approximated (masked == shrunk, ARCHITECTURE.md).
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from hybrid_pruning.pruning.attach import detach
from hybrid_pruning.pruning.narrow import NarrowLayerNorm
from hybrid_pruning.pruning.plan import UNITS, Cut, Kept, Plan, Role, Shape, Slot, along, owner, parameter, shape_of

if TYPE_CHECKING:
    from hybrid_pruning.pruning.gate import Gates

Model = TypeVar("Model", bound=nn.Module)


def shrink(model: Model, gates: "Gates", kept: Kept | None = None) -> Model:
    """Return a new, smaller model without gates; the gated one is left as it was.

    The kept units are by default those that evaluation keeps now; units that do not fit the plan are a PlanError.
    """
    kept = gates.kept() if kept is None else kept
    small = copy.deepcopy(model)
    detach(small)
    small.zero_grad()  # copied with the parameters
    narrow(small, gates.plan, kept, gates.soft_values())
    return small


def narrow(model: nn.Module, plan: Plan, kept: Kept, values: Mapping[str, torch.Tensor] | None = None) -> None:
    """Cut a plain model without masks, dense or narrowed before, down in place; PlanError where it does not fit.

    `values` are slot name -> [units] gate values that fold into the weights; None where the weights hold them already.
    """
    plan.check(model)
    plan.check_kept(kept)
    for name, cuts in plan.cuts_by_tensor().items():
        _cut_tensor(model, name, cuts, kept, values)
    for slot in plan.slots:
        if slot.swap is not None:
            slot.swap(model, tuple(kept[slot.name]))
    model.shape = _shape(shape_of(model), plan, kept)  # type: ignore[assignment]


def _shape(before: Shape | None, plan: Plan, kept: Kept) -> Shape:
    """Return the shape relative to the dense model, after one cut or several."""
    earlier = Shape((), {}) if before is None else before
    units = dict.fromkeys((*earlier.units, *(slot.unit for slot in plan.slots)))
    left = {name: tuple(earlier.kept[name][unit] for unit in kept[name]) for name in kept if name in earlier.kept}
    named = {**earlier.kept, **{name: tuple(units) for name, units in kept.items()}, **left}
    # in the order of all families' plans, so that equal cuts have equal shapes
    order = sorted(units, key=lambda unit: UNITS.index(unit) if unit in UNITS else len(UNITS))
    return Shape(tuple(order), named)


@torch.no_grad()
def _cut_tensor(
    model: nn.Module,
    name: str,
    cuts: list[tuple[Slot, Cut]],
    kept: Kept,
    values: Mapping[str, torch.Tensor] | None,
) -> None:
    module, attribute = owner(model, name)
    old = parameter(model, name)
    tensor = old.detach()
    for slot, cut in cuts:
        if cut.role is Role.SCALE and values is not None:
            tensor = tensor * along(values[slot.name].to(tensor), cut, tensor.dim())
        if cut.dim is not None:
            tensor = tensor.index_select(cut.dim, rows_of(kept[slot.name], cut.block).to(tensor.device))
    new = nn.Parameter(tensor.clone(), requires_grad=old.requires_grad)
    if isinstance(module, nn.LayerNorm) and new.shape != old.shape:
        module = _narrow_norm(model, name, module)
    setattr(module, attribute, new)
    _refit(module)


def rows_of(kept: tuple[int, ...], block: int) -> torch.Tensor:
    """Return the indices along a cut's dimension that kept units occupy, `block` of them each."""
    starts = torch.tensor(kept, dtype=torch.int64) * block
    return (starts[:, None] + torch.arange(block)).flatten()


def _narrow_norm(model: nn.Module, name: str, norm: nn.LayerNorm) -> NarrowLayerNorm:
    """Put a norm in the place of `norm` that keeps counting its original width."""
    path = name.rpartition(".")[0]
    parent, attribute = owner(model, path)
    small = NarrowLayerNorm(norm.weight, norm.bias, norm.eps, norm.normalized_shape[0]).train(norm.training)
    setattr(parent, attribute, small)
    return small


def _refit(module: nn.Module) -> None:
    """Set the sizes that a module states to those of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv1d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = module.weight.shape[0]
