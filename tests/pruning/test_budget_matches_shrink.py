"""Invariant 2: what the budget counts is what the shrunk model has, and what it expects is what sampling gives."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from encoders import REPRESENTATIVE, WHISPER, close, shuffle, spread
from hybrid_pruning import pruning
from hybrid_pruning.pruning import Cut, Plan, PlanError, Role, Slot
from hybrid_pruning.pruning.budget import Accounting
from hybrid_pruning.pruning.gate import open_probability
from hybrid_pruning.pruning.select import meet_target, rank_units

MID_SIZE = {"hidden_size": 64, "intermediate_size": 256, "conv_dim": (32, 32, 32, 32)}
"""Fine enough for half a point: no neuron or channel weighs more than 0.3% of the model."""
representative_kinds = pytest.mark.parametrize("kind", REPRESENTATIVE, ids="-".join)
one_kind = pytest.mark.parametrize("kind", REPRESENTATIVE[:1], ids="-".join)
both_constraints = pytest.mark.parametrize("constraint", ["params", "macs"])


@torch.no_grad()
def measured(model, seconds):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, round(16_000 * seconds)))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() / 2


def assert_counted(backbone, gates, case="", seconds=0.2):
    budget = pruning.budget(backbone, gates, gates.kept())
    assert (budget.params, budget.macs) == measured(pruning.shrink(backbone, gates), seconds), case


@pytest.mark.parametrize(("seconds", "align"), [(0.05, 1), (0.3337, 4), (0.25, 32)])
def test_random_masks(seconds, align, backbone):
    gates = pruning.attach(backbone, seconds=seconds, align=align)
    for seed in range(2 if align == 1 else 1):
        shuffle(gates, seed)
        assert_counted(backbone, gates, seed, seconds)


def test_closed(backbone):
    gates = pruning.attach(backbone, seconds=0.2)
    for closed in (("head.0", "interm.1"), ("attlayer.0", "ffnlayer.1"), ("attlayer.*", "ffnlayer.*"), ("*",)):
        spread(gates)
        close(gates, *closed)
        assert_counted(backbone, gates, closed)


@representative_kinds
def test_shrunk_again(backbone):
    gates = pruning.attach(backbone)
    for closed in (("head.0", "interm.1"), ("attlayer.1", "ffnlayer.0"), ("*",)):
        shuffle(gates, seed=0)
        close(gates, *closed)
        small = pruning.shrink(backbone, gates)
        dense = measured(small, 0.2)
        again = pruning.attach(small, seconds=0.2)
        assert (again.accounting.dense_params, again.accounting.dense_macs) == dense
        shuffle(again, seed=1)
        assert_counted(small, again, closed)


def test_unit_alone(backbone):
    for unit in pruning.UNITS:
        gates = pruning.attach(backbone, units=(unit,), seconds=0.2)
        shuffle(gates, seed=0)
        assert_counted(backbone, gates, unit)
        close(gates, "*")
        smallest = pruning.budget(backbone, gates, gates.kept())
        assert smallest.sparsity == gates.accounting.maximum("params"), unit
        assert smallest.macs_sparsity == gates.accounting.maximum("macs"), unit
        pruning.detach(backbone)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (("wav2vec2", "base"), {"conv_bias": True}),
        (("wav2vec2", "large"), {"num_conv_pos_embeddings": 15}),
        (("wavlm", "base"), {"do_stable_layer_norm": True}),
        (("wavlm", "large"), {"do_stable_layer_norm": False}),
        *((("hubert", style), {"feat_proj_layer_norm": False}) for style in ("base", "large")),
        *((("hubert", style), {"conv_pos_batch_norm": True}) for style in ("base", "large")),
        *((WHISPER, {"max_source_positions": positions}) for positions in (1, 4, 9)),
        (WHISPER, {"num_mel_bins": 128}),
    ],
)
def test_variant(changes, make_backbone):
    backbone = make_backbone(**changes)
    gates = pruning.attach(backbone, seconds=0.2)
    shuffle(gates, seed=0)
    assert_counted(backbone, gates)


def test_all_open_reads_zero(backbone):
    params, macs = measured(backbone, 0.2)
    gates = pruning.attach(backbone, seconds=0.2)
    budget = pruning.budget(backbone, gates, gates.plan.all_units())
    assert (budget.params, budget.macs) == (budget.dense_params, budget.dense_macs) == (params, macs)
    assert budget.sparsity == budget.macs_sparsity == 0
    assert all(isinstance(number, int) for number in (budget.params, budget.macs))
    for gate in gates.values():
        gate.log_alpha.data.fill_(40)
    expected = pruning.budget(backbone, gates)
    assert expected.sparsity.item() == pytest.approx(0, abs=1e-9)
    assert expected.macs_sparsity.item() == pytest.approx(0, abs=1e-9)


@representative_kinds
def test_expectation_is_the_mean_of_samples(backbone):
    gates = pruning.attach(backbone, seconds=0.2)
    shuffle(gates, seed=0)
    for gate in gates.values():
        gate.log_alpha.data.div_(2).sub_(1)  # a good share of heads, and of all heads of a layer, shut at times
    draws = []
    with torch.no_grad():
        for _ in range(600):
            gates.sample()
            counts = torch.tensor([int((gate.sampled > 0).sum()) for gate in gates.values()])
            exact = gates.accounting.exact(counts)
            draws.append((exact.sparsity, exact.macs_sparsity))
        expected = pruning.budget(backbone, gates)
    found = torch.tensor(draws, dtype=torch.float64)
    error = (found.mean(0) - torch.stack([expected.sparsity, expected.macs_sparsity])).abs()
    assert (error <= 4.5 * found.std(0) / len(draws) ** 0.5).all()


@representative_kinds
def test_gradients_of_the_expectation(backbone):
    gates = pruning.attach(backbone, seconds=0.2)
    shuffle(gates, seed=0)
    log_alpha = (gates.log_alpha().detach().double() / 2 - 1).requires_grad_()

    def sparsities(log_alpha):
        budget = gates.accounting.expected(open_probability(log_alpha), gates.slot_of)
        return budget.sparsity, budget.macs_sparsity

    torch.autograd.gradcheck(sparsities, (log_alpha,), eps=1e-5, atol=1e-9, rtol=1e-4)
    (gradient,) = torch.autograd.grad(sum(sparsities(log_alpha)), log_alpha)
    assert (gradient < 0).all(), "opening any unit makes the model larger"
    pruning.budget(backbone, gates).sparsity.backward()
    assert all(gate.log_alpha.grad is not None for gate in gates.values())


@both_constraints
def test_kept_meets_its_target(constraint, make_backbone, record):
    backbone = make_backbone(**MID_SIZE)
    gates = pruning.attach(backbone, seconds=0.25)  # of longer ones, attention without weights is most of the MACs
    shuffle(gates, seed=0)
    maximum = gates.accounting.maximum(constraint)
    found = []
    for target in (0, 0.02, 0.25, 0.5, 0.65, 0.8, maximum):
        if target > maximum:
            continue
        kept = gates.kept(target=target, constraint=constraint)
        found.append(gates.accounting.exact_kept(kept).removed(constraint))
        assert record(f"points off, {constraint}", 100 * abs(found[-1] - target)) <= 0.5
        assert all(len(kept[slot.name]) >= slot.at_least for slot in gates.plan.slots)
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == maximum


@representative_kinds
@pytest.mark.parametrize(
    ("align", "constraint"), [(1, "macs"), (3, "params"), (8, "macs"), (32, "params"), (100, "macs")]
)
def test_aligned_widths_meet_the_target(align, constraint, make_backbone):
    backbone = make_backbone(**MID_SIZE)
    gates = pruning.attach(backbone, seconds=0.25, align=align)
    shuffle(gates, seed=align)
    fine = [index for index, slot in enumerate(gates.plan.slots) if slot.unit in ("conv", "interm")]
    costs = [gates.accounting.unit_costs(constraint)[index] * gates.plan.slots[index].step for index in fine]
    dense = gates.accounting.dense_macs if constraint == "macs" else gates.accounting.dense_params
    for target in (0.1, 0.45):
        kept = gates.kept(target=target, constraint=constraint)
        off = abs(gates.accounting.exact_kept(kept).removed(constraint) - target)
        assert off <= max(costs) / dense / 2 + 1e-9
        assert_aligned(gates, kept, align)
    assert_aligned(gates, gates.kept(), align)


def assert_aligned(gates, kept, align):
    """Every width is a multiple, or as it was; no convolution is closed."""
    for slot in gates.plan.slots:
        count, width = len(kept[slot.name]), max(cut.block for cut in slot.cuts)
        assert count * width % align == 0 or count == slot.size, slot.name
        assert count or slot.unit != "conv", slot.name


@one_kind
def test_equal_gates_keep_whole_blocks(make_backbone):
    """Means of equal values differ in their last bit with the number of values: a short block is still the last."""
    gates = pruning.attach(make_backbone(**MID_SIZE), align=24)
    for target in (0.05, 0.2, 0.35, 0.5):
        assert_aligned(gates, gates.kept(target=target), 24)


@representative_kinds
@pytest.mark.parametrize("closed", ["*", "attlayer.*", "interm.*", "conv.*"])
def test_kept_meets_a_target_far_from_its_gates(closed, make_backbone, record):
    backbone = make_backbone(**MID_SIZE)
    gates = pruning.attach(backbone)
    spread(gates)
    close(gates, closed)
    for target in (0.05, 0.7):
        exact = pruning.budget(backbone, gates, gates.kept(target=target)).sparsity
        assert record("points off, params", 100 * abs(exact - target)) <= 0.5


@representative_kinds
def test_kept_prefers_the_gates_that_are_most_open(make_backbone):
    gates = pruning.attach(make_backbone(**MID_SIZE))
    shuffle(gates, seed=0)
    for name, units in gates.kept(target=0.5).items():
        log_alpha, closed = gates[name].log_alpha, sorted(set(range(gates[name].slot.size)) - set(units))
        if units and closed:
            assert log_alpha[list(units)].min() >= log_alpha[closed].max()


@one_kind
@both_constraints
@pytest.mark.parametrize("units", [("interm",), ("head", "attlayer"), pruning.UNITS], ids=" ".join)
def test_a_target_out_of_reach_is_refused(constraint, units, backbone):
    gates = pruning.attach(backbone, units=units)
    maximum = gates.accounting.maximum(constraint)
    gates.kept(target=maximum, constraint=constraint)
    for target in (maximum + 1e-3, 1.5, -0.1):
        with pytest.raises(PlanError, match=rf"{target:g} of the {constraint} .*{units[0]}.* {maximum:.4f}"):
            gates.kept(target=target, constraint=constraint)
        with pytest.raises(PlanError, match="maximum"):
            pruning.check_target(gates.accounting, target, constraint)


@one_kind
def test_an_alignment_below_1_and_gates_of_another_model_are_refused(backbone):
    with pytest.raises(PlanError, match="align 0: expected"):
        pruning.attach(backbone, align=0)
    gates = pruning.attach(backbone)
    close(gates, "*")
    with pytest.raises(PlanError, match="gated model"):
        pruning.budget(pruning.shrink(backbone, gates), gates)


def test_an_utterance_shorter_than_a_frame_is_refused(backbone):
    with pytest.raises(PlanError, match="shorter than one frame"):
        pruning.attach(backbone, seconds=(backbone.minimum_samples - 1) / 16_000)
    pruning.attach(backbone, seconds=backbone.minimum_samples / 16_000)


def account(step=1, at_least=0, **slots):
    """Return the accounting of one tensor a slot, (units, parameters of each); `at_least` is the last slot's."""
    model = nn.Module()
    for name, shape in slots.items():
        model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    cuts = {name: (Cut(name, 0, Role.SCALE),) for name in slots}
    least = dict.fromkeys(slots, 0) | {[*slots][-1]: at_least}
    made = (Slot(name, "unit", slots[name][0], cuts[name], at_least=least[name], step=step) for name in slots)
    return Accounting(model, Plan(tuple(made)))


@pytest.mark.parametrize(
    ("own", "heavy", "light"),
    [((0, 1), (0, 1), 300), ((0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5), 0), ((), (5,), 400)],
    ids=["own choice", "nearest below", "nearest above"],
)
def test_heavy_units_stay_as_near_as_possible_to_their_gates(own, heavy, light):
    """Half of 6 x 100 and 400 x 1 parameters goes; the light units with the highest scores make up the rest."""
    scores = {"heavy": torch.arange(6), "light": torch.arange(400)}
    found = meet_target(account(heavy=(6, 100), light=(400, 1)), {"heavy": own, "light": ()}, scores, 0.5, "params")
    assert found == {"heavy": heavy, "light": tuple(range(400 - light, 400))}


def test_another_choice_of_heavy_units_is_taken_where_the_own_one_misses_the_target():
    """Of 3 x 1150 and 20 x 100 parameters 1150 go, which no number of light units weighs."""
    rounded, scores = {"heavy": (0, 1, 2), "light": ()}, {"heavy": torch.arange(3), "light": torch.arange(20)}
    found = meet_target(account(heavy=(3, 1150), light=(20, 100)), rounded, scores, 1150 / 5450, "params")
    assert found == {"heavy": (1, 2), "light": tuple(range(20))}


def test_a_short_block_is_a_block_and_the_last_of_equal_ones():
    """Slots of 5 units in steps of 2: one block less than all goes, the lowest, of one unit."""
    every = tuple(range(5))
    scores = {name: 10 * place - torch.arange(5) for place, name in enumerate("abc")} | {"light": torch.arange(1500)}
    accounting = account(2, a=(5, 100), b=(5, 100), c=(5, 100), light=(1500, 1))
    found = meet_target(accounting, dict.fromkeys("abc", every) | {"light": ()}, scores, 1550 / 3000, "params")
    assert found == {"a": (0, 1, 2, 3), "b": every, "c": every, "light": tuple(range(1450, 1500))}
    scores = {"a": torch.full((8,), -0.1, dtype=torch.float64)}
    assert scores["a"][:3].mean() < scores["a"][:2].mean()
    assert meet_target(account(3, a=(8, 1)), {"a": ()}, scores, 0.25, "params") == {"a": (0, 1, 2, 3, 4, 5)}


@pytest.mark.parametrize(("heavy", "open_heavy"), [(50.0, [5]), (800.0, [4, 5]), (5000.0, [4, 5])])
def test_a_heavy_unit_across_the_cut_is_kept_where_it_is_worth_more_than_light_ones(
    heavy: float, open_heavy: list[int]
):
    """Of 6 x 100 and 400 x 1 parameters 250 stay: with the second heavy unit 50 light ones, or 150 without it.

    The first is worth 10,000; light ones 10 each for the first 100, then 0.1, so that the cut lies across the second.
    """
    accounting = account(heavy=(6, 100), light=(400, 1))
    importance = {
        "heavy": torch.tensor([1e-3, 1e-3, 1e-3, 1e-3, heavy, 1e4]).log(),
        "light": torch.cat([torch.full((300,), 0.1), torch.full((100,), 10.0)]).log(),
    }
    chosen = rank_units(accounting, importance, 0.75, "params")
    kept = {name: mask.nonzero().flatten().tolist() for name, mask in chosen.items()}
    assert kept["heavy"] == open_heavy
    assert kept["light"] == ([*range(50), *range(300, 400)] if open_heavy == [5] else [*range(300, 350)])


@pytest.mark.parametrize(
    ("target", "step", "least"), [(0.5, 1, 20), (0.5, 8, 24), (0.9, 1, 20), (0.98, 1, 20), (0.999, 1, 1)]
)
def test_of_a_slot_that_nothing_bypasses_a_twentieth_is_kept_where_the_target_allows(
    target: float, step: int, least: int
):
    """Its units are the least important of all; of 4 x 100, 200 x 1 and 400 x 1 parameters."""
    accounting = account(step, 1, heavy=(4, 100), light=(200, 1), serial=(400, 1))
    importance = {"heavy": torch.arange(4.0) + 50, "light": torch.zeros(200), "serial": torch.linspace(-60, -50, 400)}
    chosen = rank_units(accounting, importance, target, "params")
    size = {name: int(mask.sum()) for name, mask in chosen.items()}
    assert size["serial"] == least
    assert chosen["serial"][-least:].all(), "the most important"
    removed = 1 - (100 * size["heavy"] + size["light"] + size["serial"]) / 1000
    assert removed == pytest.approx(target, abs=step / 1000)


def test_a_heavy_unit_for_which_all_light_ones_are_too_few_is_no_choice():
    """Of 3 x 100 and 40 x 1 parameters 150 stay: two heavy ones are too many, one with all light ones is nearest."""
    importance = {"heavy": torch.tensor([9.0, 8.0, 1.0]), "light": torch.full((40,), 3.0)}
    chosen = rank_units(account(heavy=(3, 100), light=(40, 1)), importance, 190 / 340, "params")
    assert (int(chosen["heavy"].sum()), int(chosen["light"].sum())) == (1, 40)


@pytest.mark.parametrize("target", [0.0, 0.13, 0.5, 0.777, 1.0])
@pytest.mark.parametrize("step", [1, 3])
def test_units_are_ranked_by_importance_over_cost_and_cut_by_exact_count(target: float, step: int) -> None:
    generator = torch.Generator().manual_seed(0)
    accounting = account(step, heavy=(6, 100), light=(400, 1), other=(40, 5))
    importance = {slot.name: torch.randn(slot.size, generator=generator) for slot in accounting.plan.slots}
    chosen = rank_units(accounting, importance, target, "params")
    kept = {name: tuple(mask.nonzero().flatten().tolist()) for name, mask in chosen.items()}
    assert abs(accounting.exact_kept(kept).sparsity - target) <= step * 5 / 1200 + 1e-9
    costs = {"heavy": 100, "light": 1, "other": 5}
    values = {name: importance[name] - math.log(costs[name]) for name in costs}
    for name, units in kept.items():
        closed = sorted(set(range(len(values[name]))) - {*units})
        if units and closed and step == 1:
            assert min(values[name][list(units)]) >= max(values[name][closed]), "the least of a slot go first"
    if step == 1 and 0 < target < 1:  # across slots the order is the same, but for what makes room for a heavy unit
        open_heavy = [float(values["heavy"][unit]) for unit in kept["heavy"]]
        closed_light = [float(values["light"][unit]) for unit in set(range(400)) - {*kept["light"]}]
        displaced = sum(value > min(open_heavy, default=math.inf) for value in closed_light)
        assert displaced <= 100
