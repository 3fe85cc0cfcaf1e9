"""The multipliers' signs, a target reached from both sides, and its schedule with rests."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybrid_pruning import pruning
from hybrid_pruning.pruning import Cut, Growth, Lagrangian, Plan, Role, Slot, scheduled_target


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
def test_value_and_gradient_signs(sparsity):
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


def test_multipliers_start_at_zero():
    assert Lagrangian()(torch.tensor(0.9), 0.1).item() == 0
    assert {name for name, _ in Lagrangian().named_parameters()} == {"lambda1", "lambda2"}


@pytest.mark.parametrize(("clamp", "projected"), [(False, -1.0), (True, 0.0)])
def test_projection(clamp, projected):
    lagrangian = Lagrangian(clamp=clamp)
    lagrangian.lambda1.data.fill_(-1.0)
    lagrangian.lambda2.data.fill_(-1.0)
    lagrangian.project()
    assert lagrangian.lambda1.item() == projected
    assert lagrangian.lambda2.item() == -1.0
    lagrangian.lambda1.data.fill_(1.0)
    lagrangian.project()
    assert lagrangian.lambda1.item() == 1.0


def gated_mlp(drop_rate):
    mlp = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
    cuts = (Cut("0.weight", 0, Role.DROP), Cut("0.bias", 0, Role.DROP), Cut("2.weight", 1, Role.SCALE))
    return pruning.attach(mlp, plan=Plan((Slot("hidden", "neuron", 64, cuts),)), drop_rate=drop_rate)


def train(gates, lagrangian, optimizer, target):
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
def test_reaches_its_target_from_both_sides(drop_rate, target, optimizer, clamp):
    torch.manual_seed(0)
    gates = gated_mlp(drop_rate)
    below = gates.budget().sparsity.item() < target
    history = train(gates, Lagrangian(clamp), optimizer, target)
    assert (history[0][0] < target) == below == (drop_rate < target)
    assert abs(history[-1][0] - target) <= 0.01
    half_a_neuron = gates.accounting.unit_costs("params")[0] / gates.accounting.dense_params / 2
    assert abs(gates.accounting.exact_kept(gates.kept(target=target)).sparsity - target) <= half_a_neuron + 1e-9
    lambda1 = [multiplier for _, multiplier in history]
    assert min(lambda1) >= 0 or not clamp
    if below and not clamp:
        assert lambda1[0] < 0, "a free multiplier pushes the sparsity up"
    if not below:
        assert lambda1[0] > 0


SCHEDULES = ("linear", "cosine", "exponential", "expm1", "sigmoid")
fractions = st.floats(0, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(start=fractions, end=fractions, beyond=st.floats(1, 1e6), before=st.floats(-1e6, 0))
@settings(deadline=None)
def test_exact_at_both_ends(schedule, start, end, beyond, before):
    assert scheduled_target(schedule, 0, start, end) == scheduled_target(schedule, before, start, end) == start
    assert scheduled_target(schedule, 1, start, end) == scheduled_target(schedule, beyond, start, end) == end


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(start=fractions, end=fractions, one=st.floats(-0.5, 1.5), other=st.floats(-0.5, 1.5))
@settings(deadline=None)
def test_monotone_and_within_its_ends(schedule, start, end, one, other):
    early, late = (scheduled_target(schedule, at, start, end) for at in sorted((one, other)))
    rounding = 1e-15
    assert (late - early) * math.copysign(1, end - start) >= -rounding
    assert min(start, end) - rounding <= early <= max(start, end) + rounding


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_jumps(schedule):
    points = [scheduled_target(schedule, step / 1000, 0.1, 0.7) for step in range(1001)]
    steps = [b - a for a, b in pairwise(points)]
    assert max(steps) < 0.6 * 6 / 1000
    assert min(steps) > 0


@pytest.mark.parametrize(
    ("schedule", "early", "middle"),
    [("linear", 0.25, 0.5), ("cosine", 0.1464, 0.5), ("exponential", 0.0625, 0.25), ("expm1", 0.0169, 0.0759)],
)
def test_shapes(schedule, early, middle):
    assert scheduled_target(schedule, 0.25, 0, 1) == pytest.approx(early, abs=1e-4)
    assert scheduled_target(schedule, 0.5, 0, 1) == pytest.approx(middle, abs=1e-4)
    assert scheduled_target("sigmoid", 0.25, 0, 1) < scheduled_target("cosine", 0.25, 0, 1)


POINTS = (0.3, 0.5, 0.65)
growths = pytest.mark.parametrize("rest", [0, 1, 7])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [2, 5.5, 100])
@growths
def test_rests_delay_the_target_and_change_nothing_else(schedule, warmup, rest):
    way, plain = Growth(schedule, 0.1, 0.7, warmup, POINTS, rest), Growth(schedule, 0.1, 0.7, warmup)
    steps = math.ceil(warmup) + rest * len(POINTS) + 3
    targets = [way.target(step) for step in range(steps)]
    assert targets == sorted(targets)
    assert targets[0] == 0.1
    assert targets[-1] == targets[-2] == 0.7, "and stays there"
    resting = [step for step in range(steps) if way.rested(step)]
    assert len(resting) == rest * len(POINTS)
    assert [targets[step] for step in resting] == [point for point in POINTS for _ in range(rest)]
    grown = [target for step, target in enumerate(targets) if step not in resting]
    assert grown == [plain.target(step) for step in range(len(grown))]


@pytest.mark.parametrize("schedule", SCHEDULES)
@growths
def test_the_target_passes_each_point_once(schedule, rest):
    way = Growth(schedule, 0.0, 0.7, 40, POINTS, rest)
    for point, steps in zip(POINTS, way.last_steps(), strict=True):
        assert way.target(steps - 1) <= point < way.target(steps)
        assert way.rested(steps - 1) == (1 if rest else 0), "a snapshot is taken when the rest is over"


def test_rests_are_measured_from_0_to_1_and_a_jump_passes_no_point():
    way = Growth("linear", 0.0, 0.8, 5, (0.4,), 4)
    assert [way.rested(step) for step in range(9)] == [0, 0, 0.25, 0.5, 0.75, 1, 0, 0, 0]
    assert [way.target(step) for step in range(9)] == [0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, pytest.approx(0.6), 0.8]
    assert way.last_steps() == [7], "the point is the schedule's own, too"
    assert Growth("cosine", 0.0, 0.7, 0, POINTS).last_steps() == [0, 0, 0]
    stairs = Growth("cosine", 0.0, 0.7, 0, POINTS, 2)
    assert [stairs.target(step) for step in range(7)] == [0.3, 0.3, 0.5, 0.5, 0.65, 0.65, 0.7]
    assert stairs.last_steps() == [2, 4, 6]
