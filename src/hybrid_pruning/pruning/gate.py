"""Hard Concrete gates: the parameter learnt for each unit, and the factor on its weights.

Source: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018, equations 10-12; of
binary gates Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8 (Taylor).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hybrid_pruning.pruning import select
from hybrid_pruning.pruning.budget import Accounting, Budget, Constraint
from hybrid_pruning.pruning.plan import Kept, Plan, PlanError, Slot

TEMPERATURE = 2 / 3
STRETCH = (-0.1, 1.1)
NOISE_EPS = 1e-6
SEED_STRIDE = 2_654_435_761
"""Draws between the noise of one seed and the next, of 2**32: torch's CPU generator reads no more bits of a seed."""
DROP_RATE = 0.01
"""Probability of a fresh gate to be closed, before stretching. The public recipe starts its FFN neurons at 0.5, which
is 10% sparsity before the first step; an experiment in dev/LOG.md is why we do not."""
LIMIT = 20.0
"""Largest shift of log_alpha by one projection."""
TINY, DECAY = 1e-30, 0.99


def hard_concrete(log_alpha: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return gate values in [0, 1] from uniform noise in [0, 1], same shape (equations 10 and 11)."""
    u = uniform.clamp(NOISE_EPS, 1 - NOISE_EPS)
    concrete = torch.sigmoid((u.log() - (-u).log1p() + log_alpha) / TEMPERATURE)
    return (concrete * (STRETCH[1] - STRETCH[0]) + STRETCH[0]).clamp(0, 1)


def open_probability(log_alpha: torch.Tensor) -> torch.Tensor:
    """Return the probability that a sampled gate is not 0 (equation 12)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-STRETCH[0] / STRETCH[1]))


def soft_value(log_alpha: torch.Tensor) -> torch.Tensor:
    """Return the factor of an open gate in evaluation, sigmoid(0.8 log_alpha / temperature), as the public recipe.

    The floor separates a unit that is pinned although its gate is closed from one that is removed.
    """
    return torch.sigmoid(0.8 * log_alpha / TEMPERATURE).clamp_min(1e-6)


class Gate(nn.Module):
    """The gate of one slot; the drop rate is the probability of a unit to start closed, in (0, 1).

    Attributes:
        log_alpha: the learnt parameter, [units] float32; large is open.
        sampled: the values of the last `Gates.sample()`, or None.
        pinned: the units that evaluation keeps whatever log_alpha says, or None.
        binary: whether its values are 0 or 1, as `Gates.choose` chooses; log_alpha is then a log-importance.
    """

    def __init__(self, slot: Slot, drop_rate: float = DROP_RATE, binary: bool = False) -> None:
        super().__init__()
        if not 0 < drop_rate < 1:
            raise PlanError(f"slot '{slot.name}': drop rate {drop_rate} must lie between 0 and 1")
        self.slot = slot
        self.log_alpha = nn.Parameter(torch.full((slot.size,), math.log(1 - drop_rate) - math.log(drop_rate)))
        self.sampled: torch.Tensor | None = None
        self.pinned: tuple[int, ...] | None = None
        self.binary = binary

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: the sample as values, since torch copies no tensor that has a history."""
        return {**self.__dict__, "sampled": None if self.sampled is None else self.sampled.detach()}

    def value(self, training: bool) -> torch.Tensor:
        """Return the [units] factors on the weights: sampled in training, deterministic otherwise."""
        if not training:
            return self.deterministic()
        if self.sampled is None:
            raise RuntimeError(f"gate '{self.slot.name}' has no sample; call gates.sample() once before each step")
        return self.sampled

    @torch.no_grad()
    def deterministic(self) -> torch.Tensor:
        """Return the [units] evaluation values: soft for kept units, 0 for the others."""
        mask = torch.zeros_like(self.log_alpha)
        mask[list(self.kept())] = 1
        return self.factors() * mask

    @torch.no_grad()
    def factors(self) -> torch.Tensor:
        """Return the [units] factors of open gates in evaluation."""
        return torch.ones_like(self.log_alpha) if self.binary else soft_value(self.log_alpha)

    @torch.no_grad()
    def kept(self) -> tuple[int, ...]:
        """Return the pinned units, or all but the round(n - E[L0]) with the smallest log_alpha, in the slot's steps."""
        if self.pinned is not None:
            return self.pinned
        size = self.slot.size
        if self.binary:  # the last choice, all before the first
            return tuple(range(size)) if self.sampled is None else tuple(self.sampled.nonzero().flatten().tolist())
        log_alpha = self.log_alpha.cpu()  # so that every device keeps the same
        closed = round(size - float(open_probability(log_alpha).sum()))
        order = torch.argsort(log_alpha, descending=True, stable=True)
        return tuple(sorted(order[: self.slot.round(size - closed)].tolist()))


class Gates(nn.Module):
    """All gates of a model: a mapping from slot name to gate.

    Args:
        drop_rate: probability of units to start closed, one number or one per unit kind.
        seed: of the noise, which is a function of (seed, number of samples drawn) alone: every rank draws the same.
        binary: gates of 0 or 1, by `choose`, instead of sampled ones; log_alpha is then a log-importance.
    """

    def __init__(
        self,
        plan: Plan,
        accounting: Accounting,
        drop_rate: float | Mapping[str, float] = DROP_RATE,
        seed: int = 0,
        binary: bool = False,
    ) -> None:
        super().__init__()
        self.plan, self.accounting, self.seed, self.binary = plan, accounting, seed, binary
        self.draws = 0
        self._gates: dict[str, Gate] = {}
        for slot in plan.slots:
            rate = drop_rate.get(slot.unit, DROP_RATE) if isinstance(drop_rate, Mapping) else drop_rate
            self._gates[slot.name] = self._register(slot.name, Gate(slot, rate, binary))
        sizes = [slot.size for slot in plan.slots]
        self.slot_of: torch.Tensor
        self.register_buffer("slot_of", torch.repeat_interleave(torch.tensor(sizes)), persistent=False)

    def __getitem__(self, name: str) -> Gate:
        if name not in self._gates:
            raise KeyError(f"no gate '{name}'; there are: {', '.join(self._gates)}")
        return self._gates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gates)

    def __len__(self) -> int:
        return len(self._gates)

    def __contains__(self, name: object) -> bool:
        return name in self._gates

    def keys(self) -> Sequence[str]:
        """Return the slot names, in plan order."""
        return tuple(self._gates)

    def values(self) -> Sequence[Gate]:
        """Return the gates, in plan order."""
        return tuple(self._gates.values())

    def items(self) -> Sequence[tuple[str, Gate]]:
        """Return (slot name, gate) pairs, in plan order."""
        return tuple(self._gates.items())

    def log_alpha(self) -> torch.Tensor:
        """Return the [N] log_alpha of all units, in plan order."""
        return torch.cat([gate.log_alpha for gate in self.values()])

    def choose(self, target: float, constraint: Constraint = "params") -> None:
        """Keep the most important units whose exact size meets the target until the next choice; all others are 0.

        A closed unit has a gradient too, of the loss with regard to its factor: it may be opened again. A target out of
        reach is a PlanError.
        """
        log_alpha = self.log_alpha()
        chosen = select.rank_units(self.accounting, self._by_slot(log_alpha.detach().cpu()), target, constraint)
        values = torch.cat([*chosen.values()]).to(log_alpha) + (log_alpha - log_alpha.detach())  # exactly 0 or 1
        for name, value in self._by_slot(values).items():
            self[name].sampled = value

    def sample(self) -> None:
        """Draw fresh gate values; call once per optimiser micro-step, before the forward pass."""
        log_alpha = self.log_alpha()
        generator = torch.Generator().manual_seed((self.seed * SEED_STRIDE + self.draws) % 2**32)
        uniform = torch.rand(log_alpha.shape, generator=generator).to(log_alpha.device)
        self.draws += 1
        for name, value in self._by_slot(hard_concrete(log_alpha, uniform)).items():
            self[name].sampled = value

    def project(self, target: float, constraint: Constraint = "params", tolerance: float = 1e-4) -> None:
        """Shift all log_alpha alike until the expected sparsity is the target; their order stays as it is.

        Without a shift that meets it, as where gates that are always kept are too many, they go as far as `LIMIT`.
        """
        low, high = -LIMIT, LIMIT
        alpha, slot_of = self.log_alpha().detach().cpu(), self.slot_of.cpu()  # one wait for a GPU, not one a try
        for _ in range(40):
            middle = (low + high) / 2
            found = float(self.accounting.expected(open_probability(alpha + middle), slot_of).removed(constraint))
            if abs(found - target) <= tolerance:
                break
            low, high = (middle, high) if found > target else (low, middle)
        for gate in self.values():
            gate.log_alpha.data += middle

    def budget(self) -> Budget:
        """Return the size of the model, with gradients to every log_alpha: expected, or exact of binary gates."""
        if self.binary:
            return self.accounting.exact_kept(self.kept())
        return self.accounting.expected(open_probability(self.log_alpha()), self.slot_of)

    def kept(self, target: float | None = None, constraint: Constraint = "params") -> dict[str, tuple[int, ...]]:
        """Return the surviving units of every slot whose exact count meets a target; None rounds each gate on its own.

        A target that no choice of units meets is a PlanError, which names the range.
        """
        scores = self._by_slot(self.log_alpha().detach().cpu())  # one wait for a GPU
        if self.binary and target is not None:
            chosen = select.rank_units(self.accounting, scores, target, constraint)
            return {name: tuple(mask.nonzero().flatten().tolist()) for name, mask in chosen.items()}
        rounded = {name: gate.kept() for name, gate in self.items()}
        if target is None:
            return rounded
        return select.meet_target(self.accounting, rounded, scores, target, constraint)

    def _by_slot(self, units: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return slot name -> [units] of values [N] of all units, in plan order."""
        return dict(zip(self, units.split([slot.size for slot in self.plan.slots]), strict=True))

    def pin(self, kept: Kept | None) -> None:
        """Make evaluation keep exactly these units; None goes back to each gate's own."""
        if kept is not None:
            self.plan.check_kept(kept)
        for name, gate in self.items():
            gate.pinned = None if kept is None else tuple(kept[name])

    def soft_values(self) -> dict[str, torch.Tensor]:
        """Return every slot's [units] soft values, which shrinking folds into the weights."""
        return {name: gate.factors() for name, gate in self.items()}

    def get_extra_state(self) -> dict[str, int]:
        """Return the noise's position, saved with the gates so that a resumed run continues the same noise."""
        return {"seed": self.seed, "draws": self.draws}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Continue the noise where the saved gates left it."""
        self.seed, self.draws = int(state["seed"]), int(state["draws"])

    def _register(self, name: str, gate: Gate) -> Gate:
        """Register under the slot's dotted name, so that state-dict keys read ``head.3.log_alpha``."""
        group, _, leaf = name.rpartition(".")
        parent: nn.Module = self
        for part in filter(None, group.split(".")):
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, gate)
        return gate


class ImportanceOptimizer(torch.optim.Optimizer):
    """Sets log_alpha to the log of a running mean of its squared gradient, the loss's change without the unit squared.

    With factors of 1 on open units the gradient of the factor is that of Molchanov's expansion.
    """

    def __init__(self, params: Any, decay: float = DECAY) -> None:
        super().__init__(params, {"decay": decay, "lr": 1 - decay, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, _: Any = None) -> None:  # type: ignore[override]
        """Take up the gradients of one step."""
        for group in self.param_groups:
            gates, decay = [gate for gate in group["params"] if gate.grad is not None], group["decay"]
            for gate in gates:
                if not self.state[gate]:
                    self.state[gate].update(mean=torch.zeros_like(gate), steps=0)
                self.state[gate]["steps"] += 1
            if gates:  # the kernels of one gate for all of them: launches are what a GPU's step waits for
                means = [self.state[gate]["mean"] for gate in gates]
                torch._foreach_lerp_(means, torch._foreach_pow([gate.grad for gate in gates], 2), 1 - decay)
                unbiased = torch._foreach_div(means, [1 - decay ** self.state[gate]["steps"] for gate in gates])
                torch._foreach_add_(unbiased, TINY)
                torch._foreach_log_(unbiased)
                torch._foreach_copy_(gates, unbiased)
