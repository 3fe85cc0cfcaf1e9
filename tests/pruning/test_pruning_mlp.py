"""The core is independent of speech: a hand-written plan for a multi-layer perceptron, and plans that do not fit it."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hybrid_pruning import pruning
from hybrid_pruning.pruning import Cut, Gates, Plan, PlanError, Role, Slot, Work
from hybrid_pruning.pruning.attach import Product
from hybrid_pruning.pruning.shrink import Closed

ROWS = 5


class Mlp(nn.Module):
    """Two layers beside a residual stream: norm(first(x)) -> second, added to x."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.PReLU(), nn.Linear(10, 6))

    def forward(self, x):
        return x + self.body(x)


def neurons(**changes):
    cuts = (
        Cut("body.0.weight", 0, Role.HARD, 2),
        Cut("body.0.bias", 0, Role.HARD, 2),
        Cut("body.1.weight", 0, Role.DROP, 2),
        Cut("body.1.bias", 0, Role.DROP, 2),
        Cut("body.2.weight", None, Role.DROP),
        Cut("body.3.weight", 1, Role.SCALE, 2),
    )

    def swap(model, kept):
        if not kept:
            model.body = Closed(model.body[3].bias)

    return Slot(**{"name": "pair", "unit": "pair", "size": 5, "cuts": cuts, "swap": swap, **changes})


def whole(**changes):
    names = [f"body.{index}.{kind}" for index in (0, 1) for kind in ("weight", "bias")]
    cuts = [Cut(name, None, Role.DROP) for name in (*names, "body.2.weight")]
    cuts += [Cut("body.3.weight", None, Role.SCALE), Cut("body.3.bias", None, Role.SCALE)]

    def swap(model, kept):
        if not kept:
            model.body = Closed()

    return Slot(**{"name": "body", "unit": "layer", "size": 1, "cuts": tuple(cuts), "swap": swap, **changes})


PLAN = Plan((neurons(), whole()), {"body.0.weight": ROWS, "body.3.weight": ROWS})
KEPT = {
    "all": {"pair": (0, 1, 2, 3, 4), "body": (0,)},
    "some": {"pair": (1, 2, 4), "body": (0,)},
    "one": {"pair": (3,), "body": (0,)},
    "none": {"pair": (), "body": (0,)},
    "no layer": {"pair": (0, 4), "body": ()},
    "nothing": {"pair": (), "body": ()},
}


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    model = Mlp()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT.keys())
def test_attach_budget_shrink(kept, mlp):
    x = torch.randn(ROWS, 6)
    gates = pruning.attach(mlp, plan=PLAN)
    for gate in gates.values():
        gate.log_alpha.data.normal_()
    gates.pin(kept)
    with torch.no_grad():
        masked = mlp(x)
        small = pruning.shrink(mlp, gates)
        assert torch.allclose(small(x), masked, rtol=1e-5, atol=1e-6)
        with FlopCounterMode(display=False) as counter:
            small(x)
    budget = pruning.budget(mlp, gates, kept)
    assert budget.params == sum(p.numel() for p in small.parameters())
    assert budget.macs == counter.get_total_flops() / 2
    assert (budget.dense_params, budget.dense_macs) == (6 * 10 + 10 + 20 + 1 + 10 * 6 + 6, 2 * ROWS * 60)


def test_narrow_without_values_takes_the_weights_as_they_are(mlp):
    gates = pruning.attach(mlp, plan=PLAN)
    gates.pin(KEPT["some"])
    small, again = pruning.shrink(mlp, gates), Mlp()
    pruning.narrow(again, PLAN, KEPT["some"])
    again.load_state_dict(small.state_dict(), strict=True)
    x = torch.randn(3, 6)
    assert torch.equal(again(x), small(x))


def test_parts_of_a_plan(mlp):
    """Slots left out, no multiply-accumulates declared, and work that shrinks with its slots."""
    gates = pruning.attach(mlp, units=["pair"], plan=PLAN)
    assert list(gates) == ["pair"]
    assert pruning.budget(mlp, gates, {"pair": ()}).params == 6
    without_macs = pruning.attach(Mlp(), plan=Plan((neurons(),))).accounting.exact_kept({"pair": (0,)})
    assert without_macs.dense_macs == 0
    assert 0 < without_macs.sparsity < 1
    working = pruning.attach(Mlp(), plan=Plan(PLAN.slots, {}, (Work(1000, ("pair", "body")),))).accounting
    assert [working.exact_kept(KEPT[name]).macs for name in ("some", "no layer")] == [600, 0]


def test_training_the_gates_of_an_mlp(mlp):
    gates = pruning.attach(mlp.train(), plan=PLAN, drop_rate=0.5)
    for _ in range(20):
        gates.sample()
        mlp(torch.randn(8, 6)).square().sum().backward()
    assert all((gate.log_alpha.grad != 0).all() for gate in gates.values())


def cut(name, dimension, block=1):
    return (neurons(cuts=(Cut(name, dimension, Role.SCALE if dimension is None else Role.HARD, block),)),)


# name -> (slots, a unit asked for, part of the message)
MISDECLARED = {
    "wrong size": ((neurons(size=6),), None, r"'pair': body\.0\.weight has 10 entries .* 6 units x 2 need 12"),
    "wrong block": (cut("body.0.bias", 0, 3), None, r"bias has 10 entries along dimension 0, 5 units x 3 need 15"),
    "no such dimension": (cut("body.0.bias", 1, 2), None, r"body\.0\.bias has 1 dimensions, the cut is along 1"),
    "negative dimension": (cut("body.0.bias", -1, 2), None, "the cut is along -1"),
    "unknown tensor": (cut("body.0.gain", 0), None, r"body\.0\.gain: .* no such param"),
    "unknown module": (cut("body.9.bias", 0), None, r"no module 'body\.9'"),
    "not a parameter": (cut("body.training", 0), None, "no such parameter"),
    "slot twice": ((neurons(), neurons()), None, "slot 'pair' is declared twice"),
    "unknown unit": ((neurons(), whole()), "head", "unit 'head' is unknown; this model has: layer, pair"),
    "whole by many": (cut("body.3.weight", None), None, "as a whole can only be scaled by a slot of one unit"),
}


@pytest.mark.parametrize(("slots", "unit", "message"), MISDECLARED.values(), ids=MISDECLARED.keys())
def test_misdeclared_plans_are_refused(slots, unit, message, mlp):
    keys = list(mlp.state_dict())
    with pytest.raises(PlanError, match=message):
        pruning.attach(mlp, None if unit is None else (unit,), plan=Plan(slots))
    with pytest.raises(PlanError, match=r"body\.7"):
        pruning.attach(mlp, plan=Plan((neurons(),), {"body.7.weight": 1}))
    assert list(mlp.state_dict()) == keys, "a refused plan leaves the model alone"


def test_a_second_attach_and_a_model_without_a_plan_are_refused(mlp):
    with pytest.raises(PlanError, match="no plan for models of type 'None'"):
        pruning.attach(mlp)
    pruning.attach(mlp, plan=PLAN)
    with pytest.raises(PlanError, match=r"already; detach\(\)"):
        pruning.attach(mlp, plan=PLAN)
    pruning.detach(mlp)
    assert isinstance(pruning.attach(mlp, plan=PLAN), Gates)


@pytest.mark.parametrize("shape", [(1,), (1, 6), (4, 1), (4, 6)])
def test_masked_weights_have_torchs_gradients(shape):
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    factor = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Product.apply, (weight, factor))
