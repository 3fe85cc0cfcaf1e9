"""The plan: a declaration of which slice of which tensor belongs to which gate, checked against the model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import gcd

import torch
from torch import nn
from torch.nn.utils import parametrize

UNITS = ("conv", "head", "attlayer", "interm", "ffnlayer")
"""Kinds of units that a plan may have, in the order of every shape."""
Kept = Mapping[str, tuple[int, ...]]
"""Slot name -> the indices of its kept units, ascending."""


class PlanError(ValueError):
    """The plan and the model do not fit each other; the message names slot, tensor and sizes."""


class Role(StrEnum):
    """The effect of a gate on a slice until shrinking, when every slice vanishes with its unit.

    DROP: nothing; the unit is already silenced elsewhere (the producer's rows).
    SCALE: multiplied by the gate's value, which folds into the weights when shrinking (the consumer's columns).
    HARD: zeroed whenever the gate is 0, untouched otherwise (in front of a norm, which would see the unit).
    """

    DROP = "drop"
    SCALE = "scale"
    HARD = "hard"


@dataclass(frozen=True, slots=True)
class Shape:
    """The kinds of units of a narrowed model that had gates, and those kept: the same cut for a fresh skeleton."""

    units: tuple[str, ...]
    kept: Kept


@dataclass(frozen=True, slots=True)
class Cut:
    """One slice of one tensor.

    Args:
        tensor: the parameter's name in the model.
        dim: the dimension the slot's units lie along, or None where the whole tensor is kept while any unit is.
        role: the gate's effect on it before shrinking.
        block: rows or columns per unit (a head has head_dim of them).
        multiplied: whether the gate's gradient from this slice is scaled by the model's `extractor_gradient`, as the
            model scales that of all that lies before the slice.
    """

    tensor: str
    dim: int | None
    role: Role
    block: int = 1
    multiplied: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """A place one gate controls.

    Args:
        name: e.g. ``head.3``.
        unit: the kind of unit, e.g. ``head``.
        size: the number of its units.
        cuts: the slices that are removed with a unit.
        swap: further changes of a narrowed model: (model, indices of the kept units) -> None.
        at_least: units that are kept whatever the gate says.
        step: units are kept in multiples of it, or all of them.
    """

    name: str
    unit: str
    size: int
    cuts: tuple[Cut, ...]
    swap: Callable[[nn.Module, tuple[int, ...]], None] | None = None
    at_least: int = 0
    step: int = 1

    @property
    def layer(self) -> int | None:
        """The layer it lies in, which its name ends with; None in front of all layers."""
        return None if self.unit == "conv" else int(self.name.rpartition(".")[2])

    def aligned(self, multiple: int) -> "Slot":
        """Return the slot with steps that keep the widths of its tensors multiples of a number, or what they were.

        A head of 64 rows is such a multiple by itself; a slot smaller than one step keeps all its units or none.
        """
        step = multiple // gcd(multiple, max((cut.block for cut in self.cuts), default=1))
        return replace(self, step=step, at_least=min(-(-self.at_least // step) * step, self.size))

    def round(self, count: int) -> int:
        """Return the number of units closest to `count` that may be kept; of two, the larger."""
        below = count // self.step * self.step
        above = min(below + self.step, self.size)
        return max(below if count - below < above - count else above, self.at_least)


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-accumulates of the dense model without a weight of their own, such as attention's two products.

    They are in proportion to the kept fractions of their slots.
    """

    macs: int
    slots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All slots of a model, in the order they are shrunk in, and where its multiply-accumulates come from.

    Positions are parameter name -> how often each of its weights is used for one utterance.
    """

    slots: tuple[Slot, ...]
    positions: Mapping[str, int] = field(default_factory=dict)
    work: tuple[Work, ...] = ()

    def only(self, units: Iterable[str]) -> "Plan":
        """Return the plan with the slots of the given units alone, as `check_units` takes them."""
        units = tuple(units)
        self.check_units(units)
        return replace(self, slots=tuple(slot for slot in self.slots if slot.unit in units))

    def aligned(self, multiple: int) -> "Plan":
        """Return the plan with slots whose kept widths are multiples of a number, 1 at least."""
        if multiple < 1:
            raise PlanError(f"align {multiple}: expected a width of at least 1")
        return replace(self, slots=tuple(slot.aligned(multiple) for slot in self.slots))

    def check_units(self, units: Iterable[str]) -> None:
        """Raise PlanError unless there are units and every one is of a kind that some slot has."""
        known = ", ".join(sorted({slot.unit for slot in self.slots}))
        units = tuple(units)
        if not units:
            raise PlanError(f"no units to prune; this model has: {known}")
        for unit in units:
            if all(slot.unit != unit for slot in self.slots):
                raise PlanError(f"unit '{unit}' is unknown; this model has: {known}")

    def cuts_by_tensor(self) -> dict[str, list[tuple[Slot, Cut]]]:
        """Return every cut tensor's name with the cuts that touch it."""
        found: dict[str, list[tuple[Slot, Cut]]] = {}
        for slot in self.slots:
            for cut in slot.cuts:
                found.setdefault(cut.tensor, []).append((slot, cut))
        return found

    def all_units(self) -> dict[str, tuple[int, ...]]:
        """Return the kept units of the dense model: all of them."""
        return {slot.name: tuple(range(slot.size)) for slot in self.slots}

    def check_kept(self, kept: Kept) -> None:
        """Raise PlanError unless `kept` names every slot, with ascending indices of units that exist."""
        names = {slot.name for slot in self.slots}
        if unknown := sorted(set(kept) ^ names):
            raise PlanError(f"kept units and slots differ at '{unknown[0]}'; every slot needs its list of kept units")
        for slot in self.slots:
            units = list(kept[slot.name])
            if units != sorted(set(units)) or any(not 0 <= unit < slot.size for unit in units):
                raise PlanError(f"slot '{slot.name}': kept units must be ascending, distinct and below {slot.size}")
            if len(units) < slot.at_least:
                raise PlanError(f"slot '{slot.name}': {len(units)} units kept, at least {slot.at_least} must be")

    def check(self, model: nn.Module) -> None:
        """Raise PlanError unless every cut fits the model's tensors."""
        names = [slot.name for slot in self.slots]
        for name in names:
            if names.count(name) > 1:
                raise PlanError(f"slot '{name}' is declared twice")
        for slot in self.slots:
            for cut in slot.cuts:
                _check_cut(model, slot, cut)
        for tensor in self.positions:
            parameter(model, tensor)


def plan_for(model: nn.Module, seconds: float = 4.0) -> Plan:
    """Return the plan that a model declares by its method `plan`, with MACs for one utterance of `seconds`.

    A model that declares none, or an utterance too short for it, is a PlanError.
    """
    declared = getattr(model, "plan", None)
    if declared is None:
        family = getattr(getattr(model, "config", None), "model_type", None)
        raise PlanError(f"no plan for models of type '{family}'; give one, or load the model with load_backbone")
    plan: Plan = declared(seconds)
    return plan


def shape_of(model: nn.Module) -> Shape | None:
    """Return the shape that a model was cut to, None while it is dense."""
    shape = getattr(model, "shape", None)
    return shape if isinstance(shape, Shape) else None


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    """Return a parameter by name, the unmasked one where the module is parametrised; PlanError where there is none."""
    module, attribute = owner(model, name)
    if parametrize.is_parametrized(module, attribute):
        tensor = getattr(module.parametrizations[attribute], "original", None)  # type: ignore[index]
    else:
        tensor = getattr(module, attribute, None)
    if not isinstance(tensor, nn.Parameter):
        raise PlanError(f"{name}: the model has no such parameter; is this checkpoint already shrunk?")
    return tensor


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds the named parameter and the attribute it goes by; PlanError where there is none."""
    path, _, attribute = name.rpartition(".")
    try:
        return model.get_submodule(path), attribute
    except AttributeError as error:
        raise PlanError(f"{name}: the model has no module '{path}'; is this checkpoint already shrunk?") from error


def along(vector: torch.Tensor, cut: Cut, dims: int) -> torch.Tensor:
    """Shape one value per unit so that it broadcasts along the cut's dimension of a tensor with `dims` dimensions."""
    if cut.dim is None:
        return vector
    shape = [1] * dims
    shape[cut.dim] = -1
    return vector.repeat_interleave(cut.block).view(shape)


def _check_cut(model: nn.Module, slot: Slot, cut: Cut) -> None:
    tensor = parameter(model, cut.tensor)
    if cut.dim is None:
        if cut.role is not Role.DROP and slot.size != 1:
            raise PlanError(f"slot '{slot.name}': {cut.tensor} as a whole can only be scaled by a slot of one unit")
        return
    if not 0 <= cut.dim < tensor.dim():
        raise PlanError(f"slot '{slot.name}': {cut.tensor} has {tensor.dim()} dimensions, the cut is along {cut.dim}")
    found, needed = tensor.shape[cut.dim], slot.size * cut.block
    if found != needed:
        raise PlanError(
            f"slot '{slot.name}': {cut.tensor} has {found} entries along dimension {cut.dim}, "
            f"{slot.size} units x {cut.block} need {needed}; is this checkpoint already shrunk?"
        )
