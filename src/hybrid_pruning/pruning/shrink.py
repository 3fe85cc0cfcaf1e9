"""Plan + kept units -> narrow modules, the masked model's function in a smaller model; and back to the dense shape.

Whatever a gate multiplied is folded into the weights; nothing is approximated (masked == shrunk, ARCHITECTURE.md).
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from hybrid_pruning.pruning.attach import detach
from hybrid_pruning.pruning.plan import (
    UNITS,
    Cut,
    Kept,
    Plan,
    PlanError,
    Role,
    Shape,
    Slot,
    along,
    owner,
    parameter,
    plan_for,
    shape_of,
)

if TYPE_CHECKING:
    from hybrid_pruning.pruning.gate import Gates

Model = TypeVar("Model", bound=nn.Module)


class NarrowLayerNorm(nn.Module):
    """A layer norm over channels of which some are gone but still count, as the zeros they were while masked.

    Weight and bias are [kept], or None; the width is the dense model's number of channels, which statistics are over.
    """

    def __init__(self, weight: nn.Parameter | None, bias: nn.Parameter | None, eps: float, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.width = weight, bias, eps, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [..., kept] over its last dimension."""
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(full, dim=-1, correction=0, keepdim=True)
        share = x.shape[-1] / self.width
        # of the kept channels and (width - kept) zeros together
        variance = share * variance + share * (1 - share) * mean.square()
        y = ((full - share * mean) * torch.rsqrt(variance + self.eps)).to(x.dtype)
        if self.weight is not None:
            y = y * self.weight
        return y if self.bias is None else y + self.bias


class Closed(nn.Module):
    """A sub-layer that lost all its units: its output bias [D], or nothing where it is closed as a whole.

    It returns as many values as the sub-layer it replaces; those beyond the first are None.
    """

    def __init__(self, bias: nn.Parameter | None = None, outputs: int = 1) -> None:
        super().__init__()
        self.bias, self.outputs = bias, outputs

    def forward(self, hidden_states: torch.Tensor, **_: object) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """Return what broadcasts onto the residual stream: [D], or a zero; the argument's name is transformers'."""
        y = hidden_states.new_zeros(()) if self.bias is None else self.bias
        return y if self.outputs == 1 else (y, *[None] * (self.outputs - 1))


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
        path = name.rpartition(".")[0]  # a norm in its place that keeps counting its original width
        small = NarrowLayerNorm(module.weight, module.bias, module.eps, module.normalized_shape[0])
        setattr(*owner(model, path), small.train(module.training))
        module = small
    setattr(module, attribute, new)
    _refit(module)


def rows_of(kept: tuple[int, ...], block: int) -> torch.Tensor:
    """Return the indices along a cut's dimension that kept units occupy, `block` of them each."""
    starts = torch.tensor(kept, dtype=torch.int64) * block
    return (starts[:, None] + torch.arange(block)).flatten()


def _refit(module: nn.Module) -> None:
    """Set the sizes that a module states to those of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv1d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = module.weight.shape[0]


@torch.no_grad()
def widen(small: nn.Module, dense: Model) -> Model:
    """Fill a dense model so that it computes the same as a narrow one of its kind; not smaller or faster.

    A unit of zero weights gives zero, before its activation and after it, and a norm over channels sees it as the zero
    that it counts as in the narrow model. The dense one is a fresh model of the same config, changed in place; models
    of different configs are a PlanError.
    """
    shape = shape_of(small) or Shape((), {})
    plan = plan_for(dense).only(shape.units) if shape.units else Plan(())
    plan.check_kept(shape.kept)
    kept, cuts = shape.kept, plan.cuts_by_tensor()
    for name, _ in list(dense.named_parameters()):
        found = _find(small, name)
        if found is None and name not in cuts:
            raise PlanError(f"{name}: the narrow model has no such parameter; are the two of one config?")
        _fill(name, parameter(dense, name), found, cuts.get(name, []), kept)
    for name, buffer in small.named_buffers():
        dense.get_buffer(name).copy_(buffer)
    return dense


def _find(small: nn.Module, name: str) -> torch.Tensor | None:
    """Return the parameter of a narrow model that a dense one's becomes; None where it went with its sub-layer."""
    module: nn.Module = small
    *path, attribute = name.split(".")
    for depth, part in enumerate(path):
        if isinstance(module, Closed):
            output = path[depth:] in (["out_proj"], ["output_dense"]) and attribute == "bias"
            return module.bias if output else None
        if part not in module._modules:
            return None
        module = module.get_submodule(part)
    return getattr(module, attribute, None)


def _fill(
    name: str, tensor: torch.Tensor, found: torch.Tensor | None, cuts: list[tuple[Slot, Cut]], kept: Kept
) -> None:
    """Put the values of the kept units in their places, and zeros in all others."""
    tensor.zero_()
    if found is None:
        return
    places = [torch.arange(size) for size in tensor.shape]
    for slot, cut in cuts:
        if cut.dim is not None:
            places[cut.dim] = rows_of(kept[slot.name], cut.block)
    if list(found.shape) != [len(indices) for indices in places]:
        raise PlanError(f"{name}: the narrow model's is {list(found.shape)}; are the two of one config?")
    tensor[torch.meshgrid(*places, indexing="ij")] = found.to(tensor)
