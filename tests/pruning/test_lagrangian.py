"""The multipliers' signs, and a target that is reached from both sides."""

import pytest
import torch
from torch import nn

from hybrid_pruning import pruning
from hybrid_pruning.pruning import Cut, Gates, Lagrangian, Plan, Role, Slot


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
def test_value_and_gradient_signs(sparsity: float) -> None:
    target, lagrangian = 0.5, Lagrangian()
    lagrangian.lambda1.data.fill_(0.3)
    lagrangian.lambda2.data.fill_(2.0)
    s = torch.tensor(sparsity, dtype=torch.float64, requires_grad=True)
    loss = lagrangian(s, target)
    loss.backward()
    excess = sparsity - target
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.3 * excess + 2 * excess**2, rel=1e-5)
    assert lagrangian.lambda1.grad.item() == pytest.approx(excess), "ascends while the model is too sparse"
    assert lagrangian.lambda2.grad.item() == pytest.approx(excess**2), "never descends"
    assert s.grad.item() == pytest.approx(0.3 + 4 * excess, rel=1e-5)


def test_multipliers_start_at_zero() -> None:
    assert Lagrangian()(torch.tensor(0.9), 0.1).item() == 0
    assert {name for name, _ in Lagrangian().named_parameters()} == {"lambda1", "lambda2"}


@pytest.mark.parametrize(("clamp", "projected"), [(False, -1.0), (True, 0.0)])
def test_projection(clamp: bool, projected: float) -> None:
    lagrangian = Lagrangian(clamp=clamp)
    lagrangian.lambda1.data.fill_(-1.0)
    lagrangian.lambda2.data.fill_(-1.0)
    lagrangian.project()
    assert lagrangian.lambda1.item() == projected
    assert lagrangian.lambda2.item() == -1.0
    lagrangian.lambda1.data.fill_(1.0)
    lagrangian.project()
    assert lagrangian.lambda1.item() == 1.0


def gated_mlp(drop_rate: float) -> Gates:
    mlp = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
    cuts = (Cut("0.weight", 0, Role.DROP), Cut("0.bias", 0, Role.DROP), Cut("2.weight", 1, Role.SCALE))
    return pruning.attach(mlp, plan=Plan((Slot("hidden", "neuron", 64, cuts),)), drop_rate=drop_rate)


def train(gates: Gates, lagrangian: Lagrangian, optimizer: str, target: float) -> list[tuple[float, float]]:
    """Let only the constraint act; returns (sparsity, lambda1) step by step."""
    if optimizer == "sgd":
        pruner = torch.optim.SGD(gates.parameters(), lr=20.0)
        multipliers = torch.optim.SGD(lagrangian.parameters(), lr=0.5, maximize=True)
    else:
        pruner = torch.optim.Adam(gates.parameters(), lr=0.05)
        multipliers = torch.optim.Adam(lagrangian.parameters(), lr=0.05, maximize=True)
    history = []
    for _ in range(450):
        for each in (pruner, multipliers):
            each.zero_grad()
        sparsity = gates.budget().sparsity
        lagrangian(sparsity, target).backward()
        for each in (pruner, multipliers):
            each.step()
        lagrangian.project()
        history.append((sparsity.item(), lagrangian.lambda1.item()))
    return history


@pytest.mark.parametrize("clamp", [False, True], ids=["free", "clamped"])
@pytest.mark.parametrize(
    ("optimizer", "drop_rate", "target"), [("adam", 0.01, 0.5), ("sgd", 0.5, 0.7), ("adam", 0.8, 0.2)]
)
def test_reaches_its_target_from_both_sides(drop_rate: float, target: float, optimizer: str, clamp: bool) -> None:
    torch.manual_seed(0)
    gates = gated_mlp(drop_rate)
    below = gates.budget().sparsity.item() < target
    history = train(gates, Lagrangian(clamp), optimizer, target)
    assert (history[0][0] < target) == below == (drop_rate < target)
    assert abs(history[-1][0] - target) <= 0.01
    half_a_neuron = gates.accounting.unit_cost(0, "params") / gates.accounting.dense_params / 2
    assert abs(gates.accounting.exact_kept(gates.kept(target=target)).sparsity - target) <= half_a_neuron + 1e-9
    lambda1 = [multiplier for _, multiplier in history]
    assert min(lambda1) >= 0 or not clamp
    if below and not clamp:
        assert lambda1[0] < 0, "a free multiplier pushes the sparsity up"
    if not below:
        assert lambda1[0] > 0
