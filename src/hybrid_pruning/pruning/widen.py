"""The way back: a narrow model's weights in a dense one, with zeros where units were cut out."""

from typing import TypeVar

import torch
from torch import nn

from hybrid_pruning.pruning.narrow import Closed
from hybrid_pruning.pruning.plan import Cut, Kept, Plan, PlanError, Shape, Slot, parameter, plan_for, shape_of
from hybrid_pruning.pruning.shrink import rows_of

Model = TypeVar("Model", bound=nn.Module)


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
